"""Replay: a trace's routing again, under its own or another plan, on the modelled clock.

No model and no torch: the same policies, ledger and timeline that the engine drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from engine.events import MOVES, STEPS, WORK, Clock, Rows, empty
from engine.layout import lay_out
from engine.orchestrator import Change, Orchestrator
from engine.placement import change_plan
from engine.plan import Plan
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


def replay_plan(trace: Trace, plan: Plan) -> Replay:
    """Run a trace's routing under one given plan, from empty cache slots."""
    return Replay(run_plans(trace, ((0, plan),), Start()))


def run_plans(trace: Trace, plans: Sequence[tuple[int, Plan]], start: Start) -> Trace:
    """Run a trace's routing under plans that take turns: pairs ``(first step, plan)``."""
    step_rows = trace.step_rows.copy()
    field = {name: i for i, name in enumerate(STEPS.names or ())}
    heads = step_rows[:, field["complete"]] * step_rows[:, field["sequences"]]
    contexts = step_rows[:, field["context"]]
    orchestrator = Orchestrator(plans[0][1], start)
    work: list[Rows] = []
    moves: list[Rows] = []
    now = 0
    pins: list[Change] = []  # of plans under which no step ran, too
    bounds = [step for step, _ in plans] + [len(step_rows)]
    for number, ((first, stop), (_, plan)) in enumerate(zip(pairwise(bounds), plans, strict=True)):
        if number:
            pins += orchestrator.change(plan)
        if stop == first:
            continue
        before = np.zeros(stop - first, dtype=np.int64)
        if pins:
            pin_work, pin_moves = pin_rows(plan.costs, first, now, pins)
            before[0] = pin_moves[-1, _MOVE_END] - now
            work.append(pin_work)
            moves.append(pin_moves)
            pins = []
        batch = trace.batch.part(*np.searchsorted(trace.batch.step, (first, stop)).tolist())
        layout = lay_out(
            plan.costs,
            batch,
            orchestrator.decide_all(batch),
            contexts[batch.step],
            heads[first:stop],
            before,
            first_step=first,
            start_ns=now,
        )
        work.append(layout.work)
        moves.append(layout.moves)
        step_rows[first:stop, field["plan"]] = number
        step_rows[first:stop, field["start_ns"]] = layout.step_start
        step_rows[first:stop, field["end_ns"]] = layout.step_end
        now = int(layout.step_end[-1])
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
