"""An LRU cache walked through many layers at once, in compiled code."""

from __future__ import annotations

from ctypes import c_int64

import numpy as np

from engine.decision import Batch, Decisions, Ints, Ragged
from engine.native import INT64, OUT_INT64, OUT_UINT8, function
from engine.policies.retention import Recency, Retention
from engine.residency import Residency


def lru_walk(
    batch: Batch, by_count: Ints, residency: Residency, cache: Retention
) -> Decisions | None:
    """:meth:`engine.policies.base.Policy.decide` for all segments, where nothing but LRU matters.

    ``by_count`` holds the action of a missing expert by its tokens. Leaves ledger and cache as
    after the last segment. None, and nothing changed, where there is no compiled code.
    """
    walk = function(
        "fiddler_lru_walk", c_int64,
        c_int64, INT64, INT64, INT64, INT64, c_int64, OUT_UINT8, c_int64, OUT_INT64, c_int64,
        OUT_INT64, OUT_INT64, OUT_UINT8, OUT_INT64, OUT_INT64,
    )  # fmt: skip
    if walk is None or not isinstance(cache, Recency):
        return None
    segments, entries, total = len(batch.step), len(batch.flat), len(residency.place)
    place = residency.places().ravel().copy()
    order = np.zeros(total, dtype=np.int64)
    order[: len(cache)] = list(cache)
    action, keep = np.empty(entries, dtype=np.int64), np.empty(entries, dtype=np.bool_)
    evict_first = np.empty(segments + 1, dtype=np.int64)
    evict = np.empty(entries, dtype=np.int64)
    used = walk(
        segments, batch.first, batch.flat, np.ascontiguousarray(batch.count), by_count,
        total, place, residency.cache_slots, order, len(cache), np.empty(3 * total + 1, np.int64),
        action, keep.view(np.uint8), evict_first, evict,
    )  # fmt: skip
    before = set(cache)
    cache.put(order[:used].tolist())
    gone = list(before.difference(cache))
    residency.enter(gone, [], [flat for flat in cache if flat not in before])
    none = Ragged.none(segments)
    return Decisions(
        action,
        keep,
        Ragged(evict_first, evict[: evict_first[-1]].copy()),
        none,
        none,
    )
