"""Replay: a trace's routing again, under its own or another plan, on the modelled clock.

No model and no torch: the same policies, ledger and timeline that the engine drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.events import MOVES, STEPS, Clock
from engine.happened import Recorded
from engine.layout import lay_out
from engine.orchestrator import Change, Orchestrator
from engine.placement import change_plan
from engine.plan import Plan
from engine.planners import check_planner
from engine.policies import POLICIES, Policy
from engine.rehearsed import Rehearsed, Stretch
from engine.spec import HardwareSpec, ModelSpec, resolve_costed
from engine.strict import check_flag
from engine.summary import Summary
from engine.timeline import pin_rows
from engine.trace import Start, Trace

_MOVE_END = (MOVES.names or ()).index("end_ns")


@dataclass(frozen=True)
class Replay:
    """The answer to a what-if, on the modelled clock."""

    trace: Trace

    def __repr__(self) -> str:
        return f"Replay({self.trace.plan!r})"

    @property
    def summary(self) -> Summary:
        """Speed, hit rate, bytes moved and lane times."""
        return self.trace.summary


def replay(
    trace: Trace,
    *,
    gpu_memory: int | str | None = None,
    cache_slots: int | None = None,
    policy: str | type[Policy] | None = None,
    planner: str | None = None,
    hardware: str | Path | HardwareSpec | None = None,
    link_gbps: float | None = None,
    cpu_cores: int | None = None,
    as_model: str | ModelSpec | None = None,
    pin: Any = None,
    unpin: Any = None,
    reset_pins: bool = False,
) -> Replay:
    """Run a trace's routing under another plan; without changes, under its own plans.

    A changed plan starts from the trace's last plan, holds from the first step, and begins with
    empty cache slots. Without changes the trace's own plans take turns as they did, from the
    recorded start: work and moves equal the recorded ones row for row. A measured trace without
    changes is returned as it is. ``pin``, ``unpin`` and ``reset_pins`` edit the placement by hand:
    see :func:`engine.placement.change_plan`.

    ``link_gbps`` and ``cpu_cores`` ask for another link or CPU of the same machine, ``as_model``
    for the costs of another model with the same grid: see :func:`engine.placement.change_plan`.

    Raises:
        BudgetError, InputError: as :func:`engine.placement.change_plan`.
    """
    machine = (hardware, link_gbps, cpu_cores, as_model)
    changes = (gpu_memory, cache_slots, policy, planner, *machine, pin, unpin)
    if all(change is None for change in changes) and not check_flag("reset_pins", reset_pins):
        if trace.clock == Clock.MEASURED:
            return Replay(trace)
        return Replay(run_plans(trace, trace.plan_list, trace.start))
    check_planner(planner)
    plan = change_plan(
        trace.plan,
        model=trace.model,
        gpu_memory=gpu_memory,
        cache_slots=cache_slots,
        policy=policy,
        planner=planner,
        hardware=hardware,
        link_gbps=link_gbps,
        cpu_cores=cpu_cores,
        as_model=as_model,
        pin=pin,
        unpin=unpin,
        reset_pins=reset_pins,
    )
    return replay_plan(trace, plan)


def playable(trace: Trace | None = None) -> list[str]:
    """Names of the policies that a trace can be replayed under, or any trace can be.

    Some go by predicted experts.
    """
    predicted = trace is not None and trace.routing.predicted is not None
    return [name for name, policy in POLICIES.items() if predicted or not policy.wants_predictions]


def can_replay(trace: Trace, plan: Plan) -> bool:
    """Whether the plan's policy is at hand, and the trace holds what it goes by."""
    if not plan.has_policy:
        return False
    return trace.routing.predicted is not None or not plan.policy_class.wants_predictions


def replay_plan(trace: Trace, plan: Plan) -> Replay:
    """Run a trace's routing under one given plan, from empty cache slots.

    Where the plan costs another model, the replay is of that one. Raises InputError for a plan of
    another grid, and where the policy needs predictions that the trace does not hold.
    """
    if plan.policy_class.wants_predictions and trace.routing.predicted is None:
        raise InputError(
            f"policy {plan.policy!r} goes by the experts predicted for the next layer, which this "
            "trace does not hold: generate with predictions=True, or under that policy"
        )
    if plan.grid != trace.model.grid:
        raise InputError(f"the plan is for a grid of {plan.grid}, the run's is {trace.model.grid}")
    if plan.basis is not None and plan.basis.model != trace.model:
        trace = trace.costed_as(resolve_costed(plan.basis.model, trace.model))
    return Replay(run_plans(trace, ((0, plan),), Start()))


def run_plans(trace: Trace, plans: Sequence[tuple[int, Plan]], start: Start) -> Trace:
    """Run a trace's routing under plans that take turns: pairs ``(first step, plan)``.

    Everything is decided and timed at once; rows of work and moves are made when asked for.
    """
    step_rows = trace.step_rows.copy()
    field = {name: i for i, name in enumerate(STEPS.names or ())}
    orchestrator = Orchestrator(plans[0][1], start)
    stretches: list[Stretch] = []
    now, waiting = 0, dict[int, int]()
    changes: list[Change] | None = None  # of plans under which no step ran, too
    costs = plans[0][1].lane_costs
    bounds = [step for step, _ in plans] + [len(step_rows)]
    for number, ((first, stop), (_, plan)) in enumerate(zip(pairwise(bounds), plans, strict=True)):
        if number:
            changes = [*(changes or ()), *orchestrator.change(plan)]
        if stop == first:
            continue
        began, pins = now, Recorded.nothing()
        if changes is not None:
            columns = plan.grid[1]
            rows = pin_rows(costs, plan.lane_costs, first, columns, now, changes, waiting)
            pins, changes = Recorded(*rows), None
            now = int(pins.move_rows[-1, _MOVE_END]) if len(pins.move_rows) else now
        costs = plan.lane_costs
        segments = np.searchsorted(trace.batch.step, (first, stop)).tolist()
        outline = np.searchsorted(trace.outline.batch.step, (first, stop)).tolist()
        decisions = orchestrator.decide_all(trace.batch.part(*segments))
        course = trace.outline.part(*outline).course(costs, decisions)
        laid = lay_out(course, now, rows=slice(0))
        stretches.append(Stretch(pins, course, laid))
        waiting = dict(laid.waiting)
        last = np.searchsorted(course.batch.step, np.arange(first, stop), side="right")
        ends = np.concatenate(([now], laid.end))[last]
        step_rows[first:stop, field["plan"]] = number
        step_rows[first:stop, field["start_ns"]] = [began, *ends[:-1]]
        step_rows[first:stop, field["end_ns"]] = ends
        now = int(ends[-1])
    step_rows[:, field["clock"]] = Clock.MODELLED
    happened = Rehearsed(stretches, len(step_rows), orchestrator.residency.places())
    return trace.again(step_rows, happened, tuple(plans), start)
