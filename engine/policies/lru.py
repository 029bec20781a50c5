"""Always copy the weights and keep them: one global least-recently-used cache."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy


class Lru(Policy):
    """Every missing expert is copied and takes the slot of the least recently used one."""

    name = "lru"
    title = "LRU cache"
    summary = "Copies every missing expert and keeps it in place of the least recently used."
    admits = True
    slot_share = 1.0

    def miss(self, tokens: int) -> Action:
        return Action.STREAM
