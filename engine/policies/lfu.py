"""Always copy the weights and keep them: a least-frequently-used cache."""

from __future__ import annotations

from engine.policies.lru import Lru
from engine.policies.ranking import Frequency


class Lfu(Lru):
    """Every missing expert is copied and takes the slot of the least frequently used one."""

    name = "lfu"
    title = "LFU cache"
    summary = "Copies every missing expert and keeps it in place of the least frequently used."
    retention = Frequency
