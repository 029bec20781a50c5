"""Planners: what each pins by hand, that orders nest, that makespan's is worth its name."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest

from engine.cost import CostModel
from engine.errors import InputError
from engine.placement import make_plan
from engine.planners import (
    PLANNERS,
    Known,
    at_random,
    by_layers,
    by_makespan,
    by_popularity,
    evenly,
)
from engine.planners.makespan import best_first, layer_ns, savings
from engine.policies import LIVE, POLICIES, Fiddler, Makespan
from engine.profile import Profile
from engine.replay import replay_plan
from engine.sample import Sample
from engine.spec import ModelSpec, resolve_hardware
from engine.synthetic import synthetic_trace
from tests.engine.builders import COSTS, LEAST, MODEL, hardware, toy_sample

COUNTS = np.array([[5, 9, 5, 0], [1, 9, 2, 3], [0, 0, 7, 0]], dtype=np.int64)
KNOWN = Known(Profile.of(COUNTS, 20, "a test", toy_sample()), COSTS, Makespan)
MACHINES = ("quadro-rtx-6000", "rtx-6000-ada", "rtx-4090", "h200")


def costs(model: str, machine: str) -> CostModel:
    return CostModel.of(ModelSpec.preset(model), resolve_hardware(machine))


def made_up(seed: int, tokens: int, layers: int, experts: int, top_k: int) -> Profile:
    """Popular experts, and pairs of them that tokens like to use together."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 1, (layers, experts)) + rng.gumbel(size=(tokens, layers, experts))
    score += np.repeat(rng.gumbel(size=(tokens, layers, -(-experts // 2))), 2, axis=2)[
        ..., :experts
    ]
    return Profile.from_choices(score.argsort(axis=2)[:, :, -top_k:], experts, "made up")


# ---------------------------------------------------------------------- by hand


def test_by_popularity_takes_the_most_tokens_first_and_the_earlier_on_a_tie() -> None:
    assert by_popularity(COUNTS, 5).tolist() == [1, 5, 10, 0, 2]
    assert by_popularity(COUNTS, 0).tolist() == []
    assert sorted(by_popularity(COUNTS, 12).tolist()) == list(range(12))


def test_by_layers_takes_whole_layers_from_the_last() -> None:
    assert [by_layers(COUNTS, room).tolist() for room in (0, 3, 4, 7, 8, 12)] == [
        [],
        [],
        [8, 9, 10, 11],
        [8, 9, 10, 11],
        [4, 5, 6, 7, 8, 9, 10, 11],
        list(range(12)),
    ]


def test_at_random_takes_always_the_same_and_more_of_them_with_more_room() -> None:
    all_of_them = at_random(COUNTS, 12).tolist()
    assert all_of_them == [9, 2, 7, 4, 5, 11, 0, 3, 6, 10, 8, 1]
    assert [at_random(COUNTS, room).tolist() for room in range(13)] == [
        all_of_them[:room] for room in range(13)
    ]


def test_evenly_takes_as_many_of_each_layer_the_most_popular_of_each() -> None:
    assert sorted(evenly(COUNTS, 3).tolist()) == [1, 5, 10]
    assert sorted(evenly(COUNTS, 6).tolist()) == [0, 1, 5, 7, 8, 10]
    assert evenly(COUNTS, 4).tolist()[-1] == 0  # one more: 5 tokens, before 3 and 0


@pytest.mark.parametrize("room", range(13))
def test_evenly_differs_by_one_expert_at_most(room: int) -> None:
    held = np.bincount(evenly(COUNTS, room) // 4, minlength=3)
    assert held.max() - held.min() <= 1


@pytest.mark.parametrize("planner", PLANNERS)
def test_more_room_pins_all_that_less_did_and_never_more_than_the_room(planner: str) -> None:
    before: set[int] = set()
    for room in range(13):
        chosen = PLANNERS[planner](KNOWN, room).tolist()
        assert len(set(chosen)) == len(chosen) <= room
        assert all(0 <= flat < 12 for flat in chosen)
        assert len(chosen) == room or planner == "layers"
        assert before <= set(chosen)
        before = set(chosen)


# ---------------------------------------------------------------------- makespan


def test_a_layer_s_length_by_its_misses_by_hand() -> None:
    """Dense 7, device 10 an expert; CPU 3 + 35 + 6 (activations 3+1 and 5+1), then 35."""
    assert layer_ns(COSTS, Fiddler, 2).tolist() == [27, 7 + 4 + 35 + 6, 7 + 4 + 70 + 6]
    # makespan: one on the CPU, one copied: 7 + 52 + 10 is longer than 52, shorter than 87
    assert layer_ns(COSTS, Makespan, 2).tolist() == [27, 52, 69]
    assert layer_ns(COSTS, POLICIES["stream"], 2).tolist() == [27, 69, 121]
    released = layer_ns(COSTS, POLICIES["fiddler_released"], 2).tolist()
    assert released == [27, 7 + 10 + 45, 7 + 4 + 70 + 6]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_says_how_long_its_layers_are(policy: str) -> None:
    times = layer_ns(COSTS, POLICIES[policy], 4)
    assert times.shape == (5,)
    assert times[0] == 7 + 40 < times[4]


def test_the_other_half_of_a_pair_is_worth_less_where_one_miss_is_cheap() -> None:
    """20 ns without misses, 60 with one, 160 with two: each token's first expert saves 100."""
    chosen = np.array([[[0, 1]]] * 5 + [[[2, 3]]] * 4)
    profile = Profile.from_choices(chosen, 4, "a test")
    assert profile.sample is not None
    times = np.array([20, 60, 160])
    order = best_first(profile.sample, times, profile.array)
    assert order.tolist() == [0, 2, 1, 3]
    saved = savings(profile.sample, times, profile.array, order)
    assert saved.tolist() == [500, 400, 200, 160]
    assert by_popularity(profile.array, 4).tolist() == [0, 1, 2, 3]


def length(sample: Sample, times: np.ndarray, pinned: set[int]) -> int:
    """The sample's time, from scratch."""
    flat = np.arange(sample.layers)[:, None] * sample.experts + sample.choices
    return int(times[(~np.isin(flat, list(pinned))).sum(axis=2)].sum())


@pytest.mark.parametrize("seed", range(12))
def test_savings_add_up_to_the_sample_s_time(seed: int) -> None:
    profile = made_up(seed, 30, 3, 6, 2)
    sample = profile.sample
    assert sample is not None
    times = layer_ns(costs("mixtral-8x7b", MACHINES[seed % 4]), Makespan, 2)
    order = np.random.default_rng(seed).permutation(18)
    whole = length(sample, times, set())
    left = whole - np.cumsum(savings(sample, times, profile.array, order))
    for room in range(18):
        assert left[room] == length(sample, times, set(order[: room + 1].tolist()))


@pytest.mark.parametrize("seed", range(12))
def test_each_expert_is_the_best_of_its_layer_beside_those_before_it(seed: int) -> None:
    profile = made_up(seed, 40, 1, 7, 2)
    sample = profile.sample
    assert sample is not None
    times = np.array([20, 60, 160])  # each miss costs more: no steps, nothing to fall back from
    pinned: set[int] = set()
    for flat in best_first(sample, times, profile.array).tolist():
        lengths = {other: length(sample, times, pinned | {other}) for other in range(7)}
        assert lengths[flat] == min(lengths[other] for other in set(range(7)) - pinned)
        pinned.add(flat)


@pytest.mark.parametrize("policy", ["fiddler", "makespan"])
@pytest.mark.parametrize("seed", range(25))
def test_never_slower_on_its_sample_than_popularity_at_any_room(policy: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts, top_k = int(rng.integers(4, 12)), int(rng.integers(1, 4))
    profile = made_up(seed, 60, 3, experts, top_k)
    assert profile.sample is not None
    model = str(rng.choice(("mixtral-8x7b", "qwen3-30b-a3b")))
    known = Known(profile, costs(model, MACHINES[seed % 4]), POLICIES[policy])
    times = layer_ns(known.costs, known.policy, top_k)

    def saved(order: np.ndarray) -> np.ndarray:
        return np.cumsum(savings(profile.sample, times, profile.array, order))  # type: ignore[arg-type]

    ours, theirs = by_makespan(known, 10**6), by_popularity(profile.array, 10**6)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert (saved(ours) >= saved(theirs)).all()


@pytest.mark.parametrize("policy", ["fiddler", "makespan"])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_replay_of_the_sample_itself_is_never_slower(policy: str, machine: str) -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=0, decode_tokens=40, skew=0.8)
    profile = Profile.from_trace(trace)
    for share in ("20%", "60%"):
        speeds = [
            replay_plan(
                trace,
                make_plan(
                    trace.model, machine, profile, gpu_memory=share, policy=policy,
                    planner=planner, cache_slots=0,
                ),
            ).trace.duration_ns
            for planner in ("makespan", "popularity")
        ]  # fmt: skip
        assert speeds[0] <= speeds[1]


def test_the_order_is_worked_out_once_for_a_profile_and_quickly() -> None:
    profile = made_up(0, 2000, 48, 128, 8)
    known = Known(profile, costs("qwen3-30b-a3b", "rtx-4090"), Makespan)
    began = time.perf_counter()
    first = by_makespan(known, 3000)
    took = time.perf_counter() - began
    assert took < 3  # under 1 s where nothing else runs
    began = time.perf_counter()
    assert by_makespan(known, 3000).tolist() == first.tolist()
    assert by_makespan(known, 2000).tolist() == first[:2000].tolist()
    assert time.perf_counter() - began < took / 5
    sent = pickle.loads(pickle.dumps(profile))
    assert sent == profile and not sent.memo  # for another process works it out itself
    other = Known(profile, known.costs, Fiddler)
    assert by_makespan(other, 3000).tolist() != first.tolist()


def test_without_a_sample_makespan_says_what_to_do() -> None:
    bare = Profile.of(COUNTS, 20, "a test")
    options: dict[str, Any] = {"gpu_memory": LEAST + 3000, "max_tokens": 10}
    with pytest.raises(InputError, match=r"needs a sample of routing.*planner 'popularity'"):
        make_plan(MODEL, hardware(), bare, planner="makespan", **options)
    for policy in LIVE:
        made = make_plan(
            MODEL, hardware(), KNOWN.profile, planner="makespan", policy=policy, **options
        )
        assert made.planner == "makespan"
