"""Popular experts on the device, chosen anew every few steps: KTransformers' dynamic placement."""

from __future__ import annotations

from engine.cost import CostModel
from engine.decision import Request
from engine.events import Action
from engine.policies.base import Policy
from engine.policies.ranking import Scores
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
        assert isinstance(self.cache, Scores)
        if profile is not None and profile.tokens:
            for flat, count in enumerate(profile.array.ravel().tolist()):
                self.cache.missed(flat, count / profile.tokens)

    def miss(self, tokens: int) -> Action:
        return Action.CPU

    def ahead(self, request: Request) -> list[int]:
        cache, place = self.cache, self.residency.place
        assert isinstance(cache, Scores)
        if request.layer or cache.steps % PERIOD_STEPS != 1:
            return []
        away = [flat for flat in cache.scores if place[flat] == Place.HOST]
        away.sort(key=lambda flat: (-cache.scores[flat], flat))
        return away[: self.residency.cache_slots]
