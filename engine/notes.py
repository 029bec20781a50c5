"""Notes: what the engine takes down of each layer as it runs, and the rows made of them later.

Taking a layer down must cost next to nothing, and what is kept must not be many small objects. So
a layer is one run of integers appended to an array; whoever wants rows makes them, of many layers
at once: the trace at the end, a viewer for each frame.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

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
(
    _STEP, _LAYER, _TOKENS, _CONTEXT, _TOKEN, _START, _END, _COSTS, _CHOICES, _ACTIVE, _EVICTED
) = range(11)  # fmt: skip
"""A record begins with these integers. Then come the active experts, as many token counts, actions
and keeps; the evicted; on a measured clock, starts and ends of the active experts by turns."""
_BODY = 11

Changes = Sequence[tuple[int, int, Why, int]]
"""What a new plan does: ``(layer, expert, why, bytes copied)`` each."""


class Notes:
    """One run's notes. One writer; any thread may read what was whole when it asked.

    A layer becomes visible with the last of its appends, so an interrupt leaves whole layers.
    """

    def __init__(self, model: ModelSpec, costs: CostModel, clock: int) -> None:
        self.model = model
        self.clock = clock
        self._costs: list[tuple[CostModel, Changes]] = [(costs, ())]
        self._begins = array("q")
        self._stream = array("q")
        self._experts = array("q")
        self._weights = array("f")

    def __repr__(self) -> str:
        return f"Notes({len(self)} records)"

    def __len__(self) -> int:
        return len(self._begins)

    def layer(
        self,
        step: int,
        layer: int,
        tokens: int,
        context: int,
        token: int,
        start_ns: int,
        end_ns: int,
        decision: Decision,
        experts: NDArray[np.int64],
        weights: NDArray[np.float32],
        spans: Sequence[Span] = (),
    ) -> None:
        """One layer of one step has run.

        ``tokens`` is the step's, ``token`` the row of its first, ``context`` the key-value
        positions read. ``experts`` and ``weights`` are the router's choices, ``(tokens, top_k)``;
        ``spans`` each active expert's start and end, on a measured clock.
        """
        stream, chosen = self._stream, self._experts
        at, active, evict = len(stream), decision.experts, decision.evict
        costs = len(self._costs) - 1
        head = (step, layer, tokens, context, token, start_ns, end_ns, costs, len(chosen))
        chosen.frombytes(experts.tobytes())
        self._weights.frombytes(weights.tobytes())
        stream.extend(
            (
                *head, len(active), len(evict),
                *active, *decision.tokens, *decision.actions, *decision.keep, *evict,
            )
        )  # fmt: skip
        for span in spans:
            stream.extend(span)
        self._begins.append(at)

    def head(self, step: int, tokens: int, start_ns: int, end_ns: int) -> None:
        """The output head, which ends a complete step."""
        self._short(step, _HEAD, tokens, start_ns, end_ns)

    def pins(
        self, step: int, start_ns: int, end_ns: int, costs: CostModel, changes: Changes
    ) -> None:
        """Before a step, a new plan made ``changes``; its costs hold from here on."""
        self._costs.append((costs, changes))
        self._short(step, _PINS, 0, start_ns, end_ns)

    def _short(self, step: int, what: int, tokens: int, start_ns: int, end_ns: int) -> None:
        at, costs, chosen = len(self._stream), len(self._costs) - 1, len(self._experts)
        self._stream.extend((step, what, tokens, 0, 0, start_ns, end_ns, costs, chosen, 0, 0))
        self._begins.append(at)

    def end_of(self, step: int) -> int | None:
        """When the newest step's last layer ended, or a plan's changes before it; its head not."""
        for at in reversed(self._begins):
            if self._stream[at + _STEP] != step:
                return None
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
        return Part(
            model=self.model,
            clock=self.clock,
            end=cursor + len(begins),
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
    heads: Ints
    """``(records, 11)``: what each begins with."""
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
    def steps(self) -> Ints:
        """Per record: its step."""
        return self.heads[:, _STEP]

    @property
    def is_head(self) -> NDArray[np.bool_]:
        """Per record: whether it is the output head."""
        return self.heads[:, _LAYER] == _HEAD

    def where(self, wanted: NDArray[np.bool_]) -> Part:
        """Only the records for which ``wanted`` is true."""
        return replace(self, heads=self.heads[wanted], body=self.body[wanted])

    def rows(self) -> tuple[Rows, Rows]:
        """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which they happened."""
        if self.clock == _MEASURED:
            return self.where(self.heads[:, _LAYER] != _PINS)._measured(), empty(MOVES)
        bounds = np.flatnonzero(np.diff(self.heads[:, _COSTS])) + 1
        parts = [
            self._modelled(start, stop)
            for start, stop in pairwise([0, *bounds.tolist(), len(self)])
            if stop > start
        ]
        work, moves = ([part[at] for part in parts] for at in (0, 1))
        return np.concatenate([empty(WORK), *work]), np.concatenate([empty(MOVES), *moves])

    def _modelled(self, start: int, stop: int) -> tuple[Rows, Rows]:
        """Records ``start`` to ``stop`` (exclusive), all under the same costs."""
        heads = self.heads[start:stop]
        costs, changes = self.costs[int(heads[0, _COSTS])]
        log = Log([], [])
        if heads[0, _LAYER] == _PINS:
            Timeline(costs, int(heads[0, _START])).pins(int(heads[0, _STEP]), changes, log)
        is_head = heads[:, _LAYER] == _HEAD
        at = np.flatnonzero(heads[:, _LAYER] >= 0)
        batch, decisions = self._batch(start + at)
        laid = lanes(costs, batch, decisions, heads[at, _CONTEXT])
        gaps = np.bincount(np.searchsorted(at, np.flatnonzero(is_head)), minlength=len(at) + 1)
        begin = np.ascontiguousarray(heads[at, _START])
        made = layer_rows(costs, batch, decisions, laid, begin, gaps, np.zeros_like(gaps))
        made.work[made.work_gaps] = _dense(heads[is_head], int(Lane.GPU), int(Clock.MODELLED))
        return (
            np.concatenate([to_rows(log.work, WORK), made.work]),
            np.concatenate([to_rows(log.moves, MOVES), made.moves]),
        )

    def _batch(self, records: Ints) -> tuple[Batch, Decisions]:
        """Layers as columns."""
        heads, body = self.heads[records], self.body[records]
        active, evicted = heads[:, _ACTIVE], heads[:, _EVICTED]
        segment = np.repeat(np.arange(len(records)), active)
        where = _spread(body, active)
        size = active[segment]
        step, layer, tokens = (np.ascontiguousarray(heads[:, at]) for at in range(3))
        batch = Batch(
            self.model.experts,
            step,
            layer,
            tokens,
            segment,
            self.stream[where],
            self.stream[where + size],
        )
        decisions = Decisions(
            self.stream[where + 2 * size],
            self.stream[where + 3 * size].astype(bool),
            np.repeat(np.arange(len(records)), evicted),
            self.stream[_spread(body + 4 * active, evicted)],
        )
        return batch, decisions

    def _measured(self) -> Rows:
        """All on the CPU: what ran between two layers' experts is the dense part."""
        heads, active = self.heads, self.heads[:, _ACTIVE]
        is_head = self.is_head
        times = _spread(self.body + 4 * active + heads[:, _EVICTED], 2 * active)
        spans = self.stream[times].reshape(-1, 2)  # (entries, start and end)
        base = np.concatenate(([0], np.cumsum(1 + active)))[:-1]
        rows = np.empty((len(heads) + len(spans), len(WORK.names or ())), dtype=np.int64)
        rows[base] = _dense(heads, int(Lane.CPU), _MEASURED)
        entry = np.concatenate(([0], np.cumsum(active)))[:-1]
        rows[base[~is_head], -2] = spans[entry[~is_head], 0]  # the dense part ends there
        of = np.repeat(np.arange(len(heads)), active)
        where = _spread(self.body, active)
        experts = np.column_stack(
            [
                heads[of, _STEP],
                heads[of, _LAYER],
                self.stream[where],
                np.full(len(of), Work.EXPERT),
                np.full(len(of), Action.CPU),
                self.stream[where + active[of]],
                np.full(len(of), Lane.CPU),
                spans,
                np.full(len(of), _MEASURED),
            ]
        )
        rows[_spread(base + 1, active)] = experts
        return rows

    def routing(self) -> Routing:
        """The router's choices, one row per token and layer."""
        layers = self.heads[self.heads[:, _LAYER] >= 0]
        tokens = layers[:, _TOKENS]
        step, layer, token = (np.repeat(layers[:, at], tokens) for at in (_STEP, _LAYER, _TOKEN))
        rows = _spread((layers[:, _CHOICES] - self.origin) // self.model.top_k, tokens)
        nth = _spread(np.zeros_like(tokens), tokens)
        return Routing(
            step=step.astype(np.int32),
            layer=layer.astype(np.int32),
            token=(token + nth).astype(np.int32),
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


def _spread(begins: Ints, counts: Ints) -> Ints:
    """``counts[i]`` numbers up from ``begins[i]``, for each i."""
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(int(counts.sum()))


def _dense(heads: Ints, lane: int, clock: int) -> Rows:
    """The dense part of records, from their start to their end."""
    rows = np.empty((len(heads), len(WORK.names or ())), dtype=np.int64)
    for column, value in enumerate(
        (heads[:, _STEP], heads[:, _LAYER], -1, int(Work.DENSE), -1, heads[:, _TOKENS], lane)
    ):
        rows[:, column] = value
    rows[:, 7:9] = heads[:, (_START, _END)]
    rows[:, 9] = clock
    return rows
