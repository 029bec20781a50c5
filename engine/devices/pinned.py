"""Expert weights in pinned host memory: where they are, or by way of small pinned buffers.

A GPU copies at the link's full rate, and beside other work, only from memory that the system may
not move. The store's tensors are registered in place, whole experts at a time in chunks of at most
a gigabyte (a copy must not cross from one registration into another). Where the system refuses, a
copy goes through a pinned buffer of one expert's size: slower, for the host copies first, and says
so.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from mmap import PAGESIZE

from torch import Tensor

from engine.devices.runtime import Event, Runtime, Stream
from engine.store import ExpertStore, ExpertWeights
from engine.units import format_bytes

CHUNK_BYTES = 1 << 30
_BUFFERS = 2
ALREADY = 712
"""cudaErrorHostMemoryAlreadyRegistered."""
_REFUSALS = 3
"""After so many in a row nothing more is tried: each can take the system long."""


class PinnedWeights:
    """A store's experts as sources of copies. ``close`` unpins them."""

    def __init__(self, runtime: Runtime, store: ExpertStore, most_bytes: int | None = None) -> None:
        self.runtime = runtime
        self.total_bytes = store.n_bytes
        self.pinned_bytes = 0
        self.error = 0
        """The runtime's number for why it refused; 0 where it did not."""
        self._refused = 0
        self._most = store.n_bytes if most_bytes is None else most_bytes
        self._addresses: list[int] = []
        """Where each pinned chunk begins."""
        self._like = store.weights(0, 0)
        self._buffers: list[ExpertWeights] = []
        self._busy: list[Event | None] = [None] * _BUFFERS
        self._turn = 0
        self._loose: set[int] = set()
        """Addresses of experts' parts that are not pinned."""
        for layer in range(len(store)):
            for part in store.fused(layer).parts:
                self._pin(part)
        kept = [store.fused(layer) for layer in range(len(store))]  # not freed while registered
        self._closer = weakref.finalize(self, _unpin, runtime, self._addresses, kept)
        self._closer.atexit = False  # a process that ends unpins by itself

    def __repr__(self) -> str:
        share = f"{format_bytes(self.pinned_bytes)} of {format_bytes(self.total_bytes)}"
        return f"PinnedWeights({share})"

    @property
    def note(self) -> str:
        """What to tell people where not all is pinned; empty where it is."""
        if not self._loose:
            return ""
        why = f"the driver's error {self.error}" if self.error else "the limit asked for"
        return (
            f"{format_bytes(self.pinned_bytes)} of {format_bytes(self.total_bytes)} of expert "
            f"weights are pinned ({why}); the rest is copied through a buffer, at the rate of "
            "ordinary memory. Free host memory, or raise the container's limit on locked memory"
        )

    def close(self) -> None:
        """Unpin, and let the weights go. No copy may be under way or follow."""
        self._closer()
        self._buffers = []
        if hasattr(self, "_like"):
            del self._like  # the store's tensors

    def copy(
        self,
        target: ExpertWeights,
        source: ExpertWeights,
        stream: Stream,
        piece_bytes: int | None = None,
    ) -> None:
        """Copy an expert to the device on a stream; the host waits only for a buffer, if at all.

        ``piece_bytes``: in pieces of about so much, between which other streams' copies have their
        turn: the device has one engine for each direction.
        """
        loose = any(part.data_ptr() in self._loose for part in source.parts)
        given = self._buffered(source) if loose else source
        for mine, theirs in zip(target.parts, given.parts, strict=True):
            for to, of in _pieces(mine, theirs, piece_bytes):
                self.runtime.copy(to, of, stream)
        if loose:
            self._busy[self._turn] = self.runtime.record(stream)
            self._turn = (self._turn + 1) % _BUFFERS

    def _buffered(self, source: ExpertWeights) -> ExpertWeights:
        """In a pinned buffer that no copy reads any more."""
        busy = self._busy[self._turn]
        if busy is not None:
            self.runtime.host_wait(busy)
        while len(self._buffers) <= self._turn:
            made = (
                None if part is None else self.runtime.pinned(tuple(part.shape), part.dtype)
                for part in self._like
            )
            self._buffers.append(ExpertWeights(*made))
        self._buffers[self._turn].copy_(source)
        return self._buffers[self._turn]

    def _pin(self, fused: Tensor) -> None:
        """Pin a tensor of all of a layer's experts, ``(E, ...)``, in chunks."""
        each = fused[0].numel() * fused.element_size()
        at_once = max(CHUNK_BYTES // max(each, 1), 1)
        if each % PAGESIZE or fused.data_ptr() % PAGESIZE:
            at_once = len(fused)  # chunks that share a page cannot both be registered
        for first in range(0, len(fused), at_once):
            part = fused[first : first + at_once]
            size, address = part.numel() * part.element_size(), part.data_ptr()
            pinned = self._refused < _REFUSALS and self.pinned_bytes + size <= self._most
            if pinned:
                code = self.runtime.pin(address, size)
                if code not in (0, ALREADY):
                    self.error = code
                self._refused = self._refused + 1 if code else 0
                pinned = code == 0
            if pinned:
                self._addresses.append(address)
                self.pinned_bytes += size
            else:
                self._loose.update(expert.data_ptr() for expert in part)


def _pieces(
    target: Tensor, source: Tensor, piece_bytes: int | None
) -> Iterable[tuple[Tensor, Tensor]]:
    if piece_bytes is None or source.nbytes <= piece_bytes:
        return [(target, source)]
    many = piece_bytes // source.element_size()
    return zip(target.view(-1).split(many), source.view(-1).split(many), strict=True)


def _unpin(runtime: Runtime, addresses: list[int], _: list[ExpertWeights]) -> None:
    while addresses:
        runtime.unpin(addresses.pop())
