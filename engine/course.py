"""A course: layers and output heads in the order in which they run, decided and costed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.cost import CostModel
from engine.decision import Batch, Decisions, Ints, Ragged

HEAD = -1
"""In place of a layer's number: the output head."""


@dataclass(frozen=True)
class Outline:
    """Layers and output heads in the order in which they run, whatever is decided for them."""

    batch: Batch
    """A segment for each layer, and an empty one for each head: its layer is ``HEAD``, its tokens
    those that go through it."""
    context: Ints
    """Per segment: key-value positions read."""
    heads: Ints
    """Numbers of the heads' segments."""

    @classmethod
    def of(cls, batch: Batch, context: Ints, heads: Ints) -> Outline:
        """Put heads where they run; ``heads`` are their ``(step, tokens)``, steps ascending.

        A head comes after the last layer of its step.
        """
        step, tokens = heads.reshape(-1, 2).T
        at = np.searchsorted(batch.step, step, side="right")
        shift = np.searchsorted(at, np.arange(len(batch.step)), side="right")  # heads before each
        made = replace(
            batch,
            step=np.insert(batch.step, at, step),
            layer=np.insert(batch.layer, at, HEAD),
            tokens=np.insert(batch.tokens, at, tokens),
            segment=batch.segment + shift[batch.segment],
            weight=None,
            predicted=None,
        )
        return cls(made, np.insert(context, at, 0), at + np.arange(len(at)))

    def part(self, start: int, stop: int) -> Outline:
        """Segments ``start`` to ``stop`` (exclusive)."""
        if (start, stop) == (0, len(self.batch.step)):
            return self
        a, b = np.searchsorted(self.heads, (start, stop))
        return Outline(
            self.batch.part(start, stop), self.context[start:stop], self.heads[a:b] - start
        )

    def course(self, costs: CostModel, decisions: Decisions) -> Course:
        """With what was decided for the layers: one list of each kind for each of them."""
        at = self.heads - np.arange(len(self.heads))

        def listed(lists: Ragged) -> Ragged:
            if not len(lists.values):
                return Ragged.none(len(self.batch.step))
            return Ragged(np.insert(lists.first, at, lists.first[at]), lists.values)

        made = replace(
            decisions,
            evict=listed(decisions.evict),
            fetch=listed(decisions.fetch),
            unused=listed(decisions.unused),
        )
        return Course(costs, self.batch, made, self.context)


@dataclass(frozen=True)
class Course:
    """Layers and output heads, what was decided for them, and what it costs."""

    costs: CostModel
    batch: Batch
    decisions: Decisions
    context: Ints
    """Per segment: key-value positions read."""

    def __len__(self) -> int:
        return len(self.batch.step)

    def part(self, start: int, stop: int) -> Course:
        """Segments ``start`` to ``stop`` (exclusive)."""
        return Course(
            self.costs,
            self.batch.part(start, stop),
            self.decisions.part(self.batch, start, stop),
            self.context[start:stop],
        )
