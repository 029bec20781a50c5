"""The seam between our device code and a GPU's runtime: streams, events, copies, memory.

Everything that only a machine with a GPU can do goes through here, so that the rest runs and is
tested without one (the fake is ``tests/engine/fake_runtime.py``).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Stream = Any
"""Work in the order given; streams run side by side. What it is, only the runtime knows."""
Event = Any
"""A place in a stream's work, with its time once it is reached."""


@dataclass(frozen=True)
class DeviceMemory:
    """A card's memory now, in bytes."""

    total: int
    free: int
    """What nobody uses, in this process or another."""
    reserved: int
    """Held by this process's allocator, whether tensors are in it or not."""
    peak_reserved: int
    """The most it ever held since :meth:`Runtime.reset_peak`."""


class Graph(Protocol):
    """Work of a stream that is recorded, to be given to the device again and again as one."""

    def begin(self) -> None:
        """From now on this thread's work for the device is recorded, and not done.

        Memory that it takes stays its own. What makes the host wait for the device raises
        RuntimeError.
        """
        ...

    def end(self) -> None:
        """The recording is complete, and torch's stream is the one of before."""
        ...

    def abandon(self) -> None:
        """End a recording that went wrong, also one that has not begun or has ended."""
        ...

    def replay(self) -> None:
        """Give the work to torch's current stream."""
        ...


class Runtime(Protocol):
    """A GPU's runtime, one device of it."""

    device: torch.device
    """Where its tensors live."""
    name: str
    """The card's name."""
    others: tuple[str, ...]
    """Names of the cards that are there and not used."""
    host_waits: int
    """How often the host has waited for the device, in all."""

    def current(self) -> Stream:
        """The stream that torch gives its work to in this thread."""
        ...

    def stream(self) -> Stream:
        """A new stream, which waits for no other one unless told so."""
        ...

    def record(self, stream: Stream) -> Event:
        """Mark the end of what the stream was given so far."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What the stream is given from now on waits for the event; the host goes on."""
        ...

    def host_wait(self, event: Event) -> None:
        """The host waits for the event. Counted."""
        ...

    def done(self, event: Event) -> bool:
        """Whether the event has been reached; never waits."""
        ...

    def elapsed_ns(self, first: Event, second: Event) -> int:
        """From one reached event to another; negative where the second came first."""
        ...

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Copy on a stream, between host and device; the host goes on.

        Neither may be freed or written to, nor ``target`` read, before it is through.
        """
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """Within it torch's choices of kernels suit steps whose lengths change."""
        ...

    def use(self, stream: Stream) -> AbstractContextManager[Any]:
        """Within it torch gives its work to this stream."""
        ...

    def graph(self, stream: Stream, first: Graph | None) -> Graph:
        """A graph to be recorded on a stream of its own, not torch's usual one.

        It shares memory with ``first``, which is always replayed before it.
        """
        ...

    def pin(self, address: int, n_bytes: int) -> int:
        """Let the device copy straight from host memory where it is; 0, or the error's number."""
        ...

    def unpin(self, address: int) -> None:
        """Undo :meth:`pin`, of memory that no copy reads any more."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Fresh host memory that is pinned."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Fresh device memory. Raises torch.OutOfMemoryError."""
        ...

    def release(self) -> None:
        """Give freed memory that the allocator keeps back to the card; waits for the device."""
        ...

    def limit(self, n_bytes: int) -> None:
        """From now on the allocator holds at most so much, and raises rather than exceed it."""
        ...

    def memory(self) -> DeviceMemory:
        """The card's memory now."""
        ...

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        ...

    def groups(self, dtype: torch.dtype) -> bool:
        """Whether one call multiplies groups of rows by matrices of their own without a wait."""
        ...
