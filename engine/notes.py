"""Notes: what the engine takes down of each layer as it runs.

Taking a layer down must cost next to nothing, and what is kept must not be many small objects. So
a layer is one run of integers appended to an array; whoever wants rows makes them of many layers
at once (:mod:`engine.records`): the trace at the end, a viewer for each frame.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Decision
from engine.lanes import LaneRows
from engine.records import (
    BODY,
    CHOICES,
    END,
    FIRST,
    HEAD,
    LAYER,
    MOVE_ROW,
    PINS,
    STEP,
    STEP_WIDTH,
    WORK_ROW,
    Lanes,
    Records,
)
from engine.spec import ModelSpec
from engine.timeline import Changes

Span = tuple[int, int]
"""Start and end in ns."""


class Pins(NamedTuple):
    """A plan that took effect before a step."""

    start_ns: int
    end_ns: int
    costs: CostModel
    """What holds from here on."""
    changes: Changes
    lanes: LaneRows | None = None
    """What that took, where the device measures it."""


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
        self._predicted = array("q")
        """One for each choice, once anything is predicted; empty before."""
        self._work = array("q")
        self._moves = array("q")
        """Rows of lanes that were measured, without their step; empty elsewhere."""
        self._rows = array("q")
        """By record: where in these two its rows begin."""

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
            self._short(PINS, plan.start_ns, plan.end_ns, 0, plan.lanes)
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
        spans: Sequence[Span] | LaneRows = (),
        predicted: NDArray[np.int64] | None = None,
    ) -> None:
        """One layer of the step has run.

        ``experts`` and ``weights`` are the router's choices, ``(tokens, top_k)``;
        ``spans`` each active expert's start and end, on a measured clock, or what all lanes did;
        ``predicted`` what the next layer is predicted to choose, of the same shape.
        """
        if isinstance(spans, LaneRows):
            start_ns, end_ns = spans.start_ns, spans.end_ns
            self._lanes(spans)
            spans = ()
        stream, chosen, active = self._stream, self._experts, decision.experts
        for before in (chosen, self._predicted):
            del before[len(self._weights) :]  # what an interrupt left of another
        at, first, evict = len(stream), len(chosen), decision.evict
        if predicted is not None or self._predicted:
            self._predicted.extend([-1] * (first - len(self._predicted)))
            known = np.full(experts.shape, -1) if predicted is None else predicted
            self._predicted.frombytes(known.astype(np.int64).tobytes())
        chosen.frombytes(experts.tobytes())
        self._weights.frombytes(weights.tobytes())
        fetch, unused = decision.fetch, decision.unused
        rest = len(active) < experts.size or True in decision.keep  # one expert, several choices
        values = (
            layer, start_ns, end_ns, first, len(active), len(evict), len(fetch), len(unused), rest,
            *active, *decision.actions,
            *((*decision.tokens, *decision.keep) if rest else ()),
            *evict, *fetch, *unused,
            *chain.from_iterable(spans),
        )  # fmt: skip
        stream.frombytes(_packer(len(values))(*values))  # faster than extend
        self._begins.append(at)

    def head(self, tokens: int, start_ns: int, end_ns: int, lanes: LaneRows | None = None) -> None:
        """The output head, which ends a complete step."""
        self._short(HEAD, start_ns, end_ns, tokens, lanes)

    def _lanes(self, lanes: LaneRows) -> None:
        """Rows of the record that comes next, in place of what an interrupt left of one."""
        at = 2 * len(self._begins)
        if at < len(self._rows):
            del self._work[self._rows[at] :], self._moves[self._rows[at + 1] :]
            del self._rows[at:]
        self._rows.extend((len(self._work), len(self._moves)))  # before the rows: see read
        self._work.extend(lanes.work)
        self._moves.extend(lanes.moves)

    def _short(
        self, what: int, start_ns: int, end_ns: int, tokens: int, lanes: LaneRows | None
    ) -> None:
        at = len(self._stream)
        if lanes is not None:
            self._lanes(lanes)
        self._stream.extend((what, start_ns, end_ns, len(self._experts), 0, 0, 0, 0, tokens))
        self._begins.append(at)

    def end_of(self, step: int) -> int | None:
        """When the newest step's last layer ended, or a plan's changes before it; its head not."""
        newest = self._steps[-STEP_WIDTH:]
        if not newest or newest[STEP] != step:
            return None
        for at in reversed(self._begins[newest[FIRST] :]):
            if self._stream[at + LAYER] != HEAD:
                return self._stream[at + END]
        return None

    def read(self, cursor: int = 0) -> Records:
        """What is new since ``cursor`` (``end`` of what was read last; 0: all)."""
        begins = np.array(self._begins[cursor:], dtype=np.int64)
        base = int(begins[0]) if len(begins) else len(self._stream)
        stream = np.array(self._stream[base:], dtype=np.int64)  # these records, and perhaps more
        heads = stream[(begins - base)[:, None] + np.arange(BODY)]  # (records, fields)
        first = int(heads[0, CHOICES]) if len(heads) else len(self._experts)
        top_k = self.model.top_k
        lanes = self._read_lanes(cursor, len(begins))
        steps = np.array(self._steps[:], dtype=np.int64).reshape(-1, STEP_WIDTH)
        mine = np.searchsorted(steps[:, FIRST], cursor + np.arange(len(begins)), side="right") - 1
        return Records(
            model=self.model,
            clock=self.clock,
            end=cursor + len(begins),
            steps=steps[mine],
            heads=heads,
            body=begins - base + BODY,
            stream=stream,
            costs=self._costs,
            origin=first,
            choices=np.array(self._experts[first:], dtype=np.int64).reshape(-1, top_k),
            weights=np.array(self._weights[first:], dtype=np.float32).reshape(-1, top_k),
            predicted=np.array(self._predicted[first:], dtype=np.int16).reshape(-1, top_k),
            lanes=lanes,
        )

    def _read_lanes(self, cursor: int, count: int) -> Lanes | None:
        """Rows of so many records; None where lanes are not measured."""
        if not self._rows:
            return None
        ends = len(self._work), len(self._moves)  # of the last record, if no other has begun
        first = self._rows[2 * cursor : 2 * (cursor + count + 1)]
        if len(first) < 2 * (count + 1):
            first.extend(ends)
        at = np.array(first, dtype=np.int64).reshape(-1, 2)  # (records + 1, work and moves)
        (work, moves), (work_end, moves_end) = at[0].tolist(), at[-1].tolist()
        return Lanes(
            work=np.array(self._work[work:work_end], dtype=np.int64).reshape(-1, WORK_ROW),
            moves=np.array(self._moves[moves:moves_end], dtype=np.int64).reshape(-1, MOVE_ROW),
            begin=(at[:-1] - at[0]) // (WORK_ROW, MOVE_ROW),
            count=(at[1:] - at[:-1]) // (WORK_ROW, MOVE_ROW),
        )


@cache
def _packer(count: int) -> Callable[..., bytes]:
    """Makes bytes of so many integers, as an ``array("q")`` holds them."""
    return Struct(f"{count}q").pack
