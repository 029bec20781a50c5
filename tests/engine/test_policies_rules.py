"""Policies by hand: Q*, HybriMoE, dynamic, prefetch, stream all, Fiddler as released."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.cost import Curve
from engine.decision import Decision, Request
from engine.events import Action, Why
from engine.orchestrator import Orchestrator
from engine.policies import (
    POLICIES,
    Dynamic,
    FiddlerReleased,
    HybriMoe,
    Policy,
    Prefetch,
    QStar,
    StreamAll,
)
from engine.policies.dynamic import PERIOD_STEPS
from engine.policies.makespan import length_ns
from engine.replay import replay_plan
from engine.residency import Residency
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from tests.engine.builders import COSTS, Driver, recorded, toy_plan

RESIDENT, STREAM, CPU = Action.RESIDENT, Action.STREAM, Action.CPU


def ledger(slots: int = 0, pinned: tuple[int, ...] = (), columns: int = 8) -> Residency:
    made = Residency(
        (3, columns), 1000, budget_bytes=1000 * (slots + len(pinned)), cache_slots=slots
    )
    made.mark(pinned, ())
    return made


# ---------------------------------------------------------------------- qstar, hybrimoe


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 0.9])
def test_qstar_copies_the_link_s_share_of_the_misses(share: float) -> None:
    """COSTS: 12.5 and 37.5 GB/s, so a quarter; what is left of an expert is carried over."""
    rate = 1e-9 if not share else 37.5 * share / (1 - share)
    policy = QStar(ledger(), replace(COSTS, h2d_contended_gbps=rate))
    rng = random.Random(0)
    copied = missed = 0
    for _ in range(400):
        experts = sorted(rng.sample(range(8), rng.randrange(1, 5)))
        actions = policy.decide(Request(0, 1, experts, [1] * len(experts))).actions
        copied += actions.count(STREAM)
        missed += len(experts)
        assert copied == int(missed * share + 1e-6)
        assert 0 <= policy.carried < 1


def test_qstar_copies_the_heaviest_and_all_that_a_copy_is_faster_for() -> None:
    policy = QStar(ledger(), COSTS)  # break even at three tokens
    actions = policy.decide(Request(0, 0, [0, 1, 2, 3, 4, 5], [1, 9, 1, 2, 1, 3])).actions
    assert actions == [CPU, STREAM, CPU, STREAM, CPU, STREAM]
    policy.restore({"carried": [7.5]})
    assert policy.carried == 0.0


def test_hybrimoe_by_hand() -> None:
    """CPU 45 ns a token (with activations), a copy 52 ns, the device 10 after it."""
    policy = HybriMoe(ledger(), COSTS)
    # CPU 45 < copy 62: CPU; 90 > 62: copy; 90 < 114: CPU; 135 > 114: copy
    assert policy.decide(Request(0, 0, [0, 1, 2, 3], [1] * 4)).actions == [CPU, CPU, STREAM, STREAM]
    # the lightest for the CPU, the heaviest for the link
    assert policy.decide(Request(0, 0, [0, 1, 2], [5, 1, 2])).actions == [STREAM, CPU, CPU]


def test_hybrimoe_keeps_what_the_router_scores_high() -> None:
    policy = HybriMoe(ledger(slots=1), replace(COSTS, copy_ns=1, cpu=Curve(((500, 1),))))

    def ask(expert: int, weight: float) -> Decision:
        request = Request(0, 0, [expert], [1], weights=[weight])
        policy.residency.apply(0, decision := policy.decide(request))
        return decision

    assert ask(0, 0.9).keep == [True]
    assert ask(1, 0.1).keep == [False]
    assert ask(2, 0.95).evict == [0]


# ---------------------------------------------------------------------- dynamic


def test_dynamic_fetches_once_in_a_period_and_runs_the_rest_on_the_cpu() -> None:
    policy = Dynamic(ledger(slots=2), COSTS)
    policy.restore({})
    fetched: dict[int, list[int]] = {}
    for step in range(3 * PERIOD_STEPS):
        for layer in range(3):
            request = Request(step, layer, [7 if layer == 2 else step % 5], [1])
            decision = policy.decide(request)
            policy.residency.apply(layer, decision)
            assert STREAM not in decision.actions
            if decision.fetch:
                fetched[step] = decision.fetch
                assert layer == 0
    assert set(fetched) <= {0, PERIOD_STEPS, 2 * PERIOD_STEPS}
    assert fetched[0] == [0]  # all that was seen by then
    assert fetched[PERIOD_STEPS][0] == 23  # expert 7 of layer 2, in every step
    assert 23 in policy.residency.cached()


def test_dynamic_begins_with_the_profile_s_popularity() -> None:
    counts = np.arange(24).reshape(3, 8)
    plan = toy_plan(
        4, 4, "dynamic", model=replace(toy_model(), experts=8), counts=counts, planner="random"
    )
    orchestrator = Orchestrator(plan)
    decision = orchestrator.decide(Request(0, 0, [0], [1]))
    assert decision.fetch == [23, 22, 21, 20]
    again = Orchestrator(plan, orchestrator.start())
    assert again.start() == orchestrator.start()


def toy_model() -> ModelSpec:
    return Driver(toy_plan(1)).model


# ---------------------------------------------------------------------- prefetch


def foreseen(trace: Trace, right: bool) -> Trace:
    """The trace with predictions: what the next layer chose, or something else."""
    routing, layers = trace.routing, trace.model.layers
    predicted = np.full(routing.experts.shape, -1, dtype=np.int16)
    where = {
        (int(t), int(layer)): at
        for at, (t, layer) in enumerate(zip(routing.token, routing.layer, strict=True))
    }
    for (token, layer), at in where.items():
        if layer + 1 < layers:
            chosen = routing.experts[where[token, layer + 1]]
            others = sorted(set(range(trace.model.experts)) - set(chosen.tolist()))
            predicted[at] = chosen if right else others[: len(chosen)]
    return replace(trace, routing=Routing(**vars(routing) | {"predicted": predicted}))


def test_right_predictions_make_hits_of_all_but_the_first_layer() -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=0, decode_tokens=20, gpu_memory="20%")
    plan = replace(trace.plan, policy="prefetch", pinned=(), cache_slots=8)
    good = replay_plan(foreseen(trace, True), plan).trace
    calls = good.work["kind"] == 1
    missed = good.work["layer"][calls & (good.work["action"] == STREAM)]
    assert set(missed.tolist()) == {0}
    bad = replay_plan(foreseen(trace, False), plan)
    lru = replay_plan(trace, replace(plan, policy="lru"))
    assert good.summary.hit_rate > 0.95 > bad.summary.hit_rate
    assert good.duration_ns <= lru.trace.duration_ns
    assert bad.summary.h2d_bytes > lru.summary.h2d_bytes


def test_prefetch_asks_for_the_next_layer_and_after_the_last_for_none() -> None:
    policy = Prefetch(ledger(slots=4), COSTS)
    request = Request(0, 1, [0], [1], predicted=[2, 5])
    assert policy.ahead(request) == [18, 21]
    assert policy.ahead(replace_layer(request, 2)) == []
    assert policy.ahead(Request(0, 1, [0], [1])) == []


def replace_layer(request: Request, layer: int) -> Request:
    return replace(request, layer=layer)


# ---------------------------------------------------------------------- stream_all, released


def test_stream_all_copies_every_expert_that_is_not_there() -> None:
    trace = recorded(1, toy_plan(3, policy="stream_all"), 10)
    steps, layers, pinned = len(trace.step_rows), 3, 3
    copies = trace.moves["bytes"][trace.moves["why"] == Why.STREAM]
    assert copies.sum() == steps * (layers * 4 - pinned) * 1000
    none = replay_plan(trace, toy_plan(0, policy="stream_all")).summary
    assert none.h2d_bytes == steps * layers * 4 * 1000
    policy = StreamAll(ledger(pinned=(9,)), COSTS)
    decision = policy.decide(Request(0, 1, [0, 1], [1, 1]))
    assert decision.actions == [STREAM, RESIDENT]
    assert decision.unused == [10, 11, 12, 13, 14, 15]


def test_the_released_code_copies_above_ten_tokens() -> None:
    policy = FiddlerReleased(ledger(), COSTS)
    assert [policy.miss(tokens) for tokens in (1, 10, 11, 500)] == [CPU, CPU, STREAM, STREAM]
    tokens = np.array([10, 11])
    assert policy.misses(tokens).tolist() == [CPU, STREAM]


def test_the_released_code_does_one_thing_after_the_other_from_pageable_memory() -> None:
    """A layer with one resident, one streamed, one CPU expert: nothing overlaps."""
    plan = toy_plan(1, policy="fiddler_released")  # pins flat 0
    assert not plan.lane_costs.overlap
    assert plan.lane_costs.copy_ns == COSTS.pageable_copy_ns == 104
    tokens, actions = [1, 20, 2], [int(RESIDENT), int(STREAM), int(CPU)]
    gpu = COSTS.gpu(1) + COSTS.gpu(20)
    cpu = COSTS.to_host(2) + COSTS.cpu(2) + COSTS.to_device(2)
    expected = COSTS.dense_ns(20, 0) + gpu + 104 + cpu
    assert length_ns(plan.lane_costs, tokens, actions, 20) == expected


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_has_its_own_summary(name: str) -> None:
    policy: type[Policy] = POLICIES[name]
    others: list[Any] = [other.summary for other in POLICIES.values() if other is not policy]
    assert policy.summary not in others
