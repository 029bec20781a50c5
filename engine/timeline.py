"""The list scheduler: lays a layer's work on the four lanes. The only clock arithmetic there is.

One layer of one step is laid out so::

    gpu   | dense | resident experts | streamed experts, each when its copy has arrived |
    h2d           | weights of streamed experts ...............| results of the CPU     |
    d2h           | activations |
    cpu                         | experts on the CPU .......... |

Lanes run at the same time and take their own work in expert order. Weights are streamed through
two staging buffers: a copy waits for the expert that last used its buffer. The next layer starts
when the device has all results. Activations are counted once per token and direction, at most
all tokens of the step (exact in decode, an upper bound in prefill).

:class:`Timeline` is the readable form, one layer at a time; :func:`engine.layout.lay_out` is the
same arithmetic for all layers of a trace at once, and a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    work: list[int]
    moves: list[int]


class Timeline:
    """Modelled time: ``now_ns`` moves forward as work is laid on the lanes."""

    def __init__(self, costs: CostModel, now_ns: int = 0) -> None:
        self.costs = costs
        self.now_ns = now_ns

    def pins(self, step: int, changes: Changes, log: Log | None) -> None:
        """Lay a plan's changes on the link, before the step."""
        for layer, expert, why, n_bytes in changes:
            start = self.now_ns
            if n_bytes:
                self.now_ns += self.costs.copy_ns
            if log is None:
                continue
            now, lane = self.now_ns, _H2D if n_bytes else -1
            log.moves.extend((step, layer, expert, why, lane, n_bytes, start, now, _MODELLED))
            if n_bytes:
                log.work.extend((step, layer, expert, _WEIGHTS, -1, 0, _H2D, start, now, _MODELLED))

    def lay(
        self, step: int, layer: int, tokens: int, context: int, decision: Decision, log: Log | None
    ) -> None:
        """Lay one layer's decision on the lanes; ``now_ns`` becomes the layer's end."""
        costs = self.costs
        start = self.now_ns
        dense_end = start + costs.dense_ns(tokens, context)
        on_cpu = min(tokens, decision.cpu_tokens)
        gpu = dense_end
        for count, action in zip(decision.tokens, decision.actions, strict=True):
            if action == _RESIDENT:
                gpu += costs.gpu(count)
        resident, cpu, link = dense_end, dense_end, dense_end
        buffers = [dense_end] * STAGING_BUFFERS  # when each staging buffer is free again
        if log is not None:
            for flat in decision.evict:
                gone = (*divmod(flat, decision.columns), Why.EVICT, -1, 0)
                log.moves.extend((step, *gone, dense_end, dense_end, _MODELLED))
            log.work.extend(
                (step, layer, -1, _DENSE, -1, tokens, _GPU, start, dense_end, _MODELLED)
            )
        if on_cpu:
            cpu += costs.to_host(on_cpu)
            if log is not None:
                self._activations(log, step, layer, on_cpu, _D2H, dense_end, cpu)
        for expert, count, action, keep in zip(
            decision.experts, decision.tokens, decision.actions, decision.keep, strict=True
        ):
            if action == _RESIDENT:
                begin, resident = resident, resident + costs.gpu(count)
                end, lane = resident, _GPU
            elif action == _CPU:
                begin, cpu = cpu, cpu + costs.cpu(count)
                end, lane = cpu, _HOST
            else:
                copy = max(link, buffers[0])
                link = copy + costs.copy_ns
                begin = max(gpu, link)
                gpu = begin + costs.gpu(count)
                end, lane = gpu, _GPU
                buffers = [*buffers[1:], gpu]
                if log is not None:
                    why = Why.ADMIT if keep else Why.STREAM
                    log.moves.extend(
                        (step, layer, expert, why, _H2D, costs.expert_bytes, copy, link, _MODELLED)
                    )
                    log.work.extend(
                        (step, layer, expert, _WEIGHTS, action, count, _H2D, copy, link, _MODELLED)
                    )
            if log is not None:
                log.work.extend(
                    (step, layer, expert, _EXPERT, action, count, lane, begin, end, _MODELLED)
                )
        self.now_ns = gpu
        if on_cpu:
            back = max(cpu, link)
            end = back + costs.to_device(on_cpu)
            self.now_ns = max(gpu, end)
            if log is not None:
                self._activations(log, step, layer, on_cpu, _H2D, back, end)

    def head(self, step: int, tokens: int, log: Log | None) -> None:
        """Lay the output head on the device."""
        start = self.now_ns
        self.now_ns = start + self.costs.head(tokens)
        if log is not None:
            log.work.extend((step, -1, -1, _DENSE, -1, tokens, _GPU, start, self.now_ns, _MODELLED))

    def _activations(
        self, log: Log, step: int, layer: int, tokens: int, lane: int, start: int, end: int
    ) -> None:
        n_bytes = tokens * self.costs.activation_bytes
        log.moves.extend((step, layer, -1, Why.ACTIVATIONS, lane, n_bytes, start, end, _MODELLED))
        log.work.extend((step, layer, -1, _ACTS, -1, tokens, lane, start, end, _MODELLED))


def pin_rows(costs: CostModel, step: int, start_ns: int, changes: Changes) -> tuple[Rows, Rows]:
    """:meth:`Timeline.pins` as rows of work and of moves."""
    log = Log([], [])
    Timeline(costs, start_ns).pins(step, changes, log)
    return to_rows(log.work, WORK), to_rows(log.moves, MOVES)
