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
        except RuntimeError:
            self._back()
            self._clear()
            raise
        self._back()

    def abandon(self) -> None:
        """cudaStreamEndCapture of what CUDA has declared invalid: that it says so is expected."""
        if self._before is not None:
            with suppress(RuntimeError):
                self._graph.capture_end()
            self._back()
            self._clear()

    def _clear(self) -> None:
        """Make torch's memory and random numbers usable again after a recording that failed.

        torch before 2.13 leaves its pool taking what is allocated, so that nothing cached is given
        back, and its generator refusing to draw, until another recording ends well.
        """
        device = self._stream.device
        with suppress(RuntimeError, AttributeError):  # newer ones have ended it themselves
            torch._C._cuda_endAllocateToPool(device.index, self.pool)
        with suppress(RuntimeError), torch.cuda.device(device):
            nothing = torch.cuda.CUDAGraph()
            with torch.cuda.graph(nothing, stream=self._stream, capture_error_mode="thread_local"):
                torch.zeros(1, device=device)

    def _back(self) -> None:
        before, self._before = self._before, None
        assert before is not None
        torch.cuda.set_stream(before)

    def replay(self) -> None:
        """cudaGraphLaunch."""
        self._graph.replay()
