"""Where a run stands among charted plans: by its plan, or by its last one where that changed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from engine.plan import Plan
from engine.replay import can_replay, replay_plan
from engine.summary import Summary
from engine.trace import Trace


@dataclass(frozen=True)
class Standing:
    """What there is to mark."""

    plan: Plan
    summary: Summary
    words: str
    """Whose mark it is."""


def standing(trace: Trace) -> Standing | None:
    """A run, or, where its plan changed on the way, all of it again under its last plan.

    None before anything ran, without a device, and where that plan cannot replay it.
    """
    steps = len(trace.step_rows)
    if not steps or trace.on_host:
        return None
    bounds = pairwise([*(first for first, _ in trace.plan_list), steps])
    ran = [plan for (_, plan), (a, b) in zip(trace.plan_list, bounds, strict=True) if a < b]
    if all(plan == trace.plan for plan in ran):
        return Standing(trace.plan, trace.summary, "this run")
    if not can_replay(trace, trace.plan):
        return None
    return Standing(trace.plan, replay_plan(trace, trace.plan).trace.summary, "its last plan")
