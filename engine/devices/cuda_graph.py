"""A CUDA graph, by torch."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch


class CudaGraph:
    """See :class:`engine.devices.runtime.Graph`.

    Begin and end need not be in one block of code: the experts' function ends one and begins the
    next in the middle of a model's forward pass.
    """

    def __init__(self, stream: torch.cuda.Stream, pool: Any = None) -> None:
        self.pool = torch.cuda.graph_pool_handle() if pool is None else pool
        """Memory of recordings that are replayed in the order in which they were made."""
        self._graph = torch.cuda.CUDAGraph()
        self._stream = stream
        self._before: torch.cuda.Stream | None = None
        """torch's stream, while it is recorded."""

    def begin(self) -> None:
        """cudaStreamBeginCapture. Other threads' calls do not end it."""
        self._before = torch.cuda.current_stream(self._stream.device)
        torch.cuda.set_stream(self._stream)
        self._graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")

    def end(self) -> None:
        """cudaStreamEndCapture, and cudaGraphInstantiate."""
        try:
            self._graph.capture_end()
        finally:
            self._back()

    def abandon(self) -> None:
        """cudaStreamEndCapture of what CUDA has declared invalid: that it says so is expected."""
        if self._before is not None:
            with suppress(RuntimeError):
                self._graph.capture_end()
            self._back()

    def _back(self) -> None:
        before, self._before = self._before, None
        assert before is not None
        torch.cuda.set_stream(before)

    def replay(self) -> None:
        """cudaGraphLaunch."""
        self._graph.replay()
