"""Expert slots on a device: one block of memory, and what each slot waits for.

A copy into a slot and the work that reads it run on streams of their own, so each slot knows two
events: when its content has arrived, and when what read it last is through. Who copies into it
waits for both, who computes from it for the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.devices.pinned import PinnedWeights
from engine.devices.runtime import Event, Runtime, Stream
from engine.errors import DeviceError
from engine.store import ExpertWeights
from engine.timeline import STAGING_BUFFERS

_NONE = -STAGING_BUFFERS


class SlotArena:
    """``slots`` places for experts that stay and two for staging, in one tensor for each part.

    Staging comes first. One tensor lets one grouped call read many slots. Another number of slots
    is another block: the old one is freed before, so the budget holds throughout, and what was in
    it has to be put again.
    """

    def __init__(self, runtime: Runtime, like: ExpertWeights, host: PinnedWeights) -> None:
        self.runtime = runtime
        self.like = like
        self.host = host
        self.slot_bytes = like.n_bytes
        self.slots = _NONE
        self.block: ExpertWeights | None = None
        """All slots: of each part ``(staging + slots, ...)``."""
        self._views: list[ExpertWeights] = []
        self._place: dict[int, int] = {}
        """By expert: its slot. Nothing else tells what is free, so an interrupt loses no slot."""
        self._arrived: list[Event | None] = []
        self._read: list[Event | None] = []
        self._turn = 0
        self._allocate(0)

    def __repr__(self) -> str:
        return f"SlotArena({len(self._place)} of {self.slots} slots)"

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the block, staging included."""
        return (self.slots + STAGING_BUFFERS) * self.slot_bytes

    used_bytes = capacity_bytes
    """The block is there as a whole."""

    def resize(self, slots: int) -> None:
        """Another block for so many experts, empty; nothing happens where the number is the same.

        Raises torch.OutOfMemoryError, with the block of before in place again, empty.
        """
        if slots == self.slots:
            return
        before = max(self.slots, 0)
        try:
            self._allocate(slots)
        except torch.OutOfMemoryError:
            self._allocate(before)
            raise

    def _allocate(self, slots: int) -> None:
        many = slots + STAGING_BUFFERS
        self.slots = _NONE  # until the block is there: an interrupt leaves it so
        self._place, self._views = {}, []
        if self.block is not None:
            self.block = None
            self.runtime.release()  # waits: what reads or writes the old block is through
        parts = (
            None if part is None else self.runtime.empty((many, *part.shape), part.dtype)
            for part in self.like
        )
        self.block = ExpertWeights(*parts)
        self._views = [
            ExpertWeights(*(None if part is None else part[at] for part in self.block))
            for at in range(many)
        ]
        self._arrived, self._read = [None] * many, [None] * many
        self.slots = slots  # last

    def close(self) -> None:
        """Free the block; what reads or writes it has to be through."""
        self.block, self._place, self._views = None, {}, []
        self._arrived, self._read = [], []
        self.slots = _NONE
        del self.like  # the store's tensors

    def put(
        self, flat: int, weights: ExpertWeights, stream: Stream, piece_bytes: int | None = None
    ) -> tuple[Event, Event]:
        """Copy an expert into a free slot; returns the copy's begin and end. ``piece_bytes``: see
        :meth:`~engine.devices.pinned.PinnedWeights.copy`."""
        if flat in self._place:
            raise DeviceError(f"expert {flat} is on the device already")
        taken = set(self._place.values())
        every = range(STAGING_BUFFERS, STAGING_BUFFERS + self.slots)
        slot = next((slot for slot in every if slot not in taken), None)
        if slot is None:
            raise DeviceError(f"all {self.slots} slots are taken: drop an expert first")
        events = self._copy(slot, weights, stream, piece_bytes)
        self._place[flat] = slot  # last: an interrupt before it leaves the slot free
        return events

    def stage(self, weights: ExpertWeights, stream: Stream) -> tuple[int, Event, Event]:
        """Copy an expert into the staging buffer whose turn it is; its slot, begin and end."""
        slot, self._turn = self._turn, (self._turn + 1) % STAGING_BUFFERS
        return slot, *self._copy(slot, weights, stream)

    def _copy(
        self, slot: int, weights: ExpertWeights, stream: Stream, piece_bytes: int | None = None
    ) -> tuple[Event, Event]:
        runtime = self.runtime
        for event in (self._arrived[slot], self._read[slot]):
            if event is not None:
                runtime.wait(stream, event)
        self._read[slot] = None
        begin = runtime.record(stream)
        self.host.copy(self._views[slot], weights, stream, piece_bytes)
        end = self._arrived[slot] = runtime.record(stream)
        return begin, end

    def drop(self, flat: int) -> None:
        """Give an expert's slot up."""
        del self._place[flat]

    def slot_of(self, flat: int) -> int:
        """Where a resident expert is; raises DeviceError where it is not."""
        if flat not in self._place:
            raise DeviceError(f"expert {flat} is not resident on the device")
        return self._place[flat]

    def view(self, slot: int) -> ExpertWeights:
        """A slot's weights. Only after :meth:`arrive`."""
        return self._views[slot]

    def arrive(self, slots: Sequence[int], stream: Stream) -> None:
        """What the stream is given from now on finds these slots' content there."""
        for slot in slots:
            event = self._arrived[slot]
            if event is not None:
                self.runtime.wait(stream, event)

    def were_read(self, slots: Sequence[int], event: Event) -> None:
        """Until ``event`` these slots are read."""
        for slot in slots:
            self._read[slot] = event

    def held(self) -> set[int]:
        """Flat indices of the resident experts."""
        return set(self._place)
