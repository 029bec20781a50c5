"""A run's clock on a device that works by itself: lanes as their events say, told once reached."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from engine.cost import CostModel
from engine.decision import Decision
from engine.devices.lane_clock import LaneClock
from engine.devices.runtime import Event, Runtime
from engine.events import Action, Lane, Why, Work
from engine.lanes import LaneRows
from engine.notes import Span
from engine.orchestrator import Change

_RESIDENT, _STREAM, _CPU = (int(action) for action in Action)
Begun = tuple[Event, Event]
"""Begin and end of something in a stream."""


@dataclass
class LayerMarks:
    """Events of one layer. What of the lists is an expert's goes by its place in the decision."""

    ready: Event
    """The dense part is through, and the choices are made."""
    looked: Begun
    """The layer's input crossed to the host."""
    resident: Begun | None = None
    """The call of all resident experts."""
    streamed: dict[int, tuple[Begun, Begun]] = field(default_factory=dict[int, tuple[Begun, Begun]])
    """By place: the copy, and the call."""
    cpu: dict[int, Span] = field(default_factory=dict[int, Span])
    """By place: ``time.perf_counter_ns``."""
    back: Begun | None = None
    """The CPU's results crossed to the device."""
    unused: list[Begun] = field(default_factory=list[Begun])
    """Copies of experts that no token needs, in the decision's order."""
    out: Event = None
    """The layer's result is there."""


@dataclass
class _Waiting:
    """A layer, or the head (no ``marks``), that is submitted and not told yet."""

    rows: LaneRows
    begin: Event
    end: Event
    tokens: int
    marks: LayerMarks | None = None
    decision: Decision | None = None


class StreamPace:
    """See :class:`engine.devices.base.Pace`. Times come with :meth:`settle`, layers in order."""

    def __init__(self, runtime: Runtime, costs: CostModel, columns: int) -> None:
        self.runtime = runtime
        self.costs = costs
        self.columns = columns
        self.copies: dict[int, Begun] = {}
        """Copies of experts made for a plan since :meth:`pins`; the device adds to them."""
        self.ahead: list[tuple[int, Begun]] = []
        """Copies of fetched experts that are not told yet; the device adds to them."""
        self.now_ns = 0
        self.clock = LaneClock(runtime)
        self.clock.start()
        self._origin = time.perf_counter_ns()
        self._queue: deque[_Waiting] = deque()
        self._last = runtime.record(runtime.current())
        """Where the work of the layer before ended, or the step began."""

    def __repr__(self) -> str:
        return f"StreamPace({len(self._queue)} layers not settled)"

    def begin(self) -> None:
        """A step begins now. The device has nothing to do, so the clocks are tied anew."""
        self.clock.anchor()
        self.now_ns = self._now()
        self._last = self.runtime.record(self.runtime.current())

    def pins(self, changes: Sequence[Change], costs: CostModel) -> LaneRows:
        """A new plan's copies, which are waited for: they are made before the step."""
        self.costs = costs
        rows = LaneRows(-1, settled=True, start_ns=self.now_ns)
        copies, self.copies = self.copies, {}
        for layer, expert, why, n_bytes in changes:
            copied = copies.pop(layer * self.columns + expert, None) if n_bytes else None
            if copied is None:
                rows.moved(layer, expert, why, -1, 0, self.now_ns, self.now_ns)
            else:
                self._pinned(rows, (layer, expert), why, copied)
        for flat, copied in copies.items():  # again, for the slots are another block now
            self._pinned(rows, divmod(flat, self.columns), Why.AHEAD, copied)
        rows.end_ns = self.now_ns = self._now()
        self._last = self.runtime.record(self.runtime.current())
        return rows

    def _pinned(self, rows: LaneRows, where: tuple[int, int], why: Why, copied: Begun) -> None:
        if not self.runtime.done(copied[1]):
            self.runtime.host_wait(copied[1])
        rows.copied(where, why, -1, 0, self.costs.expert_bytes, *self._span(copied))

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: LayerMarks
    ) -> LaneRows:
        """One layer is submitted; its rows fill when it is settled."""
        rows = LaneRows(layer)
        self._queue.append(_Waiting(rows, self._last, spans.out, tokens, spans, decision))
        self._last = spans.out
        return rows

    def head(self, tokens: int) -> LaneRows:
        """The step's last work is submitted."""
        rows, end = LaneRows(-1), self.runtime.record(self.runtime.current())
        self._queue.append(_Waiting(rows, self._last, end, tokens))
        self._last = end
        return rows

    def settle(self, *, wait: bool) -> None:
        """Fill the rows of what is through, in order; with ``wait`` of all that is submitted."""
        if wait and self._queue:  # of the last first: what came before it in its streams is through
            self._reached(self._queue[-1], wait=True)
        while self._queue and self._reached(self._queue[0], wait=wait):
            self._tell(self._queue[0])
            self._queue.popleft()  # after it: what an interrupt cuts short is told again

    def _reached(self, it: _Waiting, *, wait: bool) -> bool:
        """Whether all of it is through."""
        unused = [] if it.marks is None else it.marks.unused
        for end in (it.end, *(end for _, end in reversed(unused))):
            if not self.runtime.done(end):
                if not wait:
                    return False
                self.runtime.host_wait(end)
        return True

    def _tell(self, it: _Waiting) -> None:
        rows = it.rows
        rows.work.clear()
        rows.moves.clear()
        rows.start_ns, rows.end_ns = self._span((it.begin, it.end))
        self.now_ns = rows.end_ns
        if it.marks is None or it.decision is None:
            rows.worked(-1, Work.DENSE, -1, it.tokens, Lane.GPU, rows.start_ns, rows.end_ns)
        else:
            self._tell_layer(rows, it.tokens, it.marks, it.decision)
        waiting: list[tuple[int, Begun]] = []
        for flat, copied in self.ahead:
            if self.runtime.done(copied[1]):
                where = divmod(flat, self.columns)
                size = self.costs.expert_bytes
                rows.copied(where, Why.AHEAD, -1, 0, size, *self._span(copied))
            else:
                waiting.append((flat, copied))
        self.ahead = waiting
        rows.settled = True

    def _tell_layer(
        self, rows: LaneRows, tokens: int, marks: LayerMarks, decision: Decision
    ) -> None:
        ready, layer = self._ns(marks.ready), rows.layer
        n_bytes = tokens * self.costs.activation_bytes
        for flats, why in ((decision.evict, Why.EVICT), (decision.fetch, Why.FETCH)):
            for flat in flats:
                rows.moved(*divmod(flat, self.columns), why, -1, 0, ready, ready)
        rows.worked(-1, Work.DENSE, -1, tokens, Lane.GPU, rows.start_ns, ready)
        rows.crossed(tokens, Lane.D2H, n_bytes, *self._span(marks.looked))
        resident = _shares(
            None if marks.resident is None else self._span(marks.resident),
            [n for n, to in zip(decision.tokens, decision.actions, strict=True) if to == _RESIDENT],
        )
        for at, (expert, count, action, keep) in enumerate(
            zip(decision.experts, decision.tokens, decision.actions, decision.keep, strict=True)
        ):
            if action == _CPU:
                start, end = (ns - self._origin for ns in marks.cpu[at])
            elif action == _RESIDENT:
                start, end = next(resident)
            else:
                copied, ran = marks.streamed[at]
                why, where = Why.ADMIT if keep else Why.STREAM, (layer, expert)
                size = self.costs.expert_bytes
                rows.copied(where, why, action, count, size, *self._span(copied))
                start, end = self._span(ran)
            lane = Lane.CPU if action == _CPU else Lane.GPU
            rows.worked(expert, Work.EXPERT, action, count, lane, start, end)
        for flat, copied in zip(decision.unused, marks.unused, strict=True):
            where, size = divmod(flat, self.columns), self.costs.expert_bytes
            rows.copied(where, Why.STREAM, _STREAM, 0, size, *self._span(copied))
        if marks.back is not None:
            rows.crossed(tokens, Lane.H2D, n_bytes, *self._span(marks.back))

    def _span(self, events: Begun) -> Span:
        start = self._ns(events[0])
        return start, max(start, self._ns(events[1]))

    def _ns(self, event: Event) -> int:
        return max(self.clock.ns(event) - self._origin, 0)

    def _now(self) -> int:
        return time.perf_counter_ns() - self._origin


def _shares(span: Span | None, tokens: list[int]) -> Iterator[Span]:
    """A call of several experts, laid one after the other by their tokens."""
    if span is None:
        return
    start, end = span
    ends = [start + (end - start) * n // sum(tokens) for n in accumulate(tokens, initial=0)]
    yield from pairwise(ends)
