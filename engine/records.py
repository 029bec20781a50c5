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
from engine.course import HEAD, Course
from engine.decision import Batch, Decisions, Ints, Ragged
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Work, empty
from engine.layout import lay_out
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.timeline import Changes, pin_rows

PINS = -2
"""In place of a layer's number: what a new plan changed before a step."""
LAYER, START, END, CHOICES, ACTIVE, EVICTED, FETCHED, UNUSED, REST = range(9)
"""A record begins with these integers. Then come the active experts and their actions; where
``rest`` says so, as many token counts (1 each if not) and keeps (none if not); the evicted, the
fetched and the unused; on a measured clock, starts and ends of the active experts by turns.
``rest`` of a head: its tokens."""
BODY = 9
FIRST, STEP, TOKENS, CONTEXT, TOKEN, COSTS = range(6)
"""Of each step: its first record, and what holds for all its records."""
STEP_WIDTH = 6
WORK_ROW, MOVE_ROW = len(WORK.names or ()) - 1, len(MOVES.names or ()) - 1
"""Numbers in a measured lane's row, which is kept without its step."""

_MEASURED = int(Clock.MEASURED)


@dataclass(frozen=True)
class Lanes:
    """What lanes did in some records, on a measured clock."""

    work: Ints
    """``(rows, 9)``: rows of :data:`engine.events.WORK` without their step."""
    moves: Ints
    """``(rows, 8)``: rows of ``MOVES`` without theirs."""
    begin: Ints
    """``(records, 2)``: where in work and in moves each record's rows begin."""
    count: Ints
    """``(records, 2)``: how many these are."""

    def where(self, wanted: NDArray[np.bool_]) -> Lanes:
        """Of the records for which ``wanted`` is true."""
        return replace(self, begin=self.begin[wanted], count=self.count[wanted])

    def rows(self, step: Ints) -> tuple[Rows, Rows]:
        """With their steps, given each record's."""
        made: list[Rows] = []
        for kept, column in ((self.work, 0), (self.moves, 1)):
            count = self.count[:, column]
            at = _spread(self.begin[:, column], count)
            made.append(np.concatenate((np.repeat(step, count)[:, None], kept[at]), axis=1))
        return made[0], made[1]


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
    predicted: NDArray[np.int16]
    """What the next layer was predicted to choose; as many rows, or none at all."""
    lanes: Lanes | None = None
    """What each lane did, where a device measured it."""

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
            self,
            steps=self.steps[wanted],
            heads=self.heads[wanted],
            body=self.body[wanted],
            lanes=None if self.lanes is None else self.lanes.where(wanted),
        )

    def rows(self, waiting: dict[int, int] | None = None) -> tuple[Rows, Rows]:
        """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which they happened.

        ``waiting`` holds what waits for the link (:class:`engine.layout.Laid`): who reads a run
        part by part gives the same dict each time, and finds it brought up to date.
        """
        if self.lanes is not None:
            return self.lanes.rows(self.step)
        if self.clock == _MEASURED:
            return self.where(self.heads[:, LAYER] != PINS)._measured(), empty(MOVES)
        waiting = {} if waiting is None else waiting
        bounds = np.flatnonzero(np.diff(self.steps[:, COSTS])) + 1
        work, moves = [empty(WORK)], [empty(MOVES)]
        for start, stop in pairwise([0, *bounds.tolist(), len(self)]):
            if stop > start:
                self._modelled(start, stop, waiting, work, moves)
        return np.concatenate(work), np.concatenate(moves)

    def _modelled(
        self, start: int, stop: int, waiting: dict[int, int], work: list[Rows], moves: list[Rows]
    ) -> None:
        """Add the rows of records ``start`` to ``stop`` (exclusive), all under the same costs."""
        heads, steps = self.heads[start:stop], self.steps[start:stop]
        number = int(steps[0, COSTS])
        costs, changes = self.costs[number]
        if heads[0, LAYER] == PINS:
            at, before = int(heads[0, START]), self.costs[max(number - 1, 0)][0]
            columns, step = self.model.experts, int(steps[0, STEP])
            made = pin_rows(before, costs, step, columns, at, changes, waiting)
            work.append(made[0])
            moves.append(made[1])
            waiting.clear()
        at = start + np.flatnonzero(heads[:, LAYER] != PINS)
        course = self._course(at, costs)
        laid = lay_out(course, np.ascontiguousarray(self.heads[at, START]), waiting)
        waiting.clear()
        waiting.update(laid.waiting)
        work.append(laid.work)
        moves.append(laid.moves)

    def _course(self, records: Ints, costs: CostModel) -> Course:
        """Layers and heads as columns."""
        heads, steps = self.heads[records], self.steps[records]
        segment, experts, actions, counts, keeps = self._entries(records)
        is_head = heads[:, LAYER] == HEAD
        batch = Batch(
            self.model.experts,
            np.ascontiguousarray(steps[:, STEP]),
            np.ascontiguousarray(heads[:, LAYER]),
            np.where(is_head, heads[:, REST], steps[:, TOKENS]),
            segment,
            experts,
            counts,
        )
        at = self.body[records] + self._lists(records) * heads[:, ACTIVE]
        lists: list[Ragged] = []
        for many in (heads[:, EVICTED], heads[:, FETCHED], heads[:, UNUSED]):
            if not many.any():  # as nearly always
                lists.append(Ragged.none(len(records)))
                continue
            lists.append(Ragged(np.cumsum([0, *many]), self.stream[_spread(at, many)]))
            at = at + many
        decisions = Decisions(actions, keeps.astype(np.bool_), *lists)
        return Course(costs, batch, decisions, np.ascontiguousarray(steps[:, CONTEXT]))

    def _lists(self, records: Ints) -> Ints:
        """Per record: how many lists as long as its active experts it begins with."""
        heads = self.heads[records]
        return np.where((heads[:, LAYER] >= 0) & (heads[:, REST] > 0), 4, 2)

    def _entries(self, records: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Per active expert: index into ``records``, expert, action, token count, keep."""
        active, rest = self.heads[records, ACTIVE], self._lists(records) > 2
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
        lists = self._lists(np.arange(len(heads))) * active
        lists += heads[:, EVICTED] + heads[:, FETCHED] + heads[:, UNUSED]
        times = _spread(self.body + lists, 2 * active)
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
            predicted=self.predicted[rows] if len(self.predicted) else None,
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
