"""A bounded pool of expert-sized buffers: the real memory behind a plan's residents."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import DeviceError
from engine.store import ExpertWeights
from engine.timeline import STAGING_BUFFERS


class Arena:
    """Buffers for resident experts, at most ``slots`` of them, and two for staging.

    This is the second ledger: where the plan counts another model's bytes (``as_model``), the
    arena still holds the real ones, ``used_bytes`` of at most ``capacity_bytes``.
    """

    def __init__(self, new: Callable[[], ExpertWeights]) -> None:
        self._new = new
        self._held: dict[int, ExpertWeights] = {}
        self._spare: list[ExpertWeights] = []
        self._staging = [new() for _ in range(STAGING_BUFFERS)]
        self._turn = 0
        self.slots = 0
        self.slot_bytes = self._staging[0].n_bytes

    def __repr__(self) -> str:
        return f"Arena({len(self._held)} of {self.slots} slots)"

    @property
    def capacity_bytes(self) -> int:
        """Bytes the arena may hold, staging included."""
        return (self.slots + STAGING_BUFFERS) * self.slot_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes allocated now, staging and spare buffers included."""
        buffers = len(self._held) + len(self._spare) + STAGING_BUFFERS
        return buffers * self.slot_bytes

    def resize(self, slots: int) -> None:
        """Allow so many resident experts; buffers beyond that are freed."""
        if slots < len(self._held):
            raise DeviceError(f"{len(self._held)} experts are resident, more than {slots} slots")
        self.slots = slots
        del self._spare[max(slots - len(self._held), 0) :]

    def put(self, flat: int, weights: ExpertWeights) -> None:
        """Copy an expert into a free slot."""
        if len(self._held) >= self.slots:
            raise DeviceError(f"all {self.slots} slots are taken: drop an expert first")
        slot = self._spare.pop() if self._spare else self._new()
        slot.copy_(weights)
        self._held[flat] = slot

    def drop(self, flat: int) -> None:
        """Free an expert's slot (its buffer is kept for the next one)."""
        self._spare.append(self._held.pop(flat))

    def stage(self, weights: ExpertWeights) -> ExpertWeights:
        """Copy an expert into the next staging buffer."""
        buffer = self._staging[self._turn]
        self._turn = (self._turn + 1) % STAGING_BUFFERS
        buffer.copy_(weights)
        return buffer

    def get(self, flat: int) -> ExpertWeights:
        """The slot that holds an expert."""
        return self._held[flat]

    def close(self) -> None:
        """Free every buffer. No expert may be put or staged any more."""
        self._held, self._spare, self._staging = {}, [], []
        self.slots = 0
        del self._new  # it knows the store's tensors

    def held(self) -> set[int]:
        """Flat indices of the resident experts."""
        return set(self._held)
