"""The list scheduler: lays a layer's work on the four lanes. The only clock arithmetic there is.

One layer of one step is laid out so::

    gpu   | dense | resident experts | streamed experts, each when its copy has arrived |
    h2d           | weights of streamed experts ...............| results of the CPU     |
    d2h           | activations |
    cpu                         | experts on the CPU .......... |

Lanes run at the same time and take their own work in expert order. Weights are streamed through
two staging buffers: a copy waits for the expert that last used its buffer. The next layer starts
when the device has all results. Activations are counted once per token and direction, at most
all tokens of the step (exact for one token, an upper bound for several).

Copies of fetched experts wait in line and take the link where this layer leaves it idle: during
the dense part, after the last streamed weights, after the results. They are cut where something
more urgent comes, and go on later. Where a fetched expert is used before its copy is through,
the rest of it is copied like a streamed expert's, at once.

Costs without ``overlap`` are of systems that do one thing after the other: a copy waits for the
experts before it, the CPU's experts wait for the device's.

:class:`Timeline` is the readable form, one layer at a time; :mod:`engine.layout` lays out whole
traces by the same arithmetic in compiled code, and a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.cost import CostModel
from engine.decision import Decision
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Why, Work, to_rows

STAGING_BUFFERS = 2
"""Experts in flight between host and device: one is copied while the other computes."""

_RESIDENT, _STREAM, _CPU = int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)
_GPU, _HOST, _H2D, _D2H = int(Lane.GPU), int(Lane.CPU), int(Lane.H2D), int(Lane.D2H)
_DENSE, _EXPERT, _WEIGHTS, _ACTS = (
    int(Work.DENSE),
    int(Work.EXPERT),
    int(Work.WEIGHTS),
    int(Work.ACTIVATIONS),
)
_MODELLED = int(Clock.MODELLED)


Changes = Sequence[tuple[int, int, Why, int]]
"""What a new plan does: ``(layer, expert, why, bytes copied)`` each."""


@dataclass
class Log:
    """Rows in the making: flat lists of integers, see :data:`engine.events.WORK` and ``MOVES``."""

    work: list[int] = field(default_factory=list[int])
    moves: list[int] = field(default_factory=list[int])

    def worked(
        self, step: int, layer: int, expert: int, kind: int, action: int, tokens: int,
        lane: int, start: int, end: int,
    ) -> None:  # fmt: skip
        """A lane was busy."""
        self.work.extend((step, layer, expert, kind, action, tokens, lane, start, end, _MODELLED))

    def moved(
        self, step: int, layer: int, expert: int, why: int, lane: int, n_bytes: int,
        start: int, end: int,
    ) -> None:  # fmt: skip
        """Something moved, or left the device."""
        self.moves.extend((step, layer, expert, why, lane, n_bytes, start, end, _MODELLED))

    def activations(
        self, step: int, layer: int, tokens: int, lane: int, n_bytes: int, start: int, end: int
    ) -> None:
        """Hidden states crossed the link."""
        self.moved(step, layer, -1, Why.ACTIVATIONS, lane, n_bytes, start, end)
        self.worked(step, layer, -1, _ACTS, -1, tokens, lane, start, end)


class Timeline:
    """Modelled time: ``now_ns`` moves forward as work is laid on the lanes."""

    def __init__(
        self, costs: CostModel, now_ns: int = 0, waiting: Mapping[int, int] | None = None
    ) -> None:
        self.costs = costs
        self.now_ns = now_ns
        self.waiting: dict[int, int] = dict(waiting or {})
        """Copies of fetched experts, first come first: flat index -> ns left."""

    def pins(
        self, step: int, columns: int, changes: Changes, costs: CostModel, log: Log | None
    ) -> None:
        """Lay a plan's changes on the link, before the step; what waits in line comes first.

        ``costs`` are the new plan's, and hold from here on.
        """
        for flat, left in list(self.waiting.items()):
            self._ahead(step, columns, flat, left, self.now_ns, log)
            self.now_ns += left
        self.costs = costs
        for layer, expert, why, n_bytes in changes:
            start = self.now_ns
            if n_bytes:
                self.now_ns += self.costs.copy_ns
            if log is None:
                continue
            now, lane = self.now_ns, _H2D if n_bytes else -1
            log.moved(step, layer, expert, why, lane, n_bytes, start, now)
            if n_bytes:
                log.worked(step, layer, expert, _WEIGHTS, -1, 0, _H2D, start, now)

    def lay(
        self, step: int, layer: int, tokens: int, context: int, decision: Decision, log: Log | None
    ) -> None:
        """Lay one layer's decision on the lanes; ``now_ns`` becomes the layer's end."""
        costs, columns = self.costs, decision.columns
        start, base = self.now_ns, layer * columns
        dense_end = start + costs.dense_ns(tokens, context)
        self._idle(step, columns, start, dense_end, log)
        for flat in decision.evict:
            self.waiting.pop(flat, None)  # what is copied of it is lost

        # The device's side: what is there, then what arrives, both in expert order.
        gpu = dense_end
        for expert, count, action in zip(
            decision.experts, decision.tokens, decision.actions, strict=True
        ):
            if action == _RESIDENT and base + expert not in self.waiting:
                gpu += costs.gpu(count)
        resident, link = dense_end, dense_end
        buffers = [dense_end] * STAGING_BUFFERS  # when each staging buffer is free again
        ran: list[tuple[int, int]] = []  # of each expert: start and end
        copied: dict[int, tuple[int, int, int]] = {}  # place in the list -> start, end, ns before
        for at, (expert, count, action) in enumerate(
            zip(decision.experts, decision.tokens, decision.actions, strict=True)
        ):
            left = self.waiting.pop(base + expert, None) if action == _RESIDENT else None
            if action == _CPU:
                ran.append((0, 0))
            elif action == _RESIDENT and left is None:
                ran.append((resident, resident + costs.gpu(count)))
                resident = ran[-1][1]
            else:
                copy = link if left is not None else max(link, buffers[0])
                if not costs.overlap:
                    copy = max(copy, gpu)
                link = copy + (costs.copy_ns if left is None else left)
                copied[at] = copy, link, -1 if left is None else left
                begin = max(gpu, link)
                gpu = begin + costs.gpu(count)
                ran.append((begin, gpu))
                if left is None:
                    buffers = [*buffers[1:], gpu]
        unused: list[tuple[int, int]] = []
        for _ in decision.unused:
            copy = max(link, buffers[0])
            link = copy + costs.copy_ns
            unused.append((copy, link))
            buffers = [*buffers[1:], link]

        # The host's side, at the same time or after it.
        on_cpu = min(tokens, decision.cpu_tokens)
        leave = dense_end if costs.overlap else max(gpu, link)
        arrive = cpu = leave + (costs.to_host(on_cpu) if on_cpu else 0)
        for at, (count, action) in enumerate(zip(decision.tokens, decision.actions, strict=True)):
            if action == _CPU:
                ran[at] = cpu, cpu + costs.cpu(count)
                cpu = ran[at][1]
        back = max(cpu, link)
        home = back + costs.to_device(on_cpu) if on_cpu else back
        self.now_ns = max(gpu, home) if on_cpu else max(gpu, link)

        if log is not None:
            for flat in decision.evict:
                log.moved(step, *divmod(flat, columns), Why.EVICT, -1, 0, dense_end, dense_end)
            for flat in decision.fetch:
                log.moved(step, *divmod(flat, columns), Why.FETCH, -1, 0, dense_end, dense_end)
            log.worked(step, layer, -1, _DENSE, -1, tokens, _GPU, start, dense_end)
            n_bytes = on_cpu * costs.activation_bytes
            if on_cpu:
                log.activations(step, layer, on_cpu, _D2H, n_bytes, leave, arrive)
            for at, (expert, count, action, keep) in enumerate(
                zip(decision.experts, decision.tokens, decision.actions, decision.keep, strict=True)
            ):
                if at in copied:
                    begin, end, left = copied[at]
                    size, why = costs.expert_bytes, Why.ADMIT if keep else Why.STREAM
                    if left >= 0:
                        size, why = costs.expert_bytes - self._done_bytes(left), Why.AHEAD
                    log.moved(step, layer, expert, why, _H2D, size, begin, end)
                    log.worked(step, layer, expert, _WEIGHTS, action, count, _H2D, begin, end)
                lane = _HOST if action == _CPU else _GPU
                log.worked(step, layer, expert, _EXPERT, action, count, lane, *ran[at])
            for flat, (begin, end) in zip(decision.unused, unused, strict=True):
                where = divmod(flat, columns)
                log.moved(step, *where, Why.STREAM, _H2D, costs.expert_bytes, begin, end)
                log.worked(step, *where, _WEIGHTS, _STREAM, 0, _H2D, begin, end)
            if on_cpu:
                log.activations(step, layer, on_cpu, _H2D, n_bytes, back, home)

        for flat in decision.fetch:
            self.waiting[flat] = costs.copy_ns
        self._idle(step, columns, link, back if on_cpu else self.now_ns, log)
        if on_cpu:
            self._idle(step, columns, home, self.now_ns, log)

    def head(self, step: int, columns: int, tokens: int, log: Log | None) -> None:
        """Lay the output head on the device."""
        start = self.now_ns
        self.now_ns = start + self.costs.head(tokens)
        self._idle(step, columns, start, self.now_ns, log)
        if log is not None:
            log.worked(step, -1, -1, _DENSE, -1, tokens, _GPU, start, self.now_ns)

    def _idle(self, step: int, columns: int, start: int, end: int, log: Log | None) -> None:
        """The link has nothing urgent to do: what waits in line goes on."""
        for flat, left in list(self.waiting.items()):
            if start >= end:
                return
            part = min(left, end - start)
            self._ahead(step, columns, flat, part, start, log)
            start += part

    def _ahead(
        self, step: int, columns: int, flat: int, part: int, start: int, log: Log | None
    ) -> None:
        """Copy a part of a fetched expert."""
        left = self.waiting.pop(flat)
        if part < left:  # only ever the first in line: it stays the first
            self.waiting = {flat: left - part, **self.waiting}
        if log is not None:
            where = divmod(flat, columns)
            n_bytes = self._done_bytes(left - part) - self._done_bytes(left)
            log.moved(step, *where, Why.AHEAD, _H2D, n_bytes, start, start + part)
            log.worked(step, *where, _WEIGHTS, -1, 0, _H2D, start, start + part)

    def _done_bytes(self, left: int) -> int:
        """Bytes of an expert that are there when so many ns of its copy are left."""
        whole = self.costs.copy_ns
        return self.costs.expert_bytes * (whole - left) // whole if whole else 0


def pin_rows(
    before: CostModel,
    after: CostModel,
    step: int,
    columns: int,
    start_ns: int,
    changes: Changes,
    waiting: Mapping[int, int],
) -> tuple[Rows, Rows]:
    """:meth:`Timeline.pins` as rows of work and of moves."""
    log = Log()
    Timeline(before, start_ns, waiting).pins(step, columns, changes, after, log)
    return to_rows(log.work, WORK), to_rows(log.moves, MOVES)
