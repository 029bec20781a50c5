"""Decisions: where the active experts of a layer run, what is kept and what is given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.events import Action

Ints = NDArray[np.int64]
_CPU = int(Action.CPU)


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

    @property
    def cpu_tokens(self) -> int:
        """Token-expert pairs that run on the CPU."""
        pairs = zip(self.tokens, self.actions, strict=True)
        return sum(count for count, action in pairs if action == _CPU)


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

    @cached_property
    def flat(self) -> Ints:
        """Per entry: ``layer * experts + expert``."""
        return self.layer[self.segment] * self.columns + self.expert

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
        )


@dataclass(frozen=True)
class Decisions:
    """The answer to a :class:`Batch`: the same as one :class:`Decision` per segment."""

    action: Ints
    """Per entry."""
    keep: NDArray[np.bool_]
    """Per entry."""
    evict_segment: Ints
    """Per eviction, ascending."""
    evict: Ints
    """Per eviction: the flat index that gives its slot up."""
