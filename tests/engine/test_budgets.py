from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.budgets import budget_curve
from engine.errors import BudgetError, InputError, UnknownNameError
from engine.policies import POLICIES
from engine.replay import replay
from tests.engine.builders import recorded, toy_plan


def test_points_are_replays() -> None:
    trace = recorded(5, toy_plan(4), steps=8)
    curve = budget_curve(trace, ("fiddler", "lru"), ("0%", "50%", trace.plan.full_bytes))
    assert [(p.policy, p.gpu_memory) for p in curve.points] == [
        (policy, budget)
        for policy in ("fiddler", "lru")
        for budget in (trace.plan.minimum_bytes, 13440, trace.plan.full_bytes)
    ]
    for point in curve.points:
        again = replay(trace, gpu_memory=point.gpu_memory, policy=point.policy).trace
        summary = again.summary
        assert point.tokens_per_s == summary.tokens_per_s <= point.bound_tokens_per_s
        assert point.bytes_per_token == summary.bytes_per_token
        assert (point.pinned, point.cache_slots) == (
            len(again.plan.pinned),
            again.plan.cache_slots,
        )
        lanes = again.to_pandas("work").eval("end_ns - start_ns").groupby(again.work["lane"]).sum()
        names = list(point.lane_ns)
        assert {names[code]: busy for code, busy in lanes.items()} == {
            lane: busy for lane, busy in point.lane_ns.items() if busy
        }
    frame = curve.to_pandas()
    assert {"policy", "gpu_memory", "tokens_per_s", "gpu_ns", "h2d_ns"} <= set(frame.columns)
    assert len(frame) == 6


def test_all_policies_that_can_by_default() -> None:
    trace = recorded(5, toy_plan(4), steps=2)
    curve = budget_curve(trace)
    found = {point.policy for point in curve.points}
    assert len(curve.points) == 11 * len(found)
    for policy in set(POLICIES) - found:
        with pytest.raises(InputError):
            replay(trace, policy=policy)
    assert found >= {"fiddler", "stream", "lru", "cpu", "layers"}


def test_wrong_arguments_raise_what_replay_raises() -> None:
    trace = recorded(5, toy_plan(4), steps=1)
    with pytest.raises(UnknownNameError):
        budget_curve(trace, ("fidler",))
    with pytest.raises(BudgetError):
        budget_curve(trace, ("fiddler",), (1,))


@pytest.mark.parametrize("policies", [5, [None], ["fiddler", None], [], "fidler", True])
def test_what_is_no_policy_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, policies: Any
) -> None:
    monkeypatch.setattr("engine.budgets.replay", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match="polic"):
        budget_curve(recorded(5, toy_plan(4), steps=1), policies)


@pytest.mark.parametrize("budgets", [1.5, [], "many", ["50%", "x"], True])
def test_what_is_no_budget_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, budgets: Any
) -> None:
    monkeypatch.setattr("engine.budgets.replay", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=r"budgets|gpu_memory"):
        budget_curve(recorded(5, toy_plan(4), steps=1), "cpu", budgets)


def test_one_policy_and_one_budget_are_enough() -> None:
    trace = recorded(5, toy_plan(4), steps=1)
    several = budget_curve(trace, ["cpu"], ["50%"])
    assert budget_curve(trace, "cpu", "50%") == several
    assert budget_curve(trace, POLICIES["cpu"], ["50%"]) == several
    zero: Any = np.array("cpu"), np.array("50%")
    assert budget_curve(trace, *zero) == several
