"""Hits of caches that keep the frequently used: LFU and LRFU, simulated for each size.

Each use of a cached expert by a layer counts 1, and a count loses half its worth every
``half_life`` steps (Lee et al., IEEE Trans. Computers 50(12), 2001: LRFU, with the step as its
clock). Without a half-life nothing is lost: LFU. An expert that leaves forgets its count, so
neither is monotone in the size, and no stack stands for all sizes.

The rules of a layer are those of every cache of the engine: hits are used first, then misses are
admitted in ascending order while there are slots that this layer does not use; who counts least
goes, of equals the least recently used.
"""

from __future__ import annotations

from ctypes import c_double, c_int64
from math import log2

import numpy as np

from engine.decision import Ints
from engine.native import FLOAT64, INT64, OUT_INT64, function
from engine.stacks import Requests


def frequency_hits(requests: Requests, sizes: Ints, half_life: float = np.inf) -> Ints:
    """Hits with each of ``sizes`` slots, from an empty cache; ``half_life`` in steps."""
    decay = 1.0 / half_life
    step = requests.step - requests.step[:1]
    age = np.arange(int(step.max(initial=0)) + 1)
    weight = np.exp2(-decay * age)
    fast = function(
        "fiddler_frequency_hits", c_int64,
        c_int64, c_int64, INT64, INT64, INT64, c_double, FLOAT64, c_int64, INT64, OUT_INT64,
    )  # fmt: skip
    hits = np.zeros(len(sizes), dtype=np.int64)
    if fast is not None and not fast(
        requests.experts, len(step), requests.first, requests.flat, step, decay, weight,
        len(sizes), np.ascontiguousarray(sizes, dtype=np.int64), hits,
    ):  # fmt: skip
        return hits
    weights: list[float] = weight.tolist()
    return np.array(
        [_hits(requests, int(size), step.tolist(), decay, weights) for size in sizes],
        dtype=np.int64,
    )


def _hits(
    requests: Requests, slots: int, steps: list[int], decay: float, weight: list[float]
) -> int:
    """The readable reference of :func:`frequency_hits`, for one size."""
    hits = 0
    score: dict[int, tuple[float, int]] = {}  # cached expert -> count when last used, that step
    worth: dict[int, float] = {}  # the same as log2, on a scale that does not move with time
    for now, active in zip(steps, requests.segments, strict=True):
        found = [expert for expert in active if expert in score]
        hits += len(found)
        for expert in found:
            count, then = score.pop(expert)  # what is used goes to the end
            score[expert] = 1.0 + count * weight[now - then], now
        missing = [expert for expert in active if expert not in score]
        for expert in missing[: slots - len(found)]:
            if len(score) == slots:
                victim = min((e for e in score if e not in active), key=worth.__getitem__)
                del score[victim]
            score[expert] = 1.0, now
        for expert in active:
            if expert in score:
                worth[expert] = log2(score[expert][0]) + decay * now
    return hits
