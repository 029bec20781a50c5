"""Always copy the weights: offloading without a cache."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy


class Stream(Policy):
    """Every missing expert is copied for this call and dropped after it."""

    name = "stream"
    title = "Stream"
    summary = "Copies every missing expert over the link, each time; keeps none."

    def miss(self, tokens: int) -> Action:
        return Action.STREAM
