"""Makespan: a layer's length against Fiddler's and against all subsets."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from engine.cost import CostModel, Curve
from engine.decision import Request
from engine.events import Action
from engine.policies import (
    Fiddler,
    Makespan,
)
from engine.policies.makespan import length_ns, lengths_ns
from engine.replay import replay_plan
from engine.residency import Residency
from engine.spec import ModelSpec, resolve_hardware
from tests.engine.builders import COSTS, recorded, toy_plan

RESIDENT, STREAM, CPU = Action.RESIDENT, Action.STREAM, Action.CPU
MACHINES = ("quadro-rtx-6000", "rtx-6000-ada", "rtx-4090")
MODELS = ("mixtral-8x7b", "qwen3-30b-a3b")


def ledger(slots: int = 0, pinned: tuple[int, ...] = (), columns: int = 8) -> Residency:
    made = Residency(
        (3, columns), 1000, budget_bytes=1000 * (slots + len(pinned)), cache_slots=slots
    )
    made.mark(pinned, ())
    return made


def random_costs(rng: random.Random) -> CostModel:
    """The toy machine's, a preset's, or anything."""
    if rng.random() < 0.5:
        hardware, model = resolve_hardware(rng.choice(MACHINES)), rng.choice(MODELS)
        return CostModel.of(ModelSpec.preset(model), hardware)
    return replace(
        COSTS,
        gpu=Curve(((rng.randrange(1, 30), 0), (0, rng.randrange(1, 9)))),
        cpu=Curve(((rng.randrange(60), rng.randrange(1, 30)),)),
        copy_ns=rng.randrange(1, 120),
        overlap=rng.random() < 0.8,
    )


def random_layer(rng: random.Random, columns: int = 8, most: int = 40) -> Request:
    many = rng.randrange(1, columns + 1)
    tokens = [rng.randrange(1, rng.choice((2, 4, most))) for _ in range(many)]
    experts = sorted(rng.sample(range(columns), many))
    return Request(0, 1, experts, tokens, rng.randrange(max(tokens), sum(tokens) + 1))


def length(costs: CostModel, request: Request, actions: list[int]) -> int:
    return length_ns(costs, request.tokens, actions, request.step_tokens)


# ---------------------------------------------------------------------- makespan


@pytest.mark.parametrize("seed", range(100))
def test_lengths_of_many_choices_are_the_timeline_s(seed: int) -> None:
    rng = random.Random(seed)
    costs, request = random_costs(rng), random_layer(rng)
    choices = [[rng.randrange(3) for _ in request.experts] for _ in range(20)]
    at_once = lengths_ns(costs, request.tokens, np.array(choices), request.step_tokens)
    assert at_once.tolist() == [length(costs, request, each) for each in choices]


@pytest.mark.parametrize("seed", range(150))
def test_makespan_takes_no_longer_than_fiddler_from_the_same_state(seed: int) -> None:
    rng = random.Random(seed)
    costs, request = random_costs(rng), random_layer(rng)
    pinned = tuple(sorted(rng.sample(range(8, 16), rng.randrange(5))))
    ours, theirs = (p(ledger(0, pinned), costs).decide(request) for p in (Makespan, Fiddler))
    assert length(costs, request, ours.actions) <= length(costs, request, theirs.actions)


def best_of_all(costs: CostModel, request: Request) -> int:
    choices = np.array(list(product((int(STREAM), int(CPU)), repeat=len(request.experts))))
    return int(lengths_ns(costs, request.tokens, choices, request.step_tokens).min())


@pytest.mark.parametrize("seed", range(100))
def test_makespan_is_the_best_of_all_subsets_of_small_layers(seed: int) -> None:
    rng = random.Random(seed)
    costs, request = random_costs(rng), random_layer(rng)
    actions = Makespan(ledger(), costs).decide(request).actions
    assert length(costs, request, actions) == best_of_all(costs, request)


def test_the_heaviest_first_is_close_to_the_best_of_all_subsets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What larger layers go by: on real machines rarely beaten, and by little."""
    monkeypatch.setattr("engine.policies.makespan.TRY_ALL", 0)
    ratios: list[float] = []
    for seed in range(600):
        rng = random.Random(f"subsets {seed}")
        spec = ModelSpec.preset(rng.choice(MODELS))
        costs = CostModel.of(spec, resolve_hardware(rng.choice(MACHINES)))
        request = random_layer(rng, most=rng.choice((40, 400)))
        actions = Makespan(ledger(), costs).decide(request).actions
        ratios.append(length(costs, request, actions) / best_of_all(costs, request))
    assert max(ratios) < 1.03
    assert np.mean(ratios) < 1.001


@pytest.mark.parametrize("seed", range(6))
def test_makespan_s_runs_without_a_cache_are_never_longer_than_fiddler_s(seed: int) -> None:
    trace = recorded(seed, toy_plan(seed + 1), 20)
    for hardware in (None, *MACHINES):
        plan = toy_plan(seed + 1)
        if hardware:
            costs = CostModel.of(ModelSpec.preset(MODELS[0]), resolve_hardware(hardware))
            plan = replace(plan, costs=costs)
        ours, theirs = (
            replay_plan(trace, replace(plan, policy=p)) for p in ("makespan", "fiddler")
        )
        steps, theirs_steps = ours.trace.steps, theirs.trace.steps
        length = steps["end_ns"] - steps["start_ns"]
        assert (length <= theirs_steps["end_ns"] - theirs_steps["start_ns"]).all()


def test_makespan_s_choice_of_like_misses_is_remembered_by_costs() -> None:
    made = Makespan(ledger(), COSTS)
    request = Request(0, 0, [0, 1, 2, 3], [1] * 4)
    before = made.decide(request).actions
    made.costs = replace(COSTS, copy_ns=10**6)
    assert made.decide(request).actions == [CPU] * 4 != before
