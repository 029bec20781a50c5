"""Retention by rank: frequency, and frequency and recency together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import ClassVar

from engine.policies.retention import Retention, State
from engine.residency import Place

_PINNED, _CACHED = int(Place.PINNED), int(Place.CACHED)

_Entry = tuple[float, int, int]
"""Rank, number of its last use, flat index."""


class Ranked(Retention):
    """The lowest rank goes first, and of equal ranks the one whose last use is longest ago.

    A use never lowers a rank. So the heap may hold an older, lower entry of a cached expert: where
    it comes up it is replaced by the expert's present one. A use costs O(1), a victim
    O(log slots) for each older entry that comes up.
    """

    kept_as: ClassVar[str]
    """Name of the ranks in a snapshot: ranks of another rule mean something else."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self._entry: dict[int, _Entry] = {}
        self._heap: list[_Entry] = []
        self._heaped: dict[int, _Entry] = {}  # of each expert with an entry in the heap: which
        self._uses = 0
        self.steps: int = 0
        """Steps seen."""

    def __len__(self) -> int:
        return len(self._entry)

    def __contains__(self, flat: object) -> bool:
        return flat in self._entry

    def __iter__(self) -> Iterator[int]:
        return (flat for _, _, flat in sorted(self._entry.values()))

    def step(self) -> None:
        self.steps += 1

    def drop(self, flat: int) -> None:
        self._entry.pop(flat, None)

    def rank(self, flat: int) -> float:
        """A cached expert's rank."""
        return self._entry[flat][0]

    def place(self, flat: int, rank: float) -> None:
        """Give an expert a rank, as of now."""
        self._uses += 1
        self._entry[flat] = entry = (rank, self._uses, flat)
        heaped = self._heaped.get(flat)
        if heaped is None or entry < heaped:  # an older, higher one is of an earlier stay
            self._heaped[flat] = entry
            heappush(self._heap, entry)

    def again(self, flat: int, rank: float) -> None:
        """Give a cached expert a rank that is not lower, as of now."""
        self._uses += 1
        self._entry[flat] = (rank, self._uses, flat)

    def lowest(self, keep: Collection[int]) -> int | None:
        """The cached expert that would go first, of those not in ``keep``."""
        heap, entries, heaped = self._heap, self._entry, self._heaped
        aside: list[_Entry] = []
        found = None
        while heap:
            top = heap[0]
            flat = top[2]
            entry = entries.get(flat)
            if entry is not top:
                if entry is None or heaped.get(flat) is not top:  # gone, or there is a lower entry
                    heappop(heap)
                    if heaped.get(flat) is top:
                        del heaped[flat]
                else:
                    heaped[flat] = entry
                    heapreplace(heap, entry)
            elif flat in keep:
                aside.append(heappop(heap))
            else:
                found = flat
                break
        for entry in aside:
            heappush(heap, entry)
        return found

    def make_room(self, flat: int, slots: int, keep: Collection[int]) -> list[int] | None:
        if len(self._entry) < slots:
            return []
        lowest = self.lowest(keep)
        return None if lowest is None else [lowest]

    def snapshot(self) -> State:
        ordered = sorted(self._entry.values())
        return {
            "recent": [flat for _, _, flat in ordered],
            self.kept_as: [rank for rank, _, _ in ordered],
            "uses": [use for _, use, _ in ordered],
            "steps": [self.steps],
        }

    def restore(self, cached: Iterable[int], state: Mapping[str, list[int] | list[float]]) -> None:
        there = dict.fromkeys(cached)
        names = [int(flat) for flat in state.get("recent", ()) if flat in there]
        ranks, uses = state.get(self.kept_as, ()), state.get("uses", ())
        mine = len(ranks) == len(uses) == len(state.get("recent", ()))
        self.steps = int(next(iter(state.get("steps", ())), 0))
        known = dict(zip(state.get("recent", ()), zip(ranks, uses, strict=False), strict=False))
        for flat in (*(flat for flat in there if flat not in names), *names):
            if mine and flat in known:
                rank, use = known[flat]
                self._entry[flat] = (float(rank), int(use), flat)
            else:
                self._uses += 1
                self._entry[flat] = (self.first_rank(flat), self._uses, flat)
        self._uses = max((use for _, use, _ in self._entry.values()), default=0)
        self._heap, self._heaped = list(self._entry.values()), dict(self._entry)
        heapify(self._heap)

    def first_rank(self, flat: int) -> float:
        """Of an expert that was cached by another rule."""
        return 0.0


class Frequency(Ranked):
    """Least frequently used first (LFU), counted while cached."""

    kept_as = "counts"

    def add(self, flat: int, weight: float = 1.0) -> None:
        self.place(flat, 1.0)

    def touch(self, flat: int, weight: float = 1.0) -> None:
        self.again(flat, self._entry[flat][0] + 1.0)


HALF_LIFE_STEPS = 32
"""After so many steps a use counts half."""


class FrequencyRecency(Ranked):
    """Least frequently and recently used first (LRFU), counted while cached.

    Lee et al., IEEE Trans. Computers 50(12), 2001: a use ``x`` steps ago counts ``2 ** (-x / h)``.
    All sums fade alike, so their order does not change with time: the rank is the logarithm of
    the sum as it would have been at step 0.
    """

    kept_as = "faded"

    def add(self, flat: int, weight: float = 1.0) -> None:
        self.place(flat, self.steps / HALF_LIFE_STEPS)

    def touch(self, flat: int, weight: float = 1.0) -> None:
        self.again(flat, _log2_sum(self._entry[flat][0], self.steps / HALF_LIFE_STEPS))


def _log2_sum(a: float, b: float) -> float:
    """``log2(2 ** a + 2 ** b)`` without overflow."""
    return a + math.log2(1.0 + 2.0 ** (b - a)) if a > b else b + math.log2(1.0 + 2.0 ** (a - b))
