"""Always copy the weights and keep them: frequency and recency together."""

from __future__ import annotations

from engine.policies.lru import Lru
from engine.policies.ranking import FrequencyRecency


class Lrfu(Lru):
    """Every missing expert is copied; who was used least often and longest ago leaves.

    LRFU of Lee et al. (2001), the rule of llama.cpp's expert cache since 2026.
    """

    name = "lrfu"
    title = "LRFU cache"
    summary = "Copies every missing expert; the least often and least recently used one leaves."
    retention = FrequencyRecency
