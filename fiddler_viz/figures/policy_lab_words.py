"""The policy lab in words: who is fastest, how sure that is, and all the numbers."""

from __future__ import annotations

import math

from engine.budgets import BudgetCurve, BudgetPoint
from engine.errors import InputError
from engine.policies import POLICIES
from engine.units import format_bytes, format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.figures.budget_speeds import Now
from fiddler_viz.theme import percent, rate


def ranked(found: BudgetCurve) -> tuple[BudgetPoint, ...]:
    """One point for each policy, the fastest first. Raises InputError for several budgets."""
    budgets = {point.gpu_memory for point in found.points}
    if len(budgets) > 1:
        raise InputError(
            f"policy_lab: expected replays under one budget, got {len(budgets)}: give budgets= one"
        )
    return tuple(sorted(found.points, key=lambda p: -p.tokens_per_s if _timed(p) else 0.0))


def _timed(point: BudgetPoint) -> bool:
    return math.isfinite(point.tokens_per_s)


def headline(found: BudgetCurve) -> str:
    """What the charts show, in a sentence; raw text."""
    points = ranked(found)
    live = [
        p for p in points if _timed(p) and (p.policy not in POLICIES or POLICIES[p.policy].live)
    ]
    if not live:
        return "Policies side by side"
    best, bound = live[0], live[0].bound_tokens_per_s
    share = f", {percent(best.tokens_per_s / bound)} of what is possible" if bound > 0 else ""
    return (
        f"In {format_bytes(best.gpu_memory)} {best.policy} is fastest: "
        f"{rate(best.tokens_per_s)}{share}"
    )


def explanation(run: Now | None) -> str:
    """What to look for, and how sure it is; raw text."""
    trust = f" ({run.trust})" if run is not None else ""
    return (
        f"Each policy replays this run's routing on the modelled clock{trust}. The interval is "
        "that of the costs, which all share: the order is surer than the heights."
    )


def describe_policy_lab(found: BudgetCurve, run: Now | None = None) -> str:
    """The charts in a few plain sentences; raw text."""
    points = ranked(found)
    if not points:
        return f"{EMPTY.capitalize()}."
    rows = [
        f"{point.policy}: {rate(point.tokens_per_s)} ({rate(point.tokens_per_s_low)} to "
        f"{rate(point.tokens_per_s_high)}), {percent(point.hit_rate)} hits, "
        f"{format_bytes(round(point.bytes_per_token))} per token, busy "
        + ", ".join(f"{lane} {format_ns(ns)}" for lane, ns in point.lane_ns.items())
        for point in points
    ]
    bound = f"Nobody is faster than {rate(points[0].bound_tokens_per_s)}."
    return f"{headline(found)}. {explanation(run)} {bound} {'; '.join(rows)}."
