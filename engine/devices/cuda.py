"""A GPU beside the host: dense part and resident experts there, the long tail here, at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from engine.cost import CostModel
from engine.devices.crossing import Crossing
from engine.devices.pinned import PinnedWeights
from engine.devices.reserve import Peak, Reserve
from engine.devices.runtime import Event, Runtime
from engine.devices.slots import SlotArena
from engine.devices.stream_pace import Begun, StreamPace
from engine.errors import BudgetError, DeviceError
from engine.events import Clock
from engine.store import ExpertStore, ExpertWeights
from engine.units import format_bytes

PIECE_BYTES = 32 << 20
"""What is fetched early is copied in such pieces: about a millisecond that others wait for it."""


class CudaDevice:
    """Drives a GPU by streams: see :mod:`engine.stream_executor` for what runs when.

    Streams: torch's own computes; ``weights`` copies experts that are needed now, ``ahead`` those
    fetched early; two more carry activations (:class:`~engine.devices.crossing.Crossing`).
    """

    name = "cuda"
    clock = Clock.MEASURED
    concurrent = True
    offloads = True
    on_streams = True

    def __init__(
        self, store: ExpertStore, runtime: Runtime, reserve_bytes: int | None = None
    ) -> None:
        self.runtime = runtime
        self.columns = store.experts
        runtime.limit(runtime.memory().total)  # an engine before this one may have left less
        runtime.release()
        self.before_bytes = runtime.memory().reserved
        """What engines before this one hold: torch has one allocator for a process."""
        self.reserve = Reserve.of(runtime, reserve_bytes)
        self.host = PinnedWeights(runtime, store)
        self.crossing = Crossing(runtime)
        self.arena = SlotArena(runtime, store.weights(0, 0), self.host)
        self.card_bytes = runtime.memory().total
        self._weights, self._ahead = runtime.stream(), runtime.stream()
        self._pace: StreamPace | None = None
        self.told: list[Callable[[], str | None]] = []
        """What more there is to know, of what is built on it; None: nothing."""

    def __repr__(self) -> str:
        return f"CudaDevice({self.runtime.device}: {self.runtime.name}, {self.arena!r})"

    @property
    def reserve_bytes(self) -> int:
        """What a budget has to hold besides what a plan counts."""
        return self.reserve.n_bytes

    @property
    def in_turn(self) -> bool:
        """Whether the plan in force is of a system that does one thing after the other."""
        return self._pace is not None and not self._pace.costs.overlap

    @property
    def usable_bytes(self) -> int:
        """What a budget can be at most, beside what others use of the card."""
        memory = self.runtime.memory()
        return min(memory.free + memory.reserved + self.reserve.outside_bytes, memory.total)

    @property
    def notes(self) -> list[str]:
        """What people should know of how it runs."""
        found = [f"runs on {self.runtime.device}, {self.runtime.name}", str(self.reserve)]
        if self.runtime.others:
            found.append(f"one GPU is used; not used: {', '.join(self.runtime.others)}")
        found += [self.host.note] if self.host.note else []
        return found + [note for note in (told() for told in self.told) if note is not None]

    # ------------------------------------------------------------------ room

    def check_budget(self, budget_bytes: int) -> None:
        """Raise BudgetError above the card's memory."""
        if budget_bytes > self.card_bytes:
            raise BudgetError(
                f"gpu_memory: {format_bytes(budget_bytes)} are more than the card's "
                f"{format_bytes(self.card_bytes)} ({self.runtime.name}): a measured device cannot "
                "plan more than there is; use device='virtual' for a what-if"
            )

    def limit(self, budget_bytes: int) -> None:
        """Hold torch's allocator to the budget, and what it held when this device was opened."""
        self.check_budget(budget_bytes)
        self.runtime.limit(budget_bytes - self.reserve.outside_bytes + self.before_bytes)

    def resize(self, slots: int) -> None:
        """Another number of slots; they are empty afterwards.

        Raises DeviceError while more experts are there, or where the card has no room: then the
        slots are as many as before, and empty.
        """
        held = len(self.arena.held())
        if slots < held:
            raise DeviceError(f"{held} experts are resident, more than {slots} slots")
        try:
            self.arena.resize(slots)
        except torch.OutOfMemoryError as error:
            need = slots * self.arena.slot_bytes
            raise DeviceError(
                f"the GPU has no room for {slots} expert slots ({format_bytes(need)}): give a "
                "smaller gpu_memory, or close what else uses the card"
            ) from error

    # ------------------------------------------------------------------ experts

    def put(self, flat: int, weights: ExpertWeights) -> None:
        """Copy an expert for a plan and keep it; the host goes on."""
        copied = self.arena.put(flat, weights, self._weights)
        if self._pace is not None:
            self._pace.copies[flat] = copied

    def admit(self, flat: int, weights: ExpertWeights) -> tuple[int, Begun]:
        """Copy an expert that is needed now and keep it; its slot, and the copy."""
        copied = self.arena.put(flat, weights, self._weights)
        return self.arena.slot_of(flat), copied

    def fetch(self, flat: int, weights: ExpertWeights) -> None:
        """Copy an expert ahead of its use and keep it."""
        copied = self.arena.put(flat, weights, self._ahead, PIECE_BYTES)
        if self._pace is not None:
            self._pace.ahead.append((flat, copied))

    def copy_after(self, event: Event) -> None:
        """Experts that are needed now are copied after ``event``."""
        self.runtime.wait(self._weights, event)

    def pass_through(self, weights: ExpertWeights) -> tuple[int, Begun]:
        """Copy an expert that is needed now through a staging buffer; its slot, and the copy."""
        slot, *copied = self.arena.stage(weights, self._weights)
        return slot, (copied[0], copied[1])

    def stage(self, weights: ExpertWeights) -> ExpertWeights:
        """As :meth:`pass_through`, ready for torch's current stream."""
        return self._there(self.pass_through(weights)[0])

    def get(self, flat: int) -> ExpertWeights:
        """A resident expert's weights, ready for torch's current stream."""
        return self._there(self.arena.slot_of(flat))

    def _there(self, slot: int) -> ExpertWeights:
        self.arena.arrive([slot], self.runtime.current())
        return self.arena.view(slot)

    def drop(self, flat: int) -> None:
        """Give an expert's slot up."""
        self.arena.drop(flat)

    def held(self) -> set[int]:
        """Flat indices of the resident experts."""
        return self.arena.held()

    def close(self) -> None:
        """Wait for the device, free the slots, unpin the host's memory, and lift the limit."""
        self.runtime.release()
        self.arena.close()
        self.host.close()
        self.crossing.close()
        self._pace, self.told = None, []
        self.runtime.release()  # what was freed goes back to the card
        self.runtime.limit(self.runtime.memory().total)

    # ------------------------------------------------------------------ time

    def computing(self) -> AbstractContextManager[Any]:
        """See :meth:`engine.devices.runtime.Runtime.computing`."""
        return self.runtime.computing()

    def peak(self, planned_bytes: int) -> Peak:
        """What a plan counts, against the most that was held since the runtime's peak was reset."""
        return Peak.of(self.runtime, self.reserve, planned_bytes, self.before_bytes)

    def pace(self, costs: CostModel) -> StreamPace:
        """A measured clock, from now."""
        self._pace = StreamPace(self.runtime, costs, self.columns)
        return self._pace
