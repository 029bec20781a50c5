"""Activations on their way: small pinned buffers, one for what goes to the host, one for the way
back, kept from layer to layer and from step to step.

One buffer each way is enough. What goes to the host is waited for before it is read, and the host
reads it before the next layer begins; what comes back is read by the device before the next layer's
choices, which the host waits for, are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.devices.runtime import Event, Runtime, Stream


@dataclass(frozen=True)
class Seen:
    """What the host knows of one layer's input."""

    hidden: Tensor
    """``(T, H)``, on the host; valid until the next layer is looked at."""
    chosen: NDArray[np.int64]
    """``(T, K)``; its own memory."""
    routed: NDArray[np.float32]
    """``(T, K)``; its own memory."""
    foreseen: NDArray[np.int64] | None
    """``(T, K)``: what the next layer is predicted to choose."""
    span: tuple[Event, Event]
    """Begin and end of the copies."""


class Crossing:
    """Moves a layer's activations between device and host."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.to_host = runtime.stream()
        self.to_device = runtime.stream()
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._under_way: tuple[dict[str, Tensor], tuple[Event, Event], dict[str, Tensor]]
        """Where a layer's input goes, the copies' begin and end, and what is copied."""

    def __repr__(self) -> str:
        kept = sum(buffer.nbytes for buffer in self._buffers.values())
        return f"Crossing({kept} bytes of buffers)"

    def close(self) -> None:
        """Free the buffers. No copy may be under way or follow."""
        self._buffers = {}
        self.__dict__.pop("_under_way", None)

    def look(
        self, hidden: Tensor, index: Tensor, weights: Tensor, foreseen: Tensor | None
    ) -> Event:
        """Begin to copy a layer's input to the host; returns when it was ready on the device.

        ``hidden`` is ``(T, H)``, the others ``(T, K)``. :meth:`seen` waits for it.
        """
        runtime, stream = self.runtime, self.to_host
        given = {"index": index, "weights": weights, "hidden": hidden}
        if foreseen is not None:
            given["foreseen"] = foreseen
        given = {name: tensor.contiguous() for name, tensor in given.items()}
        ready = runtime.record(runtime.current())  # what made them contiguous comes before it
        runtime.wait(stream, ready)
        begin = runtime.record(stream)
        targets: dict[str, Tensor] = {}
        for name, tensor in given.items():
            targets[name] = self._host(name, tensor.shape, tensor.dtype)
            runtime.copy(targets[name], tensor, stream)
        self._under_way = targets, (begin, runtime.record(stream)), given
        return ready

    def seen(self) -> Seen:
        """Wait for :meth:`look`: the one wait of a layer."""
        targets, span, _ = self._under_way
        self.runtime.host_wait(span[1])
        foreseen = targets.get("foreseen")
        return Seen(
            targets["hidden"],
            targets["index"].to(torch.int64).numpy().copy(),
            targets["weights"].to(torch.float32).numpy().copy(),
            None if foreseen is None else foreseen.to(torch.int64).numpy().copy(),
            span,
        )

    def back(self, result: Tensor, dtype: torch.dtype) -> tuple[Tensor, Event, Event]:
        """Begin to copy the CPU's result ``(T, H)`` to the device; its place there, begin, end.

        It crosses as ``dtype``.
        """
        runtime, stream = self.runtime, self.to_device
        pinned = self._host("back", result.shape, dtype)
        pinned.copy_(result)
        before = self._buffers.get(("back, device", dtype))
        target = self._device("back", result.shape, dtype)
        if self._buffers["back, device", dtype] is not before:
            # its memory may be what work that is not through has just been freed of
            runtime.wait(stream, runtime.record(runtime.current()))
        begin = runtime.record(stream)
        runtime.copy(target, pinned, stream)
        return target, begin, runtime.record(stream)

    def table(self, values: NDArray[np.int64], stream: Stream) -> Tensor:
        """Integers ``(n,)`` on the device, for what ``stream`` is given next."""
        shape = torch.Size(values.shape)
        pinned = self._host("table", shape, torch.int64)
        pinned.copy_(torch.from_numpy(values))
        target = self._device("table", shape, torch.int64)
        self.runtime.copy(target, pinned, stream)
        return target

    def _host(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return self._kept(f"{name}, host", shape, dtype, self.runtime.pinned)

    def _device(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return self._kept(f"{name}, device", shape, dtype, self.runtime.empty)

    def _kept(
        self,
        name: str,
        shape: torch.Size,
        dtype: torch.dtype,
        make: Callable[[tuple[int, ...], torch.dtype], Tensor],
    ) -> Tensor:
        """The first numbers of a buffer that grows to the next power of two."""
        count = max(shape.numel(), 1)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < count:
            with torch.inference_mode(False):  # else it could be written in that mode alone
                buffer = make((1 << (count - 1).bit_length(),), dtype)
            self._buffers[name, dtype] = buffer
        return buffer[: shape.numel()].view(shape)
