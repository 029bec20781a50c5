"""Hits of caches that keep the frequently used: LFU and LRFU, simulated for each size.

Each use of a cached expert by a layer counts 1, and ``h`` steps later half of that (Lee et al.,
IEEE Trans. Computers 50(12), 2001: LRFU, with the step as its clock). Without a half-life nothing
is lost: LFU. All sums fade alike, so an expert's rank is the logarithm of its sum as it would have
been at step 0, and changes only when it is used. An expert that leaves forgets its uses, so hits
may fall with more slots, and no stack stands for all sizes.

The rules of a layer are those of every cache of the engine: hits are used first, then misses are
admitted in ascending order while there are slots that this layer does not use; who counts least
goes, of equals the least recently used.
"""

from __future__ import annotations

from ctypes import c_int64
from math import log2

import numpy as np
from numpy.typing import NDArray

from engine.decision import Ints
from engine.native import FLOAT64, INT64, OUT_INT64, function
from engine.stacks import Requests


def frequency_hits(requests: Requests, sizes: Ints, half_life: float = np.inf) -> Ints:
    """Hits with each of ``sizes`` slots, from an empty cache; ``half_life`` in steps."""
    clock = np.unique(requests.step, return_inverse=True)[1] + 1
    gained = clock / half_life  # log2 of what a use counts, per segment
    fast = function(
        "fiddler_frequency_hits", c_int64,
        c_int64, c_int64, INT64, INT64, FLOAT64, c_int64, INT64, OUT_INT64,
    )  # fmt: skip
    hits = np.zeros(len(sizes), dtype=np.int64)
    if fast is not None and not fast(
        requests.experts, len(gained), requests.first, requests.flat, gained,
        len(sizes), np.ascontiguousarray(sizes, dtype=np.int64), hits,
    ):  # fmt: skip
        return hits
    found = [_hits(requests, size, gained) for size in sizes.tolist()]
    return np.array(found, dtype=np.int64)


def _hits(requests: Requests, slots: int, gained: NDArray[np.float64]) -> int:
    """The readable reference of :func:`frequency_hits`, for one size."""
    hits = 0
    rank: dict[int, float] = {}  # of the cached experts, least recently used first
    for now, active in zip(gained.tolist(), requests.segments, strict=True):
        found = [expert for expert in active if expert in rank]
        hits += len(found)
        for expert in found:
            rank[expert] = _log2_sum(rank.pop(expert), now)
        missing = [expert for expert in active if expert not in rank]
        for expert in missing[: slots - len(found)]:
            if len(rank) == slots:
                del rank[min((e for e in rank if e not in active), key=rank.__getitem__)]
            rank[expert] = now
    return hits


def _log2_sum(a: float, b: float) -> float:
    """``log2(2 ** a + 2 ** b)`` without overflow."""
    high, low = max(a, b), min(a, b)
    return high + log2(1.0 + 2.0 ** (low - high))
