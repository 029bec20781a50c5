"""Caches by brute force, one size at a time, and random requests, for the tests of curves."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from engine.native import library
from engine.native.build import compiler
from engine.stacks import Requests

Segments = list[list[int]]


def random_requests(seed: int, most_layers: int = 3, most_experts: int = 4) -> Requests:
    """Steps of a small grid; some layers use all their experts, some steps stop half way."""
    rng = random.Random(seed)
    layers, experts = rng.randint(1, most_layers), rng.randint(1, most_experts)
    segments: Segments = []
    steps: list[int] = []
    for step in range(rng.randint(0, 10)):
        for layer in range(layers if rng.random() < 0.9 else rng.randint(1, layers)):
            active = rng.sample(range(experts), rng.choice((1, 1, rng.randint(1, experts))))
            segments.append(sorted(layer * experts + expert for expert in active))
            steps.append(step)
    return requests_of(segments, layers * experts, steps)


def requests_of(segments: Segments, experts: int, steps: Sequence[int]) -> Requests:
    first = np.cumsum([0, *map(len, segments)])
    flat = np.array([expert for active in segments for expert in active], dtype=np.int64)
    return Requests(experts, first, flat, np.array(steps, dtype=np.int64))


def lru(segments: Segments, slots: int) -> int:
    """As the engine does: hits first, then misses while there are slots that are not in use."""
    recent: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for active in segments:
        found = [expert for expert in active if expert in recent]
        for expert in found:
            recent.move_to_end(expert)
        hits += len(found)
        in_use = len(found)
        for expert in active:
            if expert not in found and in_use < slots:
                in_use += 1
                if len(recent) == slots:
                    recent.popitem(last=False)
                recent[expert] = None
    return hits


def lfu(segments: Segments, slots: int, steps: Sequence[int], worth: Callable[[int], float]) -> int:
    """LFU, or LRFU where the ``worth`` of a use falls with its age in steps: all uses summed up."""
    uses: dict[int, list[int]] = {}  # cached expert -> steps of its uses, in order of the last
    hits = 0
    for step, active in zip(steps, segments, strict=True):
        found = [expert for expert in active if expert in uses]
        hits += len(found)
        for expert in found:
            uses[expert] = [*uses.pop(expert), step]
        in_use = len(found)
        for expert in active:
            if expert in found or in_use == slots:
                continue
            in_use += 1
            if len(uses) == slots:
                score = {
                    other: sum(worth(step - then) for then in uses[other])
                    for other in uses
                    if other not in active
                }
                del uses[min(score, key=score.__getitem__)]
            uses[expert] = [step]
    return hits


def optimum(segments: Segments, experts: int, slots: int, *, preloaded: bool) -> int:
    """The most hits there can be: all contents a cache may have, step by step (few experts)."""
    contents = [mask for mask in range(2**experts) if mask.bit_count() <= slots]
    masks = np.array(contents)
    best = np.where((masks == 0) | preloaded, 0, -1000)
    for active in segments:
        asked = sum(1 << expert for expert in active)
        best = best + np.array([(mask & asked).bit_count() for mask in contents])
        # content after: any of what was there and what the layer used
        may = (masks[None, :] & ~(masks[:, None] | asked)) == 0
        best = np.where(may, best[:, None], -1000).max(axis=0)
    return int(best.max())


def need_library() -> None:
    """Skip where the helper library cannot be; where there is a compiler it has to be there."""
    if library() is None:
        assert compiler() is None, "the helper library was not built: python -m engine.native"
        pytest.skip("no C compiler, so no helper library")
