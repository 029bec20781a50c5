from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from engine.bounds import bound
from engine.cost import CostModel, Curve
from engine.errors import InputError
from engine.events import Clock, StepKind
from engine.plan import Plan
from engine.policies import POLICIES
from engine.replay import replay, replay_plan
from engine.stacks import Requests, opt_hits
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.builders import COSTS, MODEL, random_plan, recorded, toy_plan

TOTAL = MODEL.experts_total


def random_costs(rng: random.Random) -> CostModel:
    """Any machine, also one whose CPU or link beats its device."""

    def curve() -> Curve:
        return Curve(tuple((rng.randrange(60), rng.randrange(20)) for _ in range(2)))

    return replace(
        COSTS, gpu=curve(), cpu=curve(), dense=curve(), head=curve(), to_host=curve(),
        to_device=curve(), copy_ns=rng.randrange(200),
    )  # fmt: skip


def check(trace: Trace) -> None:
    """The run did not outrun the light."""
    found = bound(trace)
    steps = trace.steps
    length = steps["end_ns"] - steps["start_ns"]
    decode = (steps["kind"] == StepKind.DECODE) & (steps["complete"] == 1)
    assert found.time_ns <= length.sum()
    assert found.decode_ns <= length[decode].sum()
    assert 0 <= found.achieved <= 1
    if decode.any():
        assert trace.summary.tokens_per_s <= found.tokens_per_s * (1 + 1e-12)


def test_no_policy_beats_it_under_any_plan_or_machine() -> None:
    rng = random.Random(0)
    for seed in range(40):
        run = recorded(seed, toy_plan(rng.randrange(TOTAL + 1)), steps=rng.randrange(1, 14))
        for policy in POLICIES:
            plan = replace(random_plan(rng), policy=policy)
            for costs in (COSTS, random_costs(rng)):
                with suppress(InputError):  # a policy that the run lacks predictions for
                    check(replay_plan(run, replace(plan, costs=costs)).trace)


def test_no_run_with_changing_plans_and_steps_cut_short_beats_it() -> None:
    for seed in range(60):
        check(recorded(seed, toy_plan(4), steps=10, replans=0.3, aborts=0.2))


def test_it_never_exceeds_the_best_of_all_choices() -> None:
    """All ways to choose who runs on the CPU, each with the lanes it needs at least."""
    rng = random.Random(1)
    shares: list[float] = []
    for seed in range(80):
        plan = replace(toy_plan(rng.randrange(TOTAL)), costs=random_costs(rng))
        run = replay_plan(one_step(seed), plan).trace
        exact = exhaustive(run, plan)
        assert bound(run).time_ns <= exact
        shares.append(bound(run).time_ns / exact if exact else 1.0)
    assert np.mean(shares) > 0.8, "and is not far below"


def one_step(seed: int) -> Trace:
    """The decode step after a prompt, perhaps cut short, as a run of its own."""
    made = recorded(seed, toy_plan(4), steps=1, aborts=0.3)
    rows = made.step_rows[1:].copy()
    rows[:, 0] = 0
    routing = made.routing.where(made.routing.step == 1)
    return replace(made, step_rows=rows, routing=replace(routing, step=routing.step * 0))


def exhaustive(run: Trace, plan: Plan) -> int:
    batch, costs, steps = run.batch, plan.costs, run.steps
    count, first = batch.count.tolist(), batch.first.tolist()
    heads = (steps["complete"] * steps["sequences"]).tolist()
    head = sum(costs.head(n) for n in heads if n)
    best: int | None = None
    for on_cpu in product((False, True), repeat=len(count)):
        time = head
        for segment in range(len(first) - 1):
            part = range(first[segment], first[segment + 1])
            tokens, step = int(batch.tokens[segment]), int(batch.step[segment])
            dense = costs.dense_ns(tokens, int(steps["context"][step]))
            gpu = sum(costs.gpu(count[i]) for i in part if not on_cpu[i])
            sent = min(tokens, sum(count[i] for i in part if on_cpu[i]))
            cpu = sum(costs.cpu(count[i]) for i in part if on_cpu[i])
            if sent:
                cpu += costs.to_host(sent) + costs.to_device(sent)
            time += dense + max(gpu, cpu)
        asked = Requests.of(batch, TOTAL)
        where = np.array(on_cpu, dtype=np.bool_)
        kept = np.concatenate(([0], np.cumsum(~where)))[asked.first]
        rest = Requests(TOTAL, kept, asked.flat[~where], asked.step)
        copies = len(rest) - int(opt_hits(rest)[plan.room])
        time = max(time, copies * costs.copy_ns)
        best = time if best is None else min(best, time)
    assert best is not None
    return best


def test_where_everything_fits_the_bound_is_reached() -> None:
    """On a device that is faster than the CPU even with all a layer's experts."""
    slow = replace(COSTS, cpu=Curve(((10_000, 0),)))
    run = replay_plan(recorded(4, toy_plan(4), steps=9), replace(toy_plan(None), costs=slow)).trace
    found = bound(run)
    assert found.achieved == found.decode_achieved == 1.0
    assert found.limiting == "gpu" and found.lane_ns["cpu"] == found.lane_ns["h2d"] == 0
    assert "100% of it achieved" in str(found)


def test_without_room_cpu_and_link_share_the_work() -> None:
    run = replay_plan(recorded(4, toy_plan(4), steps=9), toy_plan(0)).trace
    found = bound(run)
    assert found.lane_ns["h2d"] % COSTS.copy_ns == 0 and found.lane_ns["cpu"] > 0
    assert found.time_ns >= found.lane_ns["h2d"]
    alone = sum(COSTS.copy_ns for _ in run.batch.flat)
    assert found.time_ns < alone, "with the CPU's help"


def test_more_room_is_never_slower() -> None:
    run = recorded(6, toy_plan(4), steps=12)
    times = [bound(run, toy_plan(room)).time_ns for room in range(TOTAL + 1)]
    assert times == sorted(times, reverse=True) and times[0] > times[-1]


def test_another_plan_is_a_bound_without_a_share() -> None:
    run = recorded(6, toy_plan(4), steps=3)
    found = bound(run, toy_plan(7))
    assert math.isnan(found.achieved) and found.tokens_per_s > 0
    assert bound(run, run.plan) == bound(run)


def test_a_run_without_a_device_needs_a_plan() -> None:
    run = recorded(6, toy_plan(4), steps=3)
    rows = run.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    run = replace(run, step_rows=rows, meta={"device": "host"})
    with pytest.raises(InputError, match="give the plan"):
        bound(run)
    assert bound(run, toy_plan(4)).clock == "measured"


def test_a_plan_of_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"grid of \(32, 8\), the run's is \(3, 4\)"):
        bound(recorded(6, toy_plan(4), steps=3), demo.trace().plan)


def test_nothing_run_is_nothing_bounded() -> None:
    found = bound(recorded(0, toy_plan(4), steps=-1))
    assert found.time_ns == found.decode_ns == 0
    assert math.isnan(found.achieved) and math.isnan(found.tokens_per_s)


def test_the_demo_run_against_light() -> None:
    run = demo.trace()
    for budget in ("0%", "24GB", "60%", "100%"):
        for policy in POLICIES:
            with suppress(InputError):
                check(replay(run, gpu_memory=budget, policy=policy).trace)
    share = bound(replay(run, policy="fiddler").trace).decode_achieved
    assert 0.35 < share < 0.5, "neither beaten nor silly"
