"""Replay: the engine's own events again, row for row; and what-ifs that make sense.

The engine is `builders.Driver`: a layer at a time, as `engine.session` does. The replay works
on whole traces, so every comparison here is between two ways of computing the same.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import BudgetError, InputError
from engine.events import Clock, Why
from engine.orchestrator import Orchestrator
from engine.placement import change_plan
from engine.plan import Plan
from engine.planners import PLANNERS
from engine.policies import LIVE
from engine.replay import replay, replay_plan, run_plans
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from engine.trace import Start, Trace
from tests.engine.builders import MODEL, Driver, random_plan, recorded, toy_plan

TABLES = ("step_rows", "token_rows", "work_rows", "move_rows")


def assert_same(one: Trace, other: Trace) -> None:
    """0 differences."""
    for name in TABLES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.plan_list == other.plan_list
    assert one.start == other.start


def random_start(seed: int, plan: Plan) -> Start:
    """The state after some other routing under the same plan."""
    driver, rng = Driver(plan), random.Random(seed)
    for _ in range(5):
        driver.step(rng, rng.choice((1, 3)))
    return driver.orchestrator.start()


# ---------------------------------------------------------------------- its own events


@pytest.mark.parametrize("policy", LIVE)
@pytest.mark.parametrize(("room", "slots"), [(0, 0), (6, 0), (6, 3), (4, 4), (12, 0)])
def test_own_plan(policy: str, room: int, slots: int) -> None:
    trace = recorded(1, toy_plan(room, slots, policy))
    assert_same(replay(trace).trace, trace)


@pytest.mark.parametrize("policy", LIVE)
@pytest.mark.parametrize("seed", range(4))
def test_from_a_start_with_experts_in_the_slots(policy: str, seed: int) -> None:
    """The slots were filled before the recording, and the policy knows in which order."""
    plan = toy_plan(7, 4, policy)
    start = random_start(seed, toy_plan(7, 4, "lru"))
    assert len(start.cached) == 4
    trace = recorded(seed, plan, start=start)
    assert trace.start.cached == start.cached
    assert_same(replay(trace).trace, trace)
    if policy == "lru":  # the order in which the slots were used matters
        backwards = Start(start.cached, {"recent": start.policy["recent"][::-1]})
        moved = replay(replace(trace, start=backwards)).trace.move_rows
        assert moved.shape != trace.move_rows.shape or (moved != trace.move_rows).any()


@pytest.mark.parametrize("seed", range(25))
def test_plans_that_take_turns(seed: int) -> None:
    """Replanned every third step, cut short every tenth: any policy, planner, budget, slots."""
    rng = random.Random(f"plan {seed}")
    trace = recorded(seed, random_plan(rng), 20, replans=0.3, aborts=0.1)
    assert len(trace.plan_list) > 1
    again = replay(trace).trace
    assert_same(again, trace)
    assert_same(replay(again).trace, trace)
    assert again.summary == trace.summary


def test_a_plan_put_in_force_before_the_first_step() -> None:
    """The slider was moved after the recording began: its changes are on record, too."""
    rng = random.Random(0)
    start = random_start(0, toy_plan(6, 6, "lru"))
    driver = Driver(toy_plan(6, 6, "lru"), start)
    driver.step(rng, 3, plans=[toy_plan(6, 1, "lru")])  # pins what the slots held
    driver.step(rng)
    trace = driver.trace()
    assert [step for step, _ in trace.plan_list] == [0, 0]
    assert trace.steps["plan"].tolist() == [1, 1]
    assert (trace.moves["why"] == Why.PIN).any()
    assert_same(replay(trace).trace, trace)


def test_two_plans_before_one_step() -> None:
    """No step runs under the first of them, but its changes are made."""
    rng = random.Random(1)
    driver = Driver(toy_plan(2))
    driver.step(rng)
    driver.step(rng, plans=[toy_plan(8), toy_plan(3, planner="random")])
    driver.step(rng, plans=[toy_plan(3, planner="random"), toy_plan(8), toy_plan(0)])
    trace = driver.trace()
    assert trace.steps["plan"].tolist() == [0, 2, 5]
    assert_same(replay(trace).trace, trace)


def test_steps_cut_short_before_their_first_layer() -> None:
    rng = random.Random(2)
    driver = Driver(toy_plan(4, 2, "lru"))
    driver.step(rng, 4, layers=0)
    driver.step(rng, 4, plans=[toy_plan(6, 1, "lru")], layers=0)
    driver.step(rng, 4)
    driver.step(rng, 1, plans=[toy_plan(2, 2, "lru")], layers=0)
    trace = driver.trace()
    assert_same(replay(trace).trace, trace)


def test_a_recording_without_steps() -> None:
    trace = Driver(toy_plan(4)).trace()
    assert_same(replay(trace).trace, trace)
    assert replay(trace, gpu_memory="0%").trace.summary.steps == 0


def test_several_sequences() -> None:
    rng = random.Random(3)
    driver = Driver(toy_plan(5, 2, "fiddler"))
    driver.step(rng, 12, sequences=4)
    for _ in range(6):
        driver.step(rng, 4, sequences=4)
    trace = driver.trace()
    assert_same(replay(trace).trace, trace)


@pytest.mark.parametrize("policy", LIVE)
def test_synthetic_traces(policy: str) -> None:
    trace = synthetic_trace(
        "olmoe-1b-7b", prompt_tokens=20, decode_tokens=20, policy=policy, gpu_memory="30%"
    )
    assert_same(replay(trace).trace, trace)
    assert_same(run_plans(trace, trace.plan_list, Start()), trace)


def test_replaying_changes_nothing_in_its_trace() -> None:
    trace = recorded(0, toy_plan(6, 2, "lru"))
    before = {name: getattr(trace, name).copy() for name in TABLES}
    replay(trace, policy="fiddler", gpu_memory="0%")
    replay(trace)
    for name, rows in before.items():
        np.testing.assert_array_equal(getattr(trace, name), rows)


# ---------------------------------------------------------------------- measured traces


def measured(trace: Trace) -> Trace:
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    return replace(trace, step_rows=rows)


def test_a_measured_trace_without_changes_is_returned_as_it_is() -> None:
    trace = measured(recorded(0, toy_plan(5)))
    assert replay(trace).trace is trace


def test_a_measured_trace_with_changes_is_modelled() -> None:
    trace = measured(recorded(0, toy_plan(5)))
    what_if = replay(trace, gpu_memory="0%").trace
    assert what_if.clock == Clock.MODELLED
    assert what_if.summary.clock == "modelled"
    assert trace.clock == Clock.MEASURED


# ---------------------------------------------------------------------- what-ifs


def test_a_what_if_begins_from_the_last_plan_and_holds_from_the_first_step() -> None:
    trace = recorded(3, toy_plan(6, 2, "lru"), 10, replans=0.5)
    what_if = replay(trace, gpu_memory="50%")
    assert len(what_if.trace.plan_list) == 1
    plan = what_if.trace.plan
    assert (plan.policy, plan.planner) == (trace.plan.policy, trace.plan.planner)
    assert what_if.trace.steps["plan"].tolist() == [0] * len(trace.step_rows)
    assert what_if.trace.start == Start()
    assert what_if.trace.routing is trace.routing
    assert repr(what_if) == f"Replay({plan!r})"
    assert what_if.summary == what_if.trace.summary


def test_a_given_plan() -> None:
    trace = recorded(4, toy_plan(6))
    plan = toy_plan(6, 6, "lru")
    assert_same(replay_plan(trace, plan).trace, replace(recorded(4, plan), start=Start()))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"gpu_memory": "1KB"}, BudgetError),
        ({"gpu_memory": "much"}, InputError),
        ({"cache_slots": -1}, InputError),
        ({"cache_slots": 99}, InputError),
        ({"policy": "lur"}, InputError),
        ({"planner": "none"}, InputError),
        ({"planner": []}, InputError),
        ({"planner": {}}, InputError),
        ({"planner": np.array([1, 2])}, InputError),
        ({"policy": np.array([1, 2])}, InputError),
        ({"policy": "a" * 5000}, InputError),
        ({"hardware": np.array([1, 2])}, InputError),
        ({"hardware": "a/" * 2500}, InputError),
        ({"reset_pins": np.array([1, 2])}, InputError),
        ({"reset_pins": "no"}, InputError),
        ({"reset_pins": None}, InputError),
        ({"reset_pins": 1, "policy": "lru"}, InputError),
        ({"hardware": "abacus"}, InputError),
    ],
)
def test_impossible_what_ifs_are_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        replay(recorded(0, toy_plan(4), 2), **changes)


@pytest.mark.parametrize("policy", ["fiddler", "stream", "cpu", "layers"])
@pytest.mark.parametrize("planner", PLANNERS)
def test_more_memory_never_lowers_the_hit_rate_of_a_static_policy(
    policy: str, planner: str
) -> None:
    """Planners nest: a larger budget pins what a smaller one did, and more."""
    trace = recorded(5, toy_plan(6), 30)
    answers = [
        replay(trace, gpu_memory=f"{share}%", policy=policy, planner=planner, cache_slots=0)
        for share in range(0, 101, 10)
    ]
    rates = [answer.summary.hit_rate for answer in answers]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0.0, 1.0)
    for less, more in pairwise(answers):
        assert set(less.trace.plan.pinned) <= set(more.trace.plan.pinned)


def test_more_slots_never_lower_the_hit_rate_of_lru() -> None:
    """Least recently used is a stack policy, as long as a slot is free for each active expert."""
    model = replace(ModelSpec.preset("mixtral-8x7b"), layers=4)
    trace = synthetic_trace(model, prompt_tokens=0, decode_tokens=60, gpu_memory="100%")
    hits: list[float] = []
    for slots in range(2, 33):
        plan = replace(trace.plan, policy="lru", pinned=(), cache_slots=slots)
        hits.append(replay_plan(trace, plan).summary.hit_rate)
    assert hits == sorted(hits)


@pytest.mark.parametrize("policy", LIVE)
def test_edits_by_hand_in_mid_run_are_replayed_exactly(policy: str, tmp_path: Path) -> None:
    """Each edit changes what the cache sees: still 0 differences, also out of a file."""
    driver, rng = Driver(toy_plan(7, 3, policy)), random.Random(3)
    everyone = [divmod(flat, 4) for flat in range(12)]
    for _ in range(25):
        plans: list[Plan] = []
        if rng.random() < 0.5:
            pin, unpin = rng.sample(everyone, 2)
            reset = rng.random() < 0.1
            plan = driver.orchestrator.plan
            if len(plan.by_hand.pinned) < 7:
                plans = [change_plan(plan, model=MODEL, pin=pin, unpin=unpin, reset_pins=reset)]
        driver.step(rng, plans=plans)
    trace = driver.trace()
    assert trace.plan.by_hand and len(trace.plan_list) > 5
    assert_same(replay(trace).trace, trace)
    read = Trace.load(trace.save(tmp_path / "edited.safetensors"))
    assert read.plan_list == trace.plan_list
    assert_same(replay(read).trace, trace)


def test_a_what_if_by_hand() -> None:
    trace = recorded(4, toy_plan(5))
    plan = trace.plan
    hottest = replay(trace, unpin=(0, 0), pin=[(2, 3)]).trace
    assert 0 not in hottest.plan.pinned and 11 in hottest.plan.pinned
    assert repr(hottest.plan).count("(1 pinned and 1 unpinned by hand)") == 1
    assert (hottest.work["action"][hottest.work["expert"] >= 0] >= 0).all()
    assert replay(hottest, reset_pins=True).trace.plan == plan
    smaller = replay(hottest, gpu_memory=plan.minimum_bytes + 1000).trace
    assert smaller.plan.pinned == (11,), "the edit holds first"
    with pytest.raises(BudgetError, match="1 pinned by hand do not fit"):
        replay(hottest, gpu_memory="0%")


def test_everything_resident_never_touches_the_link() -> None:
    trace = replay(recorded(6, toy_plan(3)), gpu_memory="100%").trace
    assert len(trace.move_rows) == 0
    assert trace.summary.hit_rate == 1.0
    assert trace.summary.h2d_bytes == trace.summary.d2h_bytes == 0


def test_nothing_resident_by_policy() -> None:
    base = recorded(7, toy_plan(3))
    cpu = replay(base, gpu_memory="0%", policy="cpu").summary
    stream = replay(base, gpu_memory="0%", policy="stream").summary
    assert (cpu.calls["resident"], cpu.calls["stream"]) == (0, 0)
    assert (stream.calls["resident"], stream.calls["cpu"]) == (0, 0)
    assert cpu.calls["cpu"] == stream.calls["stream"] == len(base.batch.expert)
    assert stream.h2d_bytes == 1000 * stream.calls["stream"]
    assert stream.d2h_bytes == 0


def test_a_faster_machine_is_faster_with_the_same_decisions() -> None:
    trace = recorded(8, toy_plan(4, 0, "stream"))
    slow = replay(trace, hardware="quadro-rtx-6000").trace
    fast = replay(trace, hardware="h200").trace
    assert fast.duration_ns < slow.duration_ns
    np.testing.assert_array_equal(fast.work["action"], slow.work["action"])


def test_the_ledger_at_the_end_is_the_one_that_the_engine_has() -> None:
    driver, rng = Driver(toy_plan(6, 3, "lru")), random.Random(9)
    for _ in range(20):
        driver.step(rng, plans=[random_plan(rng)] if rng.random() < 0.2 else [])
    trace = driver.trace()
    again = Orchestrator(trace.plan_list[0][1], trace.start)
    batch = trace.batch
    bounds = [step for step, _ in trace.plan_list] + [len(trace.step_rows)]
    for number, (first, stop) in enumerate(pairwise(bounds)):
        if number:
            again.change(trace.plan_list[number][1])
        again.decide_all(batch.part(*np.searchsorted(batch.step, (first, stop)).tolist()))
    assert again.start() == driver.orchestrator.start()
    np.testing.assert_array_equal(again.residency.places(), driver.orchestrator.residency.places())


# ---------------------------------------------------------------------- other machines and models


def test_another_link_another_cpu_another_model() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=6, policy="stream")
    mixtral = trace.model
    faster = replay(trace, link_gbps=2 * 25.2064)
    assert faster.summary.tokens_per_s > 1.5 * trace.summary.tokens_per_s
    assert "what if: link 50.4 GB/s" in faster.trace.machine
    assert faster.summary.tokens_per_s_low < faster.summary.tokens_per_s
    again = replay(faster.trace, cpu_cores=4)
    assert again.trace.plan.hardware == "rtx-4090 (link 50.4 GB/s, 4 CPU cores)"
    half = replace(mixtral, name="half", expert_bytes=mixtral.expert_bytes // 2)
    found = replay(trace, as_model=half).trace
    assert found.model == half and found.plan.model == "half"
    assert len(found.plan.pinned) > len(trace.plan.pinned)
    assert found.check() is found
    assert replay(found, gpu_memory="30GB").trace.model == half
    assert replay(found).trace.model == half
    back = replay(found, as_model=mixtral, gpu_memory="24GB").trace
    assert back.model == mixtral and back.summary == replay(trace, gpu_memory="24GB").summary


def test_a_plan_of_another_grid_is_refused() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=2)
    other = synthetic_trace("olmoe-1b-7b", gpu_memory="50%", decode_tokens=2)
    with pytest.raises(InputError, match="grid"):
        replay_plan(trace, other.plan)
