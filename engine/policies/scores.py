"""Retention by scores that fade: uses of all experts, cached or not, compete for the slots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify
from itertools import repeat

from engine.policies.ranking import HALF_LIFE_STEPS, Ranked
from engine.policies.retention import State
from engine.residency import Place

_PINNED, _CACHED = int(Place.PINNED), int(Place.CACHED)

_SPAN_HALF_LIVES = 512
"""After so many all scores are brought down, before they overflow."""


class Scores(Ranked):
    """The lowest score goes first: uses, weighted and fading, of all experts, cached or not.

    An expert takes another one's slot only if its own score is higher. Instead of all scores
    fading, what a use adds doubles with each half-life.
    """

    kept_as = "score_ranks"
    half_life_steps = HALF_LIFE_STEPS

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self.scores = [0.0] * (grid[0] * grid[1])
        """Of every expert, by flat index."""
        self.worth = 1.0
        """What a use adds now."""

    def step(self) -> None:
        self.steps += 1
        span = _SPAN_HALF_LIVES * self.half_life_steps
        self.worth = 2.0 ** (self.steps % span / self.half_life_steps)
        if self.steps % span == 0:
            self._bring_down(2.0**-_SPAN_HALF_LIVES)

    def _bring_down(self, by: float) -> None:
        self.scores = [score * by for score in self.scores]
        self._entry = {flat: (rank * by, use, flat) for rank, use, flat in self._entry.values()}
        self._heap, self._heaped = list(self._entry.values()), dict(self._entry)
        heapify(self._heap)

    def missed(self, flat: int, weight: float = 1.0) -> None:
        """An expert was used that is not cached."""
        self.scores[flat] += weight * self.worth

    def used(
        self, flats: Sequence[int], places: Sequence[int], weights: Sequence[float] | None
    ) -> None:
        scores, worth = self.scores, self.worth
        for flat, where, weight in zip(flats, places, weights or repeat(1.0), strict=False):
            if where != _PINNED:
                scores[flat] = score = scores[flat] + weight * worth
                if where == _CACHED:
                    self.again(flat, score)

    def add(self, flat: int, weight: float = 1.0) -> None:
        self.place(flat, self.scores[flat])

    def touch(self, flat: int, weight: float = 1.0) -> None:
        self.missed(flat, weight)
        self.again(flat, self.scores[flat])

    def make_room(self, flat: int, slots: int, keep: Collection[int]) -> list[int] | None:
        if len(self._entry) < slots:
            return []
        lowest = self.lowest(keep)
        if lowest is None or self._entry[lowest][0] >= self.score_of(flat):
            return None
        return [lowest]

    def score_of(self, flat: int) -> float:
        """What an expert has to offer for a slot."""
        return self.scores[flat]

    def first_rank(self, flat: int) -> float:
        return self.scores[flat]

    def snapshot(self) -> State:
        scored = [flat for flat, score in enumerate(self.scores) if score]
        return super().snapshot() | {
            "scored": scored,
            "scores": [self.scores[flat] for flat in scored],
        }

    def restore(self, cached: Iterable[int], state: Mapping[str, list[int] | list[float]]) -> None:
        values = zip(state.get("scored", ()), state.get("scores", ()), strict=False)
        self.scores = [0.0] * (self.grid[0] * self.grid[1])
        for flat, score in values:
            if 0 <= flat < len(self.scores):
                self.scores[int(flat)] = float(score)
        super().restore(cached, state)
        span = _SPAN_HALF_LIVES * self.half_life_steps
        self.worth = 2.0 ** (self.steps % span / self.half_life_steps)
