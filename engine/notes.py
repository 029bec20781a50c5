"""Notes: what the engine takes down of each layer as it runs, and the rows made of them later.

Taking a layer down must cost next to nothing, and what is kept must not be many small objects. So
a layer is one run of integers appended to an array; whoever wants rows makes them, of many layers
at once: the trace at the end, a viewer for each frame.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Why, Work, empty, to_rows
from engine.layout import Ints, lanes, layer_rows
from engine.spec import ModelSpec
from engine.timeline import Log, Timeline
from engine.trace import Routing

Span = tuple[int, int]
"""Start and end in ns."""

ROUTED = np.dtype([(name, np.int64) for name in ("step", "layer", "token", "rank", "expert")])
"""Routing as a viewer reads it: one row per token, layer and rank."""

_MEASURED = int(Clock.MEASURED)
_HEAD, _PINS = -1, -2
"""In place of a layer's number: the output head; what a new plan changed before a step."""
_LAYER, _START, _END, _CHOICES, _ACTIVE, _EVICTED, _HAS = range(7)
"""A record begins with these integers. Then come the active experts; their actions; where ``has``
says so, as many token counts (1 each if not) and keeps (none if not); the evicted; on a measured
clock, starts and ends of the active experts by turns. ``has`` of the head: its tokens."""
_BODY = 7
_COUNTS, _KEEPS = 1, 2
_FIRST, _STEP, _TOKENS, _CONTEXT, _TOKEN, _COSTS = range(6)
"""Of each step: its first record, and what holds for all its records."""

Changes = Sequence[tuple[int, int, Why, int]]
"""What a new plan does: ``(layer, expert, why, bytes copied)`` each."""


class Pins(NamedTuple):
    """A plan that took effect before a step."""

    start_ns: int
    end_ns: int
    costs: CostModel
    """What holds from here on."""
    changes: Changes


class Notes:
    """One run's notes. One writer; any thread may read what was whole when it asked.

    A layer becomes visible with the last of its appends, so an interrupt leaves whole layers.
    Readers take slices of the arrays, which are copies: an array whose buffer is lent cannot grow.
    """

    def __init__(self, model: ModelSpec, costs: CostModel, clock: int) -> None:
        self.model = model
        self.clock = clock
        self._costs: list[tuple[CostModel, Changes]] = [(costs, ())]
        self._steps = array("q")
        self._begins = array("q")
        self._stream = array("q")
        self._experts = array("q")
        self._weights = array("f")

    def __repr__(self) -> str:
        return f"Notes({len(self)} records)"

    def __len__(self) -> int:
        return len(self._begins)

    def step(
        self, step: int, tokens: int, context: int, token: int, pins: Sequence[Pins] = ()
    ) -> None:
        """A step begins; ``pins`` are the plans that take effect before it.

        ``tokens`` are processed, ``token`` is the row of the first; ``context`` key-value
        positions are read in all.
        """
        for plan in pins:
            self._costs.append((plan.costs, plan.changes))
            self._steps.extend((len(self), step, tokens, context, token, len(self._costs) - 1))
            self._short(_PINS, plan.start_ns, plan.end_ns, 0)
        if not pins:
            self._steps.extend((len(self), step, tokens, context, token, len(self._costs) - 1))

    def layer(
        self,
        layer: int,
        start_ns: int,
        end_ns: int,
        decision: Decision,
        experts: NDArray[np.int64],
        weights: NDArray[np.float32],
        spans: Sequence[Span] = (),
    ) -> None:
        """One layer of the step has run.

        ``experts`` and ``weights`` are the router's choices, ``(tokens, top_k)``;
        ``spans`` each active expert's start and end, on a measured clock.
        """
        stream, chosen, active = self._stream, self._experts, decision.experts
        at, choices = len(stream), len(chosen)
        chosen.frombytes(experts.tobytes())
        self._weights.frombytes(weights.tobytes())
        if len(experts) == 1 and True not in decision.keep and not decision.evict:
            values = (
                layer,
                start_ns,
                end_ns,
                choices,
                len(active),
                0,
                0,
                *active,
                *decision.actions,
            )
            stream.frombytes(_packer(len(values))(*values))  # several times as fast as extend
        else:
            has, evict = _COUNTS | _KEEPS, decision.evict
            stream.extend(
                (
                    layer, start_ns, end_ns, choices, len(active), len(evict), has,
                    *active, *decision.actions, *decision.tokens, *decision.keep, *evict,
                )
            )  # fmt: skip
        for span in spans:
            stream.extend(span)
        self._begins.append(at)

    def head(self, tokens: int, start_ns: int, end_ns: int) -> None:
        """The output head, which ends a complete step."""
        self._short(_HEAD, start_ns, end_ns, tokens)

    def _short(self, what: int, start_ns: int, end_ns: int, tokens: int) -> None:
        at = len(self._stream)
        self._stream.extend((what, start_ns, end_ns, len(self._experts), 0, 0, tokens))
        self._begins.append(at)

    def end_of(self, step: int) -> int | None:
        """When the newest step's last layer ended, or a plan's changes before it; its head not."""
        if self._steps[_STEP - 6 :][:1].tolist() != [step]:
            return None
        for at in reversed(self._begins[self._steps[_FIRST - 6] :]):
            if self._stream[at + _LAYER] != _HEAD:
                return self._stream[at + _END]
        return None

    def read(self, cursor: int = 0) -> Part:
        """What is new since ``cursor`` (a part's ``end``; 0: all). A copy."""
        begins = np.array(self._begins[cursor:], dtype=np.int64)
        base = int(begins[0]) if len(begins) else len(self._stream)
        stream = np.array(self._stream[base:], dtype=np.int64)  # these records, and perhaps more
        heads = stream[(begins - base)[:, None] + np.arange(_BODY)]  # (records, fields)
        first = int(heads[0, _CHOICES]) if len(heads) else len(self._experts)
        top_k = self.model.top_k
        steps = np.array(self._steps[:], dtype=np.int64).reshape(-1, 6)
        mine = np.searchsorted(steps[:, _FIRST], cursor + np.arange(len(begins)), side="right") - 1
        return Part(
            model=self.model,
            clock=self.clock,
            end=cursor + len(begins),
            steps=steps[mine],
            heads=heads,
            body=begins - base + _BODY,
            stream=stream,
            costs=self._costs,
            origin=first,
            choices=np.array(self._experts[first:], dtype=np.int64).reshape(-1, top_k),
            weights=np.array(self._weights[first:], dtype=np.float32).reshape(-1, top_k),
        )


@dataclass(frozen=True)
class Part:
    """Some notes in a row, to make rows of."""

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
        return self.steps[:, _STEP]

    @property
    def is_head(self) -> NDArray[np.bool_]:
        """Per record: whether it is the output head."""
        return self.heads[:, _LAYER] == _HEAD

    def where(self, wanted: NDArray[np.bool_]) -> Part:
        """Only the records for which ``wanted`` is true."""
        return replace(
            self, steps=self.steps[wanted], heads=self.heads[wanted], body=self.body[wanted]
        )

    def rows(self) -> tuple[Rows, Rows]:
        """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which they happened."""
        if self.clock == _MEASURED:
            return self.where(self.heads[:, _LAYER] != _PINS)._measured(), empty(MOVES)
        bounds = np.flatnonzero(np.diff(self.steps[:, _COSTS])) + 1
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
        costs, changes = self.costs[int(steps[0, _COSTS])]
        log = Log([], [])
        if heads[0, _LAYER] == _PINS:
            Timeline(costs, int(heads[0, _START])).pins(int(steps[0, _STEP]), changes, log)
        is_head = heads[:, _LAYER] == _HEAD
        at = np.flatnonzero(heads[:, _LAYER] >= 0)
        batch, decisions = self._batch(start + at)
        laid = lanes(costs, batch, decisions, steps[at, _CONTEXT])
        gaps = np.bincount(np.searchsorted(at, np.flatnonzero(is_head)), minlength=len(at) + 1)
        begin = np.ascontiguousarray(heads[at, _START])
        made = layer_rows(costs, batch, decisions, laid, begin, gaps, np.zeros_like(gaps))
        ended = heads[is_head]
        made.work[made.work_gaps] = _dense(
            steps[is_head, _STEP], ended, ended[:, _HAS], int(Lane.GPU), int(Clock.MODELLED)
        )
        return (
            np.concatenate([to_rows(log.work, WORK), made.work]),
            np.concatenate([to_rows(log.moves, MOVES), made.moves]),
        )

    def _batch(self, records: Ints) -> tuple[Batch, Decisions]:
        """Layers as columns."""
        heads, steps = self.heads[records], self.steps[records]
        segment, experts, actions, counts, keeps = self._entries(records)
        batch = Batch(
            self.model.experts,
            np.ascontiguousarray(steps[:, _STEP]),
            np.ascontiguousarray(heads[:, _LAYER]),
            np.ascontiguousarray(steps[:, _TOKENS]),
            segment,
            experts,
            counts,
        )
        evicted = heads[:, _EVICTED]
        decisions = Decisions(
            actions,
            keeps.astype(bool),
            np.repeat(np.arange(len(records)), evicted),
            self.stream[_spread(self.body[records] + 4 * heads[:, _ACTIVE], evicted)],
        )
        return batch, decisions

    def _entries(self, records: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Per active expert: index into ``records``, expert, action, token count, keep."""
        active, has = self.heads[records, _ACTIVE], self.heads[records, _HAS] > 0
        segment = np.repeat(np.arange(len(records)), active)
        where, size = _spread(self.body[records], active), active[segment]
        counts, keeps = np.ones_like(where), np.zeros_like(where)
        more = np.flatnonzero(has[segment])
        counts[more] = self.stream[where[more] + 2 * size[more]]
        keeps[more] = self.stream[where[more] + 3 * size[more]]
        return segment, self.stream[where], self.stream[where + size], counts, keeps

    def _measured(self) -> Rows:
        """All on the CPU: what ran between two layers' experts is the dense part."""
        heads, steps = self.heads, self.steps[:, _STEP]
        is_head, active = self.is_head, heads[:, _ACTIVE]
        lists = np.where(~is_head & (heads[:, _HAS] > 0), 4, 2)
        times = _spread(self.body + lists * active + heads[:, _EVICTED], 2 * active)
        spans = self.stream[times].reshape(-1, 2)  # (entries, start and end)
        base = np.arange(len(heads)) + np.cumsum(active) - active
        rows = np.empty((len(heads) + len(spans), len(WORK.names or ())), dtype=np.int64)
        tokens = np.where(is_head, heads[:, _HAS], self.steps[:, _TOKENS])
        rows[base] = _dense(steps, heads, tokens, int(Lane.CPU), _MEASURED)
        first = np.cumsum(active) - active
        rows[base[~is_head], 8] = spans[first[~is_head], 0]  # the dense part ends there
        of, experts, _, counts, _ = self._entries(np.arange(len(heads)))
        ran = rows[_spread(base + 1, active)]
        for column, value in enumerate(
            (steps[of], heads[of, _LAYER], experts, int(Work.EXPERT), int(Action.CPU), counts)
        ):
            ran[:, column] = value
        ran[:, 6], ran[:, 7:9], ran[:, 9] = int(Lane.CPU), spans, _MEASURED
        rows[_spread(base + 1, active)] = ran
        return rows

    def routing(self) -> Routing:
        """The router's choices, one row per token and layer."""
        layers = np.flatnonzero(self.heads[:, _LAYER] >= 0)
        heads, steps = self.heads[layers], self.steps[layers]
        tokens = steps[:, _TOKENS]
        rows = _spread((heads[:, _CHOICES] - self.origin) // self.model.top_k, tokens)
        return Routing(
            step=np.repeat(steps[:, _STEP], tokens).astype(np.int32),
            layer=np.repeat(heads[:, _LAYER], tokens).astype(np.int32),
            token=_spread(steps[:, _TOKEN], tokens).astype(np.int32),
            experts=self.choices[rows].astype(np.int16),
            weights=self.weights[rows],
        )

    def routed(self) -> Rows:
        """The same as rows of :data:`ROUTED`."""
        routing = self.routing()
        top_k = routing.experts.shape[1]
        made = np.empty((len(routing), top_k, len(ROUTED.names or ())), dtype=np.int64)
        for column, values in enumerate((routing.step, routing.layer, routing.token)):
            made[:, :, column] = values[:, None]
        made[:, :, 3] = np.arange(top_k)
        made[:, :, 4] = routing.experts
        return made.reshape(-1, made.shape[2])


@cache
def _packer(count: int) -> Callable[..., bytes]:
    """Makes bytes of so many integers, as an ``array("q")`` holds them."""
    return Struct(f"{count}q").pack


def _spread(begins: Ints, counts: Ints) -> Ints:
    """``counts[i]`` numbers up from ``begins[i]``, for each i."""
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(int(counts.sum()))


def _dense(step: Ints, heads: Ints, tokens: Ints, lane: int, clock: int) -> Rows:
    """The dense part of records, from their start to their end."""
    rows = np.empty((len(heads), len(WORK.names or ())), dtype=np.int64)
    for column, value in enumerate(
        (step, np.maximum(heads[:, _LAYER], -1), -1, int(Work.DENSE), -1, tokens, lane)
    ):
        rows[:, column] = value
    rows[:, 7:9] = heads[:, (_START, _END)]
    rows[:, 9] = clock
    return rows
