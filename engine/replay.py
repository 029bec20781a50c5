"""Replay: a trace's routing again, under its own or another plan, on the modelled clock.

No model and no torch: the same policies, ledger and timeline that the engine drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.events import MOVES, STEPS, WORK, Clock, Rows, empty
from engine.layout import Course, lay_out
from engine.orchestrator import Change, Orchestrator
from engine.placement import change_plan
from engine.plan import Plan
from engine.policies import POLICIES
from engine.spec import HardwareSpec
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
    policy: str | None = None,
    planner: str | None = None,
    hardware: str | Path | HardwareSpec | None = None,
) -> Replay:
    """Run a trace's routing under another plan; without changes, under its own plans.

    A changed plan starts from the trace's last plan, holds from the first step, and begins with
    empty cache slots. Without changes the trace's own plans take turns as they did, from the
    recorded start: work and moves equal the recorded ones row for row. A measured trace without
    changes is returned as it is.

    Raises:
        BudgetError, InputError: as :func:`engine.placement.make_plan`.
    """
    changes = (gpu_memory, cache_slots, policy, planner, hardware)
    if all(change is None for change in changes):
        if trace.clock == Clock.MEASURED:
            return Replay(trace)
        return Replay(run_plans(trace, trace.plan_list, trace.start))
    plan = change_plan(
        trace.plan,
        model=trace.model,
        gpu_memory=gpu_memory,
        cache_slots=cache_slots,
        policy=policy,
        planner=planner,
        hardware=hardware,
    )
    return replay_plan(trace, plan)


def playable(trace: Trace | None = None) -> list[str]:
    """Names of the policies that a trace can be replayed under, or any trace can be.

    Some go by predicted experts.
    """
    predicted = trace is not None and trace.routing.predicted is not None
    return [name for name, policy in POLICIES.items() if predicted or not policy.wants_predictions]


def replay_plan(trace: Trace, plan: Plan) -> Replay:
    """Run a trace's routing under one given plan, from empty cache slots.

    Raises InputError where the policy needs predictions that the trace does not hold.
    """
    if plan.policy not in playable(trace):
        raise InputError(
            f"policy {plan.policy!r} goes by the experts predicted for the next layer, which this "
            "trace does not hold: generate with predictions=True, or under that policy"
        )
    return Replay(run_plans(trace, ((0, plan),), Start()))


def run_plans(trace: Trace, plans: Sequence[tuple[int, Plan]], start: Start) -> Trace:
    """Run a trace's routing under plans that take turns: pairs ``(first step, plan)``."""
    step_rows = trace.step_rows.copy()
    field = {name: i for i, name in enumerate(STEPS.names or ())}
    heads = np.flatnonzero(step_rows[:, field["complete"]])
    heads = np.stack((heads, step_rows[heads, field["sequences"]]), axis=1)  # (step, tokens)
    contexts = step_rows[:, field["context"]]
    orchestrator = Orchestrator(plans[0][1], start)
    work: list[Rows] = []
    moves: list[Rows] = []
    now, waiting = 0, dict[int, int]()
    pins: list[Change] | None = None  # of plans under which no step ran, too
    costs = plans[0][1].lane_costs
    bounds = [step for step, _ in plans] + [len(step_rows)]
    for number, ((first, stop), (_, plan)) in enumerate(zip(pairwise(bounds), plans, strict=True)):
        if number:
            pins = [*(pins or ()), *orchestrator.change(plan)]
        if stop == first:
            continue
        began = now
        if pins is not None:
            columns = plan.grid[1]
            made = pin_rows(costs, plan.lane_costs, first, columns, now, pins, waiting)
            now = int(made[1][-1, _MOVE_END]) if len(made[1]) else now
            work.append(made[0])
            moves.append(made[1])
            pins, waiting = None, {}
        costs = plan.lane_costs
        batch = trace.batch.part(*np.searchsorted(trace.batch.step, (first, stop)).tolist())
        mine = heads[(heads[:, 0] >= first) & (heads[:, 0] < stop)]
        decisions = orchestrator.decide_all(batch)
        course = Course.of(costs, batch, decisions, contexts[batch.step], mine)
        laid = lay_out(course, now)
        work.append(laid.work)
        moves.append(laid.moves)
        waiting = dict(laid.waiting)
        last = np.searchsorted(course.batch.step, np.arange(first, stop), side="right")
        ends = np.concatenate(([now], laid.end))[last]
        step_rows[first:stop, field["plan"]] = number
        step_rows[first:stop, field["start_ns"]] = [began, *ends[:-1]]
        step_rows[first:stop, field["end_ns"]] = ends
        now = int(ends[-1])
    step_rows[:, field["clock"]] = Clock.MODELLED
    return replace(
        trace,
        step_rows=step_rows,
        work_rows=_joined(work, WORK),
        move_rows=_joined(moves, MOVES),
        plan_list=tuple(plans),
        start=start,
    )


def _joined(parts: list[Rows], dtype: np.dtype[np.void]) -> Rows:
    """Rows one after the other; a single part as it is, for speed."""
    return parts[0] if len(parts) == 1 else np.concatenate([empty(dtype), *parts])
