"""Calls beside their alternatives: by hand, and against the timeline that laid them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from engine.decision import Decision, Ints
from engine.events import Action, Clock, Lane, StepKind, Work
from engine.happened import Recorded
from engine.inspection import inspection
from engine.orchestrator import Orchestrator
from engine.policies import LIVE, POLICIES
from engine.recorder import Recorder
from engine.regrets import Regrets, regrets
from engine.replay import replay
from engine.residency import Place
from engine.timeline import Timeline
from engine.trace import Start, Trace
from tests.engine.builders import COSTS, MODEL, Driver, random_plan, recorded, toy_plan

R, S, C = Action.RESIDENT, Action.STREAM, Action.CPU
GPU, COPY, CPU = 10, 52, 35
"""ns of the toy machine for one token: an expert on the device, its copy, an expert on the CPU."""
THERE, BACK = 4, 6
"""ns for the activations of one token."""


def by_hand() -> Trace:
    """One step of one token in one layer: expert 0 resident, 1 on the CPU, 2 copied and kept."""
    model = replace(MODEL, layers=1, top_k=3)
    plan = toy_plan(2, 1, "lru", model=model, counts=np.array([[9, 3, 2, 1]]))
    recorder, timeline = Recorder(model, plan, Start()), Timeline(COSTS)
    recorder.tokens(np.array([[0, 0, 0, 0, 1, -1]]), ["a"])
    recorder.notes.step(0, 1, 0, 0, ())
    decision = Decision(4, [0, 1, 2], [1, 1, 1], [R, C, S], [False, False, True])
    timeline.lay(0, 0, 1, 0, decision, None)
    chosen = np.array([[0, 1, 2]]), np.ones((1, 3), np.float32)
    recorder.notes.layer(0, 0, timeline.now_ns, decision, *chosen)
    end = timeline.now_ns
    recorder.step((0, StepKind.DECODE, 1, 1, 0, 0, 0, 1, 0, end, Clock.MODELLED))
    return recorder.trace({}).check()


def lone(table: Regrets) -> Ints:
    """Calls whose layer has no other call on the CPU: nobody's activations cross with theirs."""
    segment = table.step * 1000 + table.layer
    on_cpu = np.bincount(segment, table.action == C, minlength=int(segment.max()) + 1)
    return np.flatnonzero((table.action != C) | (on_cpu[segment] == 1))


def test_three_calls_by_hand() -> None:
    table = regrets(by_hand())
    assert table.expert.tolist() == [0, 1, 2]
    assert table.predicted_ns.tolist() == [
        [GPU] * 3,
        [COPY + GPU] * 3,
        [THERE + CPU + BACK] * 3,
    ]
    assert table.possible.tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert table.regret_ns.tolist() == [0, 0, COPY + GPU - THERE - CPU - BACK]
    assert table.kept.tolist() == [False, False, True]
    assert table.took.total.tolist() == table.chosen_ns.tolist()
    # The copied expert's run waits for nobody; results wait until the link is free of the copy.
    assert table.waited_ns.tolist() == [0, COPY - THERE - CPU, 0]
    assert repr(table) == "Regrets(3 calls, 17 ns in all, most in layer 0: 17 ns)"


@pytest.mark.parametrize("policy", POLICIES)
def test_an_uncontended_call_takes_what_was_predicted(policy: str) -> None:
    trace = recorded(3, toy_plan(5, 2))
    if POLICIES[policy].wants_predictions:
        trace = recorded(3, toy_plan(5, 2, policy))
    again = replay(trace, policy=policy, cache_slots=3 if POLICIES[policy].admits else 0).trace
    for run in (again, replay(again).trace):
        table = regrets(run)
        alone = lone(table)
        assert len(alone)
        assert table.took.total[alone].tolist() == table.chosen_ns[alone].tolist()
        assert (table.regret_ns >= 0).all()
        assert (table.clock == Clock.MODELLED).all()


@pytest.mark.parametrize("policy", ["fiddler", "stream", "lru", "prefetch", "fiddler_released"])
def test_a_call_on_its_own_is_all_that_its_layer_waits_for(policy: str) -> None:
    """Decode, top-1: a step is its dense parts and its calls, one after the other."""
    model = replace(MODEL, top_k=1)
    trace = recorded(5, toy_plan(4, 2, policy, model=model), model=model)
    table, work = regrets(trace), trace.work
    steps = trace.steps["kind"][table.step] == StepKind.DECODE
    assert steps.any() and not table.waited_ns[steps].any()
    dense = np.bincount(
        work["step"][work["kind"] == Work.DENSE],
        (work["end_ns"] - work["start_ns"])[work["kind"] == Work.DENSE],
    )
    calls = np.bincount(table.step, table.chosen_ns)
    whole = trace.steps["end_ns"] - trace.steps["start_ns"]
    assert (dense + calls)[1:].tolist() == whole[1:].tolist()


def test_every_call_ends_within_its_step() -> None:
    rng = random.Random(7)
    for seed in range(6):
        trace = recorded(seed, random_plan(rng), replans=0.2, aborts=0.1)
        table = regrets(trace)
        length = (trace.steps["end_ns"] - trace.steps["start_ns"])[table.step]
        assert (table.took.total + table.waited_ns <= length).all()
        assert len(table) == len(trace.happened.calls.step)


def test_each_call_has_the_costs_of_its_own_plan() -> None:
    driver, rng = Driver(toy_plan(0, 0)), random.Random(1)
    driver.step(rng)
    slow = toy_plan(0, 0, costs=replace(COSTS, copy_ns=500, relative_error=0.5))
    driver.step(rng, plans=[slow])
    table = regrets(driver.trace())
    assert set(table.predicted[S].copy[table.step == 0].tolist()) == {COPY}
    assert set(table.predicted[S].copy[table.step == 1].tolist()) == {500}
    assert set(table.relative_error[table.step == 1].tolist()) == {0.5}


def test_copies_from_pageable_memory_are_costed_as_such() -> None:
    trace = replay(recorded(2, toy_plan(4)), policy="fiddler_released").trace
    assert set(regrets(trace).predicted[S].copy.tolist()) == {2 * COPY}


def test_a_file_s_policy_need_not_be_at_hand() -> None:
    trace = recorded(2, toy_plan(4))
    (first, plan), *_ = trace.plan_list
    theirs = replace(trace, plan_list=((first, replace(plan, policy="somebody's")),))
    assert regrets(theirs).regret_ns.tolist() == regrets(trace).regret_ns.tolist()
    assert inspection(regrets(theirs), 0).policy == "somebody's"


def test_the_rest_of_a_fetched_copy_counts() -> None:
    """Two layers of one token: the second one's expert is fetched when 7 ns are left to copy it."""
    found = False
    for seed in range(20):
        table = regrets(recorded(seed, toy_plan(5, 4, "prefetch")))
        late = (table.action == R) & (table.took.copy > 0)
        found = found or bool(late.any())
        assert (table.predicted[R].copy == np.where(late, table.took.copy, 0)).all()
        assert table.took.copy[late].max(initial=0) <= COPY
    assert found


def test_a_policy_that_always_copies_regrets_what_fiddler_does_not() -> None:
    trace = recorded(4, toy_plan(4))
    streamed = regrets(replay(trace, policy="stream").trace)
    missing = streamed.action == S
    one = missing & (streamed.tokens == 1)
    assert set(streamed.regret_ns[one].tolist()) == {COPY + GPU - THERE - CPU - BACK}
    assert not streamed.regret_ns[~missing].any()
    assert not regrets(replay(trace, policy="fiddler").trace).regret_ns.any()


def test_measured_times_are_the_trace_s_own() -> None:
    trace = recorded(1, toy_plan(4))
    rows = trace.work_rows.copy()
    rows[:, -1] = Clock.MEASURED
    rows[rows[:, 3] == Work.EXPERT, 8] += 3  # each run took 3 ns longer
    measured = replace(trace, happened=replace(trace.happened, work_rows=rows))
    table, before = regrets(measured), regrets(trace)
    assert (table.clock == Clock.MEASURED).all()
    assert (table.took.run - before.took.run == 3).all()
    assert (table.predicted_ns == before.predicted_ns).all()


def test_without_a_device_there_is_nothing_to_regret() -> None:
    trace = replay(recorded(1, toy_plan(0)), policy="cpu").trace
    rows, work = trace.step_rows.copy(), trace.work_rows
    rows[:, -1] = Clock.MEASURED
    cheap = replace(trace.plan, costs=replace(COSTS, copy_ns=1))
    here = replace(trace, step_rows=rows, plan_list=((0, cheap),), meta={"device": "host"})
    assert here.on_host and not trace.on_host
    table = regrets(replace(here, happened=Recorded(work, trace.move_rows)))
    assert table.possible.any(axis=1).tolist() == [False, False, True]
    assert not table.regret_ns.any()
    assert inspection(table, 0).on_host and regrets(replace(here, meta={})).regret_ns.any()


def test_as_a_frame() -> None:
    frame = regrets(by_hand()).to_pandas()
    assert frame["action"].tolist() == ["resident", "cpu", "stream"]
    assert frame["resident_ns"].isna().tolist() == [False, True, True]
    assert frame.nlargest(1, "regret_ns")["expert"].tolist() == [2]
    assert frame["clock"].unique().tolist() == ["modelled"]


def test_copies_that_nobody_uses_are_nobody_s() -> None:
    trace = replay(recorded(1, toy_plan(0)), policy="stream_all").trace
    table = regrets(trace)
    copies = (trace.work["kind"] == Work.WEIGHTS) & (trace.work["lane"] == Lane.H2D)
    assert copies.sum() > (table.action == S).sum() == len(table)
    assert set(table.took.copy.tolist()) == set(table.predicted[S].copy.tolist())


@pytest.mark.parametrize("policy", LIVE)
def test_who_was_on_the_device_is_what_the_ledger_held(policy: str) -> None:
    trace = recorded(6, toy_plan(5, 2, "prefetch"))
    of = LIVE[policy]
    run = replay(trace, policy=policy, cache_slots=3 if of.admits else 0).trace
    orchestrator = Orchestrator(run.plan)
    place, held = orchestrator.residency.place, list[bool]()
    wants = {"weights": of.wants_weights, "predictions": of.wants_predictions}
    for request in run.batch.requests(**wants):
        base = request.layer * run.model.experts
        held += [place[base + expert] != Place.HOST for expert in request.experts]
        orchestrator.decide(request)
    assert regrets(run).on_device.tolist() == held


@pytest.mark.parametrize("policy", ["fiddler", "lru", "stream", "prefetch"])
def test_of_one_step_they_are_those_of_the_run(policy: str) -> None:
    for trace in (
        recorded(2, toy_plan(4, 2, policy)),
        replay(recorded(2, toy_plan(4)), gpu_memory="50%").trace,
    ):
        whole = regrets(trace)
        for step in range(len(trace.step_rows)):
            mine, one = np.flatnonzero(whole.step == step), regrets(trace, step)
            assert len(one) == len(mine)
            for name in ("layer", "expert", "tokens", "action", "kept", "waited_ns", "clock"):
                assert np.array_equal(getattr(one, name), getattr(whole, name)[mine]), name
            assert np.array_equal(one.predicted_ns, whole.predicted_ns[:, mine])
            assert np.array_equal(one.took.total, whole.took.total[mine])
