"""The byte ledger of the device: what is resident, and that it never exceeds the budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from engine.decision import Decision
from engine.errors import LedgerError
from engine.units import format_bytes


class Place(IntEnum):
    """Where an expert's weights are, besides host memory, which always keeps them."""

    HOST = 0
    PINNED = 1
    """Resident by the plan."""
    CACHED = 2
    """Resident in a cache slot; may be evicted."""


_HOST, _PINNED, _CACHED = int(Place.HOST), int(Place.PINNED), int(Place.CACHED)


@dataclass(frozen=True)
class Memory:
    """How the device's budget is spent, in bytes."""

    dense: int
    kv: int
    workspace: int
    pinned: int
    cached: int
    free: int
    """Cache slots not in use are free."""
    budget: int

    @property
    def used(self) -> int:
        """All but the free bytes."""
        return self.budget - self.free


class Residency:
    """Which experts are on the device, in whole experts and in bytes.

    Experts are flat indices ``layer * experts + expert``. Every change goes through
    :meth:`pin`, :meth:`unpin`, :meth:`admit` and :meth:`evict`, which raise
    :class:`~engine.errors.LedgerError` and change nothing when the budget would be exceeded or the
    expert is not where the change expects it.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        expert_bytes: int,
        *,
        budget_bytes: int,
        dense_bytes: int = 0,
        kv_bytes: int = 0,
        workspace_bytes: int = 0,
        cache_slots: int = 0,
    ) -> None:
        self.grid = grid
        self.expert_bytes = expert_bytes
        self.place = bytearray(grid[0] * grid[1])
        """One :class:`Place` per expert, indexed ``layer * experts + expert``."""
        self.pinned_count = 0
        self.cached_count = 0
        self.dense_bytes = dense_bytes
        self.kv_bytes = kv_bytes
        self.workspace_bytes = workspace_bytes
        self.resize(
            budget_bytes=budget_bytes, cache_slots=cache_slots, workspace_bytes=workspace_bytes
        )

    def __repr__(self) -> str:
        memory = self.memory()
        return (
            f"Residency({self.pinned_count} pinned, {self.cached_count}/{self.cache_slots} cached, "
            f"{format_bytes(memory.used)} of {format_bytes(memory.budget)})"
        )

    @property
    def reserved_bytes(self) -> int:
        """Dense weights, KV cache and workspace: spent whatever the experts do."""
        return self.dense_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def used_bytes(self) -> int:
        """Reserved bytes plus those of every resident expert."""
        return self.reserved_bytes + (self.pinned_count + self.cached_count) * self.expert_bytes

    @property
    def free_bytes(self) -> int:
        """What is left of the budget."""
        return self.budget_bytes - self.used_bytes

    def memory(self) -> Memory:
        """The ledger's current entries."""
        return Memory(
            dense=self.dense_bytes,
            kv=self.kv_bytes,
            workspace=self.workspace_bytes,
            pinned=self.pinned_count * self.expert_bytes,
            cached=self.cached_count * self.expert_bytes,
            free=self.budget_bytes - self.used_bytes,
            budget=self.budget_bytes,
        )

    def places(self) -> NDArray[np.uint8]:
        """A copy of the grid, shape ``(layers, experts)``, values of :class:`Place`."""
        return np.frombuffer(bytes(self.place), dtype=np.uint8).reshape(self.grid)

    def cached(self) -> list[int]:
        """Flat indices of the experts in cache slots, ascending."""
        return np.flatnonzero(self.places().ravel() == Place.CACHED).tolist()

    def resize(self, *, budget_bytes: int, cache_slots: int, workspace_bytes: int) -> None:
        """Change the limits; refused while more is resident than they would allow."""
        after = (
            self.dense_bytes
            + self.kv_bytes
            + workspace_bytes
            + (self.pinned_count + self.cached_count) * self.expert_bytes
        )
        if after > budget_bytes:
            raise LedgerError(
                f"{format_bytes(after)} are in use, more than the new budget of "
                f"{format_bytes(budget_bytes)}: evict first"
            )
        if self.cached_count > cache_slots:
            raise LedgerError(
                f"{self.cached_count} experts are cached, more than the new {cache_slots} slots"
            )
        self.budget_bytes = budget_bytes
        self.cache_slots = cache_slots
        self.workspace_bytes = workspace_bytes

    def pin(self, expert: int) -> int:
        """Make resident by plan; returns the bytes copied (0 if a cache slot held it)."""
        self._expect(expert, "pin", Place.HOST, Place.CACHED)
        if self.place[expert] == Place.CACHED:
            self.cached_count -= 1
            self.pinned_count += 1
            self.place[expert] = Place.PINNED
            return 0
        self._reserve("pin")
        self.pinned_count += 1
        self.place[expert] = Place.PINNED
        return self.expert_bytes

    def unpin(self, expert: int) -> None:
        """Release what a plan had pinned."""
        self._expect(expert, "unpin", Place.PINNED)
        self.pinned_count -= 1
        self.place[expert] = Place.HOST

    def admit(self, expert: int) -> int:
        """Take a cache slot; returns the bytes copied."""
        self._expect(expert, "admit", Place.HOST)
        if self.cached_count >= self.cache_slots:
            raise LedgerError(f"all {self.cache_slots} cache slots are taken: evict first")
        self._reserve("admit")
        self.cached_count += 1
        self.place[expert] = Place.CACHED
        return self.expert_bytes

    def evict(self, expert: int) -> None:
        """Give a cache slot up."""
        self._expect(expert, "evict", Place.CACHED)
        self.cached_count -= 1
        self.place[expert] = Place.HOST

    def apply(self, layer: int, decision: Decision) -> None:
        """Enter one layer's decision: what gives its slot up, then what takes one.

        A fetched expert holds its slot from now on, though its copy is still to come.
        """
        base = layer * self.grid[1]
        come = [base + e for e, keep in zip(decision.experts, decision.keep, strict=True) if keep]
        come += decision.fetch
        if come or decision.evict:
            self.enter(decision.evict, [], come)

    def mark(self, pinned: Iterable[int], cached: Iterable[int]) -> None:
        """Set an initial state (a replay's start); checked as one by one, but all at once."""
        self.enter([], list(pinned), list(cached))

    def enter(self, gone: list[int], pinned: list[int], cached: list[int]) -> None:
        """Evict, then pin, then admit; as one by one, faster."""
        place, total = self.place, len(self.place)
        more = len(pinned) + len(cached) - len(gone)
        fits = (
            self.cached_count + len(cached) - len(gone) <= self.cache_slots
            and more * self.expert_bytes <= self.free_bytes
        )
        for flat in gone:
            if not 0 <= flat < total or place[flat] != _CACHED:
                self.evict(flat)  # says what is wrong
            place[flat] = _HOST
            self.cached_count -= 1
        for flat in pinned:
            if not fits or not 0 <= flat < total or place[flat] != _HOST:
                self.pin(flat)
            else:
                place[flat] = _PINNED
                self.pinned_count += 1
        for flat in cached:
            if not fits or not 0 <= flat < total or place[flat] != _HOST:
                self.admit(flat)
            else:
                place[flat] = _CACHED
                self.cached_count += 1

    def _expect(self, expert: int, verb: str, *places: Place) -> None:
        if not 0 <= expert < len(self.place):
            raise LedgerError(f"cannot {verb} expert {expert}: there are {len(self.place)} of them")
        if self.place[expert] not in places:
            layer, column = divmod(expert, self.grid[1])
            raise LedgerError(
                f"cannot {verb} expert {column} of layer {layer}: it is "
                f"{Place(self.place[expert]).name.lower()}, not "
                + " or ".join(place.name.lower() for place in places)
            )

    def _reserve(self, verb: str) -> None:
        after = self.used_bytes + self.expert_bytes
        if after > self.budget_bytes:
            raise LedgerError(
                f"cannot {verb}: {format_bytes(after)} would exceed the budget of "
                f"{format_bytes(self.budget_bytes)}"
            )
