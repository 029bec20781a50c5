"""Popular experts on the device, chosen anew every few steps: KTransformers' dynamic placement."""

from __future__ import annotations

import math
from collections.abc import Mapping

from engine.cost import CostModel
from engine.decision import Request
from engine.events import Action
from engine.policies.base import Policy
from engine.policies.scores import Scores
from engine.profile import Profile
from engine.residency import Place, Residency

PERIOD_STEPS = 16
"""Steps between two updates."""


class Dynamic(Policy):
    """What is not on the device runs on the CPU; the cache slots follow the recent frequencies.

    Every ``PERIOD_STEPS`` steps the most frequently used experts are fetched into the slots, where
    they are worth more than what is there. Uses fade with a half-life; the profile's popularity
    is what the first update goes by.
    """

    name = "dynamic"
    title = "Dynamic"
    summary = "Runs misses on the CPU; every 16 steps the most used experts take the slots."
    admits = True
    retention = Scores
    slot_share = 0.25

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        super().__init__(residency, costs, profile)
        self._begin()

    def _begin(self) -> None:
        """Nothing was seen yet: scores as if the profile's text had always been decoded."""
        assert isinstance(self.cache, Scores)
        if self.profile is not None and self.profile.tokens:
            ever = self.cache.half_life_steps / math.log(2)  # what a use in every step fades to
            for flat, count in enumerate(self.profile.array.ravel().tolist()):
                self.cache.missed(flat, ever * count / self.profile.tokens)

    def miss(self, tokens: int) -> Action:
        return Action.CPU

    def ahead(self, request: Request) -> list[int]:
        cache, place = self.cache, self.residency.place
        assert isinstance(cache, Scores)
        if request.layer or cache.steps % PERIOD_STEPS != 1:
            return []
        scored = enumerate(cache.scores)
        away = [flat for flat, score in scored if score and place[flat] == Place.HOST]
        away.sort(key=lambda flat: -cache.scores[flat])  # of equal ones the first
        return away[: self.residency.cache_slots]

    def restore(self, state: Mapping[str, list[int] | list[float]]) -> None:
        super().restore(state)
        if "scored" not in state:
            self._begin()
            for flat in list(self.cache):
                self.cache.add(flat)  # ranked by what the profile says
