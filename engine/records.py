"""Records: an engine's notes as they are kept, and the rows that are made of them.

A record is a short run of integers: one layer of one step, an output head, or the changes of a
plan. Rows are made of many records at once, by the same arithmetic as a replay's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decisions
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Work, empty
from engine.layout import Ints, lanes, layer_rows
from engine.spec import ModelSpec
from engine.timeline import Changes, pin_rows
from engine.trace import Routing

HEAD, PINS = -1, -2
"""In place of a layer's number: the output head; what a new plan changed before a step."""
LAYER, START, END, CHOICES, ACTIVE, EVICTED, REST = range(7)
"""A record begins with these integers. Then come the active experts and their actions; where
``rest`` says so, as many token counts (1 each if not) and keeps (none if not); the evicted; on a
measured clock, starts and ends of the active experts by turns. ``rest`` of a head: its tokens."""
BODY = 7
FIRST, STEP, TOKENS, CONTEXT, TOKEN, COSTS = range(6)
"""Of each step: its first record, and what holds for all its records."""
STEP_WIDTH = 6

_MEASURED = int(Clock.MEASURED)


@dataclass(frozen=True)
class Records:
    """Some records in a row. Copied: what is written meanwhile changes nothing here."""

    model: ModelSpec
    clock: int
    end: int
    """The cursor for what comes next."""
    steps: Ints
    """``(records, 6)``: what is known of each one's step."""
    heads: Ints
    """``(records, 7)``: what each begins with."""
    body: Ints
    """Per record: where in ``stream`` the rest of it begins."""
    stream: Ints
    costs: Sequence[tuple[CostModel, Changes]]
    """What plans brought: the costs under which a record stands, by number."""
    origin: int
    """Number of the first choice in ``choices``."""
    choices: Ints
    """``(rows, top_k)``: the router's."""
    weights: NDArray[np.float32]
    """Theirs."""

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def step(self) -> Ints:
        """Per record: its step."""
        return self.steps[:, STEP]

    @property
    def is_head(self) -> NDArray[np.bool_]:
        """Per record: whether it is the output head."""
        return self.heads[:, LAYER] == HEAD

    def where(self, wanted: NDArray[np.bool_]) -> Records:
        """Only the records for which ``wanted`` is true."""
        return replace(
            self, steps=self.steps[wanted], heads=self.heads[wanted], body=self.body[wanted]
        )

    def rows(self) -> tuple[Rows, Rows]:
        """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which they happened."""
        if self.clock == _MEASURED:
            return self.where(self.heads[:, LAYER] != PINS)._measured(), empty(MOVES)
        bounds = np.flatnonzero(np.diff(self.steps[:, COSTS])) + 1
        parts = [
            self._modelled(start, stop)
            for start, stop in pairwise([0, *bounds.tolist(), len(self)])
            if stop > start
        ]
        work, moves = ([part[at] for part in parts] for at in (0, 1))
        return np.concatenate([empty(WORK), *work]), np.concatenate([empty(MOVES), *moves])

    def _modelled(self, start: int, stop: int) -> tuple[Rows, Rows]:
        """Records ``start`` to ``stop`` (exclusive), all under the same costs."""
        heads, steps = self.heads[start:stop], self.steps[start:stop]
        costs, changes = self.costs[int(steps[0, COSTS])]
        pins = empty(WORK), empty(MOVES)
        if heads[0, LAYER] == PINS:
            pins = pin_rows(costs, int(steps[0, STEP]), int(heads[0, START]), changes)
        is_head = heads[:, LAYER] == HEAD
        at = np.flatnonzero(heads[:, LAYER] >= 0)
        batch, decisions = self._batch(start + at)
        laid = lanes(costs, batch, decisions, steps[at, CONTEXT])
        gaps = np.bincount(np.searchsorted(at, np.flatnonzero(is_head)), minlength=len(at) + 1)
        begin = np.ascontiguousarray(heads[at, START])
        made = layer_rows(costs, batch, decisions, laid, begin, gaps, np.zeros_like(gaps))
        ended = heads[is_head]
        made.work[made.work_gaps] = _dense(
            steps[is_head, STEP], ended, ended[:, REST], int(Lane.GPU), int(Clock.MODELLED)
        )
        return (
            np.concatenate([pins[0], made.work]),
            np.concatenate([pins[1], made.moves]),
        )

    def _batch(self, records: Ints) -> tuple[Batch, Decisions]:
        """Layers as columns."""
        heads, steps = self.heads[records], self.steps[records]
        segment, experts, actions, counts, keeps = self._entries(records)
        batch = Batch(
            self.model.experts,
            np.ascontiguousarray(steps[:, STEP]),
            np.ascontiguousarray(heads[:, LAYER]),
            np.ascontiguousarray(steps[:, TOKENS]),
            segment,
            experts,
            counts,
        )
        evicted = heads[:, EVICTED]
        decisions = Decisions(
            actions,
            keeps.astype(bool),
            np.repeat(np.arange(len(records)), evicted),
            self.stream[_spread(self.body[records] + 4 * heads[:, ACTIVE], evicted)],
        )
        return batch, decisions

    def _entries(self, records: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Per active expert: index into ``records``, expert, action, token count, keep."""
        active, rest = self.heads[records, ACTIVE], self.heads[records, REST] > 0
        segment = np.repeat(np.arange(len(records)), active)
        where, size = _spread(self.body[records], active), active[segment]
        counts, keeps = np.ones_like(where), np.zeros_like(where)
        more = np.flatnonzero(rest[segment])
        counts[more] = self.stream[where[more] + 2 * size[more]]
        keeps[more] = self.stream[where[more] + 3 * size[more]]
        return segment, self.stream[where], self.stream[where + size], counts, keeps

    def _measured(self) -> Rows:
        """All on the CPU: what ran between two layers' experts is the dense part."""
        heads, steps = self.heads, self.steps[:, STEP]
        is_head, active = self.is_head, heads[:, ACTIVE]
        lists = np.where(~is_head & (heads[:, REST] > 0), 4, 2)
        times = _spread(self.body + lists * active + heads[:, EVICTED], 2 * active)
        spans = self.stream[times].reshape(-1, 2)  # (entries, start and end)
        base = np.arange(len(heads)) + np.cumsum(active) - active
        rows = np.empty((len(heads) + len(spans), len(WORK.names or ())), dtype=np.int64)
        tokens = np.where(is_head, heads[:, REST], self.steps[:, TOKENS])
        rows[base] = _dense(steps, heads, tokens, int(Lane.CPU), _MEASURED)
        first = np.cumsum(active) - active
        rows[base[~is_head], 8] = spans[first[~is_head], 0]  # the dense part ends there
        of, experts, _, counts, _ = self._entries(np.arange(len(heads)))
        ran = rows[_spread(base + 1, active)]
        for column, value in enumerate(
            (steps[of], heads[of, LAYER], experts, int(Work.EXPERT), int(Action.CPU), counts)
        ):
            ran[:, column] = value
        ran[:, 6], ran[:, 7:9], ran[:, 9] = int(Lane.CPU), spans, _MEASURED
        rows[_spread(base + 1, active)] = ran
        return rows

    def routing(self) -> Routing:
        """The router's choices, one row per token and layer."""
        layers = np.flatnonzero(self.heads[:, LAYER] >= 0)
        heads, steps = self.heads[layers], self.steps[layers]
        tokens = steps[:, TOKENS]
        rows = _spread((heads[:, CHOICES] - self.origin) // self.model.top_k, tokens)
        return Routing(
            step=np.repeat(steps[:, STEP], tokens).astype(np.int32),
            layer=np.repeat(heads[:, LAYER], tokens).astype(np.int32),
            token=_spread(steps[:, TOKEN], tokens).astype(np.int32),
            experts=self.choices[rows].astype(np.int16),
            weights=self.weights[rows],
        )


def _spread(begins: Ints, counts: Ints) -> Ints:
    """``counts[i]`` numbers up from ``begins[i]``, for each i."""
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(int(counts.sum()))


def _dense(step: Ints, heads: Ints, tokens: Ints, lane: int, clock: int) -> Rows:
    """The dense part of records, from their start to their end."""
    rows = np.empty((len(heads), len(WORK.names or ())), dtype=np.int64)
    for column, value in enumerate(
        (step, np.maximum(heads[:, LAYER], -1), -1, int(Work.DENSE), -1, tokens, lane)
    ):
        rows[:, column] = value
    rows[:, 7:9] = heads[:, (START, END)]
    rows[:, 9] = clock
    return rows
