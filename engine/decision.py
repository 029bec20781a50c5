"""Decisions: what a policy is asked about a layer, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.events import Action

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_CPU = int(Action.CPU)


@dataclass(slots=True)
class Request:
    """One layer of one step, as a policy sees it. Lists run parallel, active experts ascending."""

    step: int
    layer: int
    experts: list[int]
    tokens: list[int]
    """Tokens routed to each expert."""
    step_tokens: int = 1
    """Tokens of the step."""
    weights: list[float] | None = None
    """Of each expert: the router's weights, added up over its tokens. For policies that ask."""
    predicted: list[int] | None = None
    """Experts that the next layer is predicted to use, ascending. For policies that ask."""


@dataclass(slots=True)
class Decision:
    """One layer of one step. Lists run parallel, active experts ascending."""

    columns: int
    """Experts per layer (to split flat indices)."""
    experts: list[int]
    tokens: list[int]
    """Tokens routed to each expert."""
    actions: list[int]
    """An :class:`~engine.events.Action` for each expert."""
    keep: list[bool]
    """True where a streamed expert stays, in a cache slot."""
    evict: list[int] = field(default_factory=list[int])
    """Flat indices that give their slot up first, in order."""
    fetch: list[int] = field(default_factory=list[int])
    """Flat indices that get a slot ahead of their use; their copies wait in line for the link."""
    unused: list[int] = field(default_factory=list[int])
    """Experts of this layer that are copied though no token needs them."""

    @property
    def cpu_tokens(self) -> int:
        """Token-expert pairs that run on the CPU."""
        pairs = zip(self.tokens, self.actions, strict=True)
        return sum(count for count, action in pairs if action == _CPU)


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, one per segment, one after the other."""

    first: Ints
    """Per segment, and one past the last: where its list begins."""
    values: Ints

    @classmethod
    def none(cls, segments: int) -> Ragged:
        """An empty list for each segment."""
        return cls(np.zeros(segments + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @classmethod
    def of_segments(cls, segment: Ints, values: Ints, segments: int) -> Ragged:
        """From values and the segment of each, ascending."""
        return cls(np.searchsorted(segment, np.arange(segments + 1)), values)

    @property
    def segment(self) -> Ints:
        """Per value: its segment."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def of(self, segment: int) -> list[int]:
        """One segment's list."""
        return self.values[self.first[segment] : self.first[segment + 1]].tolist()

    def part(self, start: int, stop: int) -> Ragged:
        """Segments ``start`` to ``stop`` (exclusive)."""
        first = self.first[start : stop + 1]
        return Ragged(first - first[0], self.values[first[0] : first[-1]])


@dataclass(frozen=True)
class Batch:
    """Active experts of many layers of many steps, as columns: what is to be decided.

    A *segment* is one layer of one step; entries are sorted by segment, then expert.
    """

    columns: int
    """Experts per layer."""
    step: Ints
    """Per segment."""
    layer: Ints
    """Per segment."""
    tokens: Ints
    """Per segment: tokens of the step."""
    segment: Ints
    """Per entry: its segment."""
    expert: Ints
    """Per entry."""
    count: Ints
    """Per entry: tokens routed to the expert."""
    weight: Floats | None = None
    """Per entry: the router's weights, added up; where a policy asks for them."""
    predicted: Ragged | None = None
    """Per segment: experts predicted for the next layer; where a policy asks for them."""

    @cached_property
    def flat(self) -> Ints:
        """Per entry: ``layer * experts + expert``."""
        return self.layer[self.segment] * self.columns + self.expert

    @cached_property
    def counts(self) -> Ints:
        """What there is in ``count``, ascending, each once."""
        return np.flatnonzero(np.bincount(self.count))

    @cached_property
    def first(self) -> Ints:
        """Per segment, and one past the last: its first entry."""
        return np.searchsorted(self.segment, np.arange(len(self.step) + 1))

    def part(self, start: int, stop: int) -> Batch:
        """Segments ``start`` to ``stop`` (exclusive)."""
        if (start, stop) == (0, len(self.step)):
            return self
        a, b = np.searchsorted(self.segment, (start, stop))
        return Batch(
            self.columns,
            self.step[start:stop],
            self.layer[start:stop],
            self.tokens[start:stop],
            self.segment[a:b] - start,
            self.expert[a:b],
            self.count[a:b],
            None if self.weight is None else self.weight[a:b],
            None if self.predicted is None else self.predicted.part(start, stop),
        )

    def requests(self, *, weights: bool, predictions: bool) -> Iterator[Request]:
        """What a policy is asked, one segment after the other, with what it wants to know."""
        experts, counts = self.expert.tolist(), self.count.tolist()
        routed = self.weight.tolist() if weights and self.weight is not None else None
        foreseen = self.predicted if predictions else None
        heads = zip(self.step.tolist(), self.layer.tolist(), self.tokens.tolist(), strict=True)
        spans = pairwise(self.first.tolist())
        for number, ((step, layer, tokens), (a, b)) in enumerate(zip(heads, spans, strict=True)):
            yield Request(
                step,
                layer,
                experts[a:b],
                counts[a:b],
                tokens,
                None if routed is None else routed[a:b],
                None if foreseen is None else foreseen.of(number),
            )


@dataclass(frozen=True)
class Decisions:
    """The answer to a :class:`Batch`: the same as one :class:`Decision` per segment."""

    action: Ints
    """Per entry."""
    keep: NDArray[np.bool_]
    """Per entry."""
    evict: Ragged
    fetch: Ragged
    unused: Ragged
    """Per segment: as in :class:`Decision`."""

    @classmethod
    def plain(cls, batch: Batch, action: Ints) -> Decisions:
        """Nothing is kept, evicted or fetched."""
        none = Ragged.none(len(batch.step))
        return cls(action, np.zeros(len(action), dtype=np.bool_), none, none, none)

    @classmethod
    def of(cls, decisions: Iterable[Decision]) -> Decisions:
        """From one decision per segment; each may go once the next one is asked for."""
        actions, keep = list[int](), list[bool]()
        lists = evict, fetch, unused = list[int](), list[int](), list[int]()
        ends = [0], [0], [0]
        evicted, fetched, idle = (each.append for each in ends)
        for made in decisions:
            actions += made.actions
            keep += made.keep
            evict += made.evict
            fetch += made.fetch
            unused += made.unused
            evicted(len(evict))
            fetched(len(fetch))
            idle(len(unused))
        ragged = (
            Ragged(as_ints(end, len(end)), as_ints(values, len(values)))
            for values, end in zip(lists, ends, strict=True)
        )
        return cls(as_ints(actions, len(actions)), np.array(keep, dtype=np.bool_), *ragged)

    def part(self, batch: Batch, start: int, stop: int) -> Decisions:
        """Those of the batch's segments ``start`` to ``stop`` (exclusive)."""
        a, b = batch.first[start], batch.first[stop]
        lists = (each.part(start, stop) for each in (self.evict, self.fetch, self.unused))
        return Decisions(self.action[a:b], self.keep[a:b], *lists)

    def each(self, batch: Batch) -> Iterator[Decision]:
        """One decision after the other."""
        actions, keep = self.action.tolist(), self.keep.tolist()
        experts, counts = batch.expert.tolist(), batch.count.tolist()
        for number, (a, b) in enumerate(pairwise(batch.first.tolist())):
            yield Decision(
                batch.columns,
                experts[a:b],
                counts[a:b],
                actions[a:b],
                keep[a:b],
                self.evict.of(number),
                self.fetch.of(number),
                self.unused.of(number),
            )


def as_ints(values: Iterable[int], count: int) -> Ints:
    """An array of so many integers (faster than ``np.array`` of a list)."""
    return np.fromiter(values, np.int64, count)
