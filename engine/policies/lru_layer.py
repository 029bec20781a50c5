"""Always copy the weights and keep them: a least-recently-used cache for each layer."""

from __future__ import annotations

from engine.policies.lru import Lru
from engine.policies.retention import LayerRecency


class LruLayer(Lru):
    """As Mixtral-offloading (arXiv 2312.17238): the same number of slots for every layer."""

    name = "lru_layer"
    title = "LRU by layer"
    summary = "Copies every missing expert and keeps it, each layer in its own share of the slots."
    retention = LayerRecency
