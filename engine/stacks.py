"""Hits of every cache size in one pass (Mattson et al., IBM Systems Journal 9(2), 1970).

A stack policy keeps in ``n`` slots a subset of what it keeps in ``n + 1``, so one ordered stack
stands for all sizes. Two things differ from the textbook: the experts of a layer are asked for
together, and a miss need not be kept.

- OPT (Belady's MIN) stays a stack policy: after each layer every size keeps, of what it had and
  what the layer used, the experts with the nearest next use.
- The engine's LRU is one only up to the order within a layer: hits are touched before misses are
  admitted, and who is a hit depends on the size. So experts that were last used by the same layer
  form a group; a size that holds a group whole or not at all needs no more than the group's place
  in the stack, and the few sizes that end inside a group are followed one by one. With more active
  experts than slots only the first misses are kept, the others are not in that size's stack.

Both have a twin in C (``native/src/stacks.c``), which takes over where it was compiled.
"""

from __future__ import annotations

from ctypes import c_int64
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.decision import Batch, Ints
from engine.native import INT64, OUT_INT64, function


@dataclass(frozen=True)
class Requests:
    """What a cache is asked for: per layer of a step (*segment*) the active experts, ascending."""

    experts: int
    """How many there are in all: flat indices are below it."""
    first: Ints
    """Per segment, and one past the last: its first entry."""
    flat: Ints
    """Per entry: ``layer * experts + expert``."""
    step: Ints
    """Per segment: forward pass."""

    @classmethod
    def of(cls, batch: Batch, experts: int, pinned: NDArray[np.bool_] | None = None) -> Self:
        """A trace's batch; without the experts for which ``pinned`` (flat) is true."""
        flat, first = batch.flat, batch.first
        if pinned is not None:
            asked = ~pinned[flat]
            first = np.concatenate(([0], np.cumsum(asked)))[first]
            flat = flat[asked]
        return cls(experts, np.ascontiguousarray(first), np.ascontiguousarray(flat), batch.step)

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def segments(self) -> list[list[int]]:
        """Active experts per segment."""
        flat = self.flat.tolist()
        return [flat[a:b] for a, b in pairwise(self.first.tolist())]

    @property
    def most(self) -> int:
        """Active experts of the fullest segment."""
        return int(np.diff(self.first).max(initial=0))

    @property
    def next_use(self) -> Ints:
        """Per entry: the segment that uses the expert next; as many as there are: none does."""
        segment = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))
        order = np.argsort(self.flat, kind="stable")  # expert by expert, each in order of time
        again = self.flat[order[:-1]] == self.flat[order[1:]]
        found = np.full(len(self.flat), len(self.first) - 1, dtype=np.int64)
        found[order[:-1][again]] = segment[order[1:][again]]
        return found


def lru_hits(requests: Requests) -> Ints:
    """Hits of the engine's ``lru`` for 0 to all experts in slots, from an empty cache."""
    fast = function(
        "fiddler_lru_hits", c_int64,
        c_int64, c_int64, INT64, INT64, c_int64, OUT_INT64,
    )  # fmt: skip
    hits = np.zeros(requests.experts + 2, dtype=np.int64)
    segments = len(requests.first) - 1
    if fast is not None and not fast(
        requests.experts, segments, requests.first, requests.flat, requests.most, hits
    ):
        return np.cumsum(hits)[:-1]
    return _lru_hits(requests)


def opt_hits(requests: Requests, *, preloaded: bool = True) -> Ints:
    """The most hits that any policy without prefetching can have, for 0 to all experts in slots.

    ``preloaded``: the slots may be filled with anything before the first step, as pinned experts
    are; else they begin empty, and the first use of an expert is never a hit.
    """
    segments = len(requests.first) - 1
    due = np.full(requests.experts, segments, dtype=np.int64)
    stack = np.zeros(0, dtype=np.int64)
    if preloaded:
        used, entry = np.unique(requests.flat, return_index=True)
        due[used] = np.searchsorted(requests.first, entry, side="right") - 1
        stack = np.argsort(due, kind="stable")
    fast = function(
        "fiddler_opt_hits", c_int64,
        c_int64, c_int64, INT64, INT64, INT64, c_int64, INT64, INT64, OUT_INT64,
    )  # fmt: skip
    hits = np.zeros(requests.experts + 2, dtype=np.int64)
    if fast is not None and not fast(
        requests.experts, segments, requests.first, requests.flat,
        requests.next_use, len(stack), stack, due, hits,
    ):  # fmt: skip
        return np.cumsum(hits)[:-1]
    return _opt_hits(requests, stack, due)


def static_hits(requests: Requests, order: Ints) -> Ints:
    """Hits of the first 0, 1, 2, ... experts of ``order``, always there: a set that never moves."""
    calls = np.bincount(requests.flat, minlength=requests.experts)
    return np.cumsum([0, *calls[order]])


@dataclass
class _Use:
    """How one expert was last used: at which sizes that was a hit, and at which it was dropped."""

    segment: int
    high: int
    """At this size and above it was a hit."""
    also: set[int] = field(default_factory=set[int])
    """Smaller sizes at which it was a hit."""
    dropped: set[int] = field(default_factory=set[int])
    """Sizes with too few slots for its layer, at which it was not kept."""

    def hit(self, size: int) -> bool:
        return size >= self.high or size in self.also


def _lru_hits(requests: Requests) -> Ints:
    """The readable reference of :func:`lru_hits`."""
    hits = np.zeros(requests.experts + 1, dtype=np.int64)
    segments = requests.segments
    uses: dict[int, _Use] = {}
    remaining = np.zeros(len(segments), dtype=np.int64)  # of each group: experts not used since
    for now, active in enumerate(segments):
        found: dict[int, _Use] = {}
        for group in {uses[expert].segment for expert in active if expert in uses}:
            above = int(remaining[group + 1 : now].sum())
            members = [e for e in segments[group] if uses[e].segment == group]
            asked = [expert for expert in members if expert in active]
            low, high = above, above + len(members)
            hits[high:] += len(asked)
            for expert in asked:
                found[expert] = _Use(now, high)
            for size in range(low + 1, high):  # the group's latest, as this size saw them
                rank = [e for e in members if uses[e].hit(size)]
                rank += [
                    e for e in members if not uses[e].hit(size) and size not in uses[e].dropped
                ]
                kept = set(rank[low - size :])
                for expert in asked:
                    if expert in kept:
                        found[expert].also.add(size)
                        hits[size] += 1
        for expert in active:
            if expert in uses:
                remaining[uses[expert].segment] -= 1
            uses[expert] = found.get(expert) or _Use(now, requests.experts + 1)
        remaining[now] = len(active)
        for size in range(len(active)):
            missing = [expert for expert in active if not uses[expert].hit(size)]
            room = size - (len(active) - len(missing))
            for expert in missing[room:]:
                uses[expert].dropped.add(size)
    return hits


def _opt_hits(requests: Requests, stack: Ints, due: Ints) -> Ints:
    """The readable reference of :func:`opt_hits`: the stack to begin with, and next uses."""
    hits = np.zeros(requests.experts + 2, dtype=np.int64)
    order: list[int] = stack.tolist()
    needed: list[int] = due.tolist()
    next_use = requests.next_use.tolist()
    for active, entry in zip(requests.segments, requests.first.tolist(), strict=False):
        for at, expert in enumerate(active, start=entry):
            if expert in order:
                hits[order.index(expert) + 1] += 1
            needed[expert] = next_use[at]
        for expert in active:
            if expert not in order:
                order.append(expert)
            own, carried = order.index(expert), expert
            for place in range(own):  # who is needed later moves down
                if needed[order[place]] > needed[carried]:
                    order[place], carried = carried, order[place]
            order[own] = carried
    return np.cumsum(hits)[:-1]
