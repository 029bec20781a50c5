"""What every trace must be, whoever made it: rows that point at something, in order, in range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TraceError
from engine.events import Action, Clock, Lane, StepKind, Why, Work
from engine.trace import Trace


def check(trace: Trace) -> None:
    """Raise TraceError unless every row points at something that exists."""
    _check_plans(trace)
    _check_routing(trace)
    steps, tokens, work, moves = trace.steps, trace.tokens, trace.work, trace.moves
    layers, experts = trace.model.grid
    many = len(trace.step_rows)
    _within("steps.kind", steps["kind"], 0, len(StepKind))
    _within("steps.plan", steps["plan"], 0, len(trace.plan_list))
    _within("steps.complete", steps["complete"], 0, 2)
    for name in ("sequences", "context", "token"):
        _within(f"steps.{name}", steps[name], 0)
    _within("steps.tokens", steps["tokens"], 0, len(trace.token_rows) + 1)  # each has its row
    _within("tokens.step", tokens["step"], -1, many)
    for name in ("sequence", "beam"):
        _within(f"tokens.{name}", tokens[name], 0)
    _check_parents(tokens)
    _within("work.layer", work["layer"], -1, layers)
    _within("work.expert", work["expert"], -1, experts)
    _within("work.kind", work["kind"], 0, len(Work))
    _within("work.action", work["action"], -1, len(Action))
    _within("work.tokens", work["tokens"], 0)
    _within("work.lane", work["lane"], 0, len(Lane))
    _within("moves.layer", moves["layer"], 0, layers)
    _within("moves.expert", moves["expert"], -1, experts)
    _within("moves.why", moves["why"], 0, len(Why))
    _within("moves.lane", moves["lane"], -1, len(Lane))
    _within("moves.bytes", moves["bytes"], 0)
    for name, table in (("steps", steps), ("work", work), ("moves", moves)):
        _within(f"{name}.step", table["step"], 0, many)
        _within(f"{name}.clock", table["clock"], 0, len(Clock))
        _within(f"{name}.start_ns", table["start_ns"], 0)
        if (np.diff(table["step"]) < 0).any() or (table["start_ns"] > table["end_ns"]).any():
            raise TraceError(f"{name}: steps must not decrease, rows not end before they start")
    if not np.array_equal(steps["step"], np.arange(many)):
        raise TraceError("steps.step must count from 0, without gaps")
    calls = work["kind"] == Work.EXPERT
    named = moves["expert"][moves["why"] != Why.ACTIVATIONS]
    for name, values in (
        ("work.expert", work["expert"][calls]),
        ("work.layer", work["layer"][calls]),
        ("work.action", work["action"][calls]),
        ("moves.expert", named),
    ):
        _within(f"{name} of an expert", values, 0)
    if trace.texts and len(trace.texts) != len(trace.token_rows):
        raise TraceError(f"{len(trace.texts)} texts for {len(trace.token_rows)} tokens")


def _check_plans(trace: Trace) -> None:
    if not trace.plan_list:
        raise TraceError("a trace holds at least one plan, this one holds none")
    firsts = [step for step, _ in trace.plan_list]
    if firsts[0] != 0 or sorted(firsts) != firsts or firsts[-1] > len(trace.step_rows):
        raise TraceError(f"plans must begin at step 0 and ascend, not {firsts[:8]}")
    for _, plan in trace.plan_list:
        if plan.grid != trace.model.grid:
            raise TraceError(f"a plan's grid is {plan.grid}, the model's {trace.model.grid}")
    first, cached = trace.plan_list[0][1], np.array(trace.start.cached, dtype=np.int64)
    _within("start.cached", cached, 0, trace.model.experts_total)
    if len(np.unique(cached)) != len(cached) or np.isin(cached, first.pinned).any():
        raise TraceError("start.cached names an expert twice, or one that is pinned")
    if len(cached) > first.cache_slots:
        raise TraceError(f"start.cached holds {len(cached)} for {first.cache_slots} slots")


def _check_routing(trace: Trace) -> None:
    routing, many = trace.routing, len(trace.step_rows)
    for name in ("layer", "token", "experts", "weights"):
        if len(getattr(routing, name)) != len(routing):
            raise TraceError(f"routing.{name} is not as long as routing.step")
    if routing.predicted is not None:
        if routing.predicted.shape != routing.experts.shape:
            raise TraceError("routing.predicted is not of the shape of routing.experts")
        _within("routing.predicted", routing.predicted, -1, trace.model.experts)
    _within("routing.layer", routing.layer, 0, trace.model.layers)
    _within("routing.experts", routing.experts, 0, trace.model.experts)
    _within("routing.token", routing.token, 0, len(trace.token_rows))
    _within("routing.step", routing.step, 0, many)
    if (np.diff(routing.step) < 0).any():
        raise TraceError("routing.step must not decrease")
    whole = np.flatnonzero(trace.steps["complete"] == 1)
    if not np.isin(whole, routing.step).all():
        raise TraceError("routing holds nothing of a complete step")


def _check_parents(tokens: dict[str, NDArray[np.int64]]) -> None:
    """Each token follows an earlier one of its own sequence, or none."""
    parent, sequence = tokens["parent"], tokens["sequence"]
    _within("tokens.parent", parent, -1)
    has = np.flatnonzero(parent >= 0)
    if (parent[has] >= has).any() or (sequence[parent[has]] != sequence[has]).any():
        raise TraceError("tokens.parent must be an earlier row of the same sequence")


def _within(name: str, values: NDArray[Any], least: int, limit: int | None = None) -> None:
    """Raise TraceError unless all values are at least ``least`` and below ``limit``."""
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < least or (limit is not None and high >= limit):
        wanted = f"{least} or more" if limit is None else f"{least} to {limit - 1}"
        raise TraceError(f"{name} holds values from {low} to {high}, expected {wanted}")
