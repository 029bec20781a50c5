"""The speed of light: a time below which no policy can bring a run, by the costs it is timed with.

Given are the routing, the budget and the costs of :class:`~engine.cost.CostModel`. A policy may
know the future, place any experts on the device before the start, keep, drop and copy what it
likes, also ahead of time, and use all lanes at once. Take any such policy. Of the ``N`` expert
calls let it run ``m`` on the CPU and ``N - m`` on the device, with ``K`` copies of weights.

1. *Layers.* A layer begins when the one before it has ended; its experts begin after its dense
   part. A layer with ``a`` active experts, ``k`` of them on the CPU, takes at least the longer of::

       A(k) = dense + the a - k smallest device times
       B(k) = dense + to_host + the k smallest CPU times + to_device    (k > 0)

   ``A`` is convex in ``k``. So is ``B`` if its latency ``h`` (the activations of the smallest
   group, both ways) is counted as ``min(h, all device times)``, for ``k = 0`` too: then ``B(0) <=
   A(0)``, so ``F(k) = max(A(k), B(k))`` is not larger than it was, and convex. For convex ``F`` the
   smallest sum over all layers with ``m`` calls on the CPU is that of all ``F(0)`` and of the ``m``
   smallest increments. The output head comes on top. So ``T >= F*(m)``.
2. *Link.* Copies are made one after the other: ``T >= K * copy``.
3. *Room.* At most ``room`` experts are kept from one layer to the next (staging buffers hold
   experts within a layer). A call on the device needs a copy of its own, or an expert kept since
   the last call that ran on the device or since before the start. There are at most as many of the
   latter as OPT has hits among all calls (:func:`engine.stacks.opt_hits`; prefetching moves a copy,
   it saves none): ``K >= N - m - hits``.

So ``T >= max(F*(m), (N - m - hits) * copy)`` whatever ``m`` is, and the bound is the least of these
over all ``m``. It is what a policy would reach that knows the future and never waits; how far below
it a real one must stay is not known.

Every active expert's weights are read once per layer and step, by the device from its memory or
by the CPU from the host's: the cost model's times hold that. They are taken not to fall with more
tokens. A run is bounded in parts, between changes of the plan or of the kind of step; each part may
begin with any experts, which only makes the bound smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from engine.decision import Batch, Ints
from engine.errors import InputError
from engine.events import StepKind
from engine.plan import Plan
from engine.routing import Routing
from engine.stacks import Requests, opt_hits
from engine.summary import generated
from engine.trace import Trace


@dataclass(frozen=True)
class Bound:
    """The least time that any policy could need for a run, and how near the run came."""

    time_ns: int
    """All steps."""
    decode_ns: int
    """Complete decode steps."""
    tokens_per_s: float
    """Decode tokens per second at ``decode_ns``, counted as :attr:`engine.summary.Summary
    .tokens_per_s` counts them: nobody is faster. ``nan`` without decode steps."""
    achieved: float
    """``time_ns`` as a share of the run's own time; ``nan`` for another plan than the run's."""
    decode_achieved: float
    """``decode_ns`` as a share of the run's own; ``nan`` where there is none."""
    lane_ns: Mapping[str, int]
    """How long ``gpu``, ``cpu`` and ``h2d`` are busy where the bound balances them."""
    clock: str
    """The clock of the run that ``achieved`` compares with."""

    @property
    def limiting(self) -> str:
        """The lane that is busy longest: more of it would help most."""
        return max(self.lane_ns, key=self.lane_ns.__getitem__)

    def __str__(self) -> str:
        return (
            f"at most {self.tokens_per_s:.3g} tokens/s; {self.decode_achieved:.0%} of it achieved, "
            f"{self.clock} clock; busiest there: {self.limiting}"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it: the text, not the fields."""
        printer.text(str(self))


@dataclass(frozen=True)
class _Part:
    """The bound of some consecutive steps."""

    time_ns: int
    gpu_ns: int
    cpu_ns: int
    h2d_ns: int


class Reuse:
    """OPT's hits in stretches of a run's steps, for every size; worked out when asked for.

    They depend on the routing alone and take most of a bound's time: given to :func:`bound` again,
    other budgets and costs are quick. Those of the routing that was last asked about are kept. From
    any thread.
    """

    def __init__(self) -> None:
        self._kept: tuple[Routing | None, dict[tuple[int, int], Ints]] = None, {}

    def __repr__(self) -> str:
        return f"Reuse({len(self._kept[1])} stretches)"

    def of(self, trace: Trace, batch: Batch, first: int, stop: int) -> Ints:
        """For 0 to all experts in slots, of the steps ``first`` to ``stop`` (exclusive)."""
        routing, hits = self._kept  # at once: another thread may ask about another run
        if routing is not trace.routing:
            hits = {}
            self._kept = trace.routing, hits
        if (first, stop) not in hits:
            hits[first, stop] = opt_hits(Requests.of(batch, trace.model.experts_total))
        return hits[first, stop]


def bound(trace: Trace, plan: Plan | None = None, *, reuse: Reuse | None = None) -> Bound:
    """The speed of light of a run's routing under its own plans, or under another one.

    Only budget and costs of a plan count: any policy, pins and slots may be chosen within them.
    ``reuse``: keeps what the next bound of the same routing can use.
    Raises InputError for a run on the host alone unless ``plan`` is given, and for a plan of
    another grid.
    """
    if plan is None and trace.on_host:
        raise InputError(
            "this run used no device, so no budget bounds it; give the plan of a what-if: "
            "bound(trace, plan)"
        )
    if plan is not None and plan.grid != trace.model.grid:
        raise InputError(f"the plan is for a grid of {plan.grid}, the run's is {trace.model.grid}")
    steps, reuse = trace.steps, Reuse() if reuse is None else reuse
    total = len(steps["step"])
    decode = (steps["kind"] == StepKind.DECODE) & (steps["complete"] == 1)
    plans = trace.plan_list if plan is None else ((0, plan),)
    time_ns, decode_ns = 0, 0
    lanes = np.zeros(3, dtype=np.int64)
    starts = [first for first, _ in plans] + [total]
    for (first, stop), (_, held) in zip(pairwise(starts), plans, strict=True):
        if first == stop:
            continue
        whole = _bound(trace, held, first, stop, reuse)
        changes = (np.flatnonzero(np.diff(decode[first:stop])) + first + 1).tolist()
        spans = list(pairwise([first, *changes, stop]))
        parts = [whole]
        if len(spans) > 1:
            parts = [_bound(trace, held, a, b, reuse) for a, b in spans]
        decode_ns += sum(p.time_ns for p, (a, _) in zip(parts, spans, strict=True) if decode[a])
        if (apart := sum(part.time_ns for part in parts)) < whole.time_ns:
            time_ns, parts = time_ns + whole.time_ns, [whole]
        else:
            time_ns += apart
        lanes += np.sum([(part.gpu_ns, part.cpu_ns, part.h2d_ns) for part in parts], axis=0)
    length = steps["end_ns"] - steps["start_ns"]
    own = plan is None or (len(plans) == len(trace.plan_list) and plan == trace.plan)
    tokens = generated(trace.tokens, decode)
    return Bound(
        time_ns=time_ns,
        decode_ns=decode_ns,
        tokens_per_s=tokens * 1e9 / decode_ns if decode_ns else math.nan,
        achieved=_share(time_ns, int(length.sum())) if own else math.nan,
        decode_achieved=_share(decode_ns, int(length[decode].sum())) if own else math.nan,
        lane_ns=dict(zip(("gpu", "cpu", "h2d"), lanes.tolist(), strict=True)),
        clock=trace.clock.name.lower(),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _bound(trace: Trace, plan: Plan, first: int, stop: int, reuse: Reuse) -> _Part:
    """The bound of steps ``first`` to ``stop`` (exclusive) under one plan."""
    batch = trace.batch.part(*np.searchsorted(trace.batch.step, (first, stop)).tolist())
    steps, costs = trace.steps, plan.costs
    heads = (steps["complete"] * steps["sequences"])[first:stop]
    head = int(costs.head.array(heads[heads > 0]).sum())
    layers, increment, gpu, cpu = _layers(batch, steps["context"][batch.step], plan)
    order = np.argsort(increment, kind="stable")
    on_cpu = np.arange(len(order) + 1)  # m
    at_layers = layers + head + _sums(increment[order])  # F*(m)
    hits = reuse.of(trace, batch, first, stop)[plan.room]
    copies = np.maximum(len(order) - on_cpu - hits, 0)  # K(m)
    time = np.maximum(at_layers, copies * costs.copy_ns)
    best = int(np.argmin(time))
    dense = int(costs.dense_array(batch.tokens, steps["context"][batch.step]).sum())
    return _Part(
        time_ns=int(time[best]),
        gpu_ns=int(dense + head + gpu.sum() - _sums(gpu[order])[best]),
        cpu_ns=int(_sums(cpu[order])[best]),
        h2d_ns=int(copies[best] * costs.copy_ns),
    )


def _layers(batch: Batch, context: Ints, plan: Plan) -> tuple[int, Ints, Ints, Ints]:
    """The sum of all layers' ``F(0)``, and the increment of each ``k > 0`` of each layer.

    With every increment go the device time that is saved and the CPU time that is spent.
    """
    costs, seg, first = plan.costs, batch.segment, batch.first
    gpu, cpu = costs.gpu.array(batch.count), costs.cpu.array(batch.count)
    saved = gpu[np.lexsort((-gpu, seg))]  # the dearest leave the device first
    spent = cpu[np.lexsort((cpu, seg))]  # the cheapest reach the CPU first
    dense = costs.dense_array(batch.tokens, context)
    on_gpu = np.diff(_sums(gpu)[first])
    least = np.full(len(dense), np.iinfo(np.int64).max)
    np.minimum.at(least, seg, batch.count)
    latency = np.minimum(costs.to_host.array(least) + costs.to_device.array(least), on_gpu)
    saved_before = _sums(saved)[:-1] - _sums(saved)[first[:-1]][seg]
    spent_before = _sums(spent)[:-1] - _sums(spent)[first[:-1]][seg]

    def at(saved_so_far: Ints, spent_so_far: Ints) -> Ints:  # F(k) without the dense part
        return np.maximum(on_gpu[seg] - saved_so_far, latency[seg] + spent_so_far)

    before = at(saved_before, spent_before)
    after = at(saved_before + saved, spent_before + spent)
    return int(dense.sum() + on_gpu.sum()), after - before, saved, spent


def _sums(values: Ints) -> Ints:
    """What comes before each value, and the sum of all."""
    return np.concatenate(([0], np.cumsum(values)))
