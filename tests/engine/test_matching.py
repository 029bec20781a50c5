"""Matching: patterns of a sample, the nearest by cosine, what it fetches."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.cost import CostModel
from engine.decision import Request
from engine.orchestrator import Orchestrator
from engine.policies import Matching
from engine.policies.matching import FADE, LEAST_CHANCE, PIECE_TOKENS, patterns
from engine.profile import Profile
from engine.replay import replay, replay_plan
from engine.residency import Residency
from engine.synthetic import synthetic_trace
from tests.engine.builders import COSTS, MODEL, random_choices, toy_plan


def talk(topics: str) -> np.ndarray:
    """Choices of a piece for each topic: "a" uses experts 0, 1, "b" 2, 3 in all 3 layers."""
    pairs = {"a": [0, 1], "b": [2, 3]}
    return np.array([[pairs[topic]] * 3 for topic in topics for _ in range(PIECE_TOKENS)])


def profile(topics: str) -> Profile:
    chosen = talk(topics)
    return Profile.from_choices(chosen, 4, "a test", range(0, len(chosen), PIECE_TOKENS))


def policy(known: Profile | None, slots: int = 6, costs: CostModel = COSTS) -> Matching:
    residency = Residency((3, 4), 1000, budget_bytes=1000 * slots, cache_slots=slots)
    return Matching(residency, costs, known)


def test_patterns_are_shares_by_layer() -> None:
    made = patterns(profile("ab"), (3, 4))
    assert made.shape == (2, 3, 4)
    np.testing.assert_allclose(made.sum(axis=2), 1.0)
    assert made[0, 1].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert made[1, 2].tolist() == [0.0, 0.0, 0.5, 0.5]


def test_without_a_sample_the_counts_are_the_one_pattern() -> None:
    counts = np.array([[1, 1, 2, 0]] * 3)
    assert patterns(Profile.of(counts, 2, "a test"), (3, 4)).tolist() == [
        [[0.25, 0.25, 0.5, 0]] * 3
    ]
    assert patterns(None, (3, 4)).tolist() == [[[0.25] * 4] * 3]
    nothing = Profile.of(np.zeros((3, 4), dtype=np.int64), 0, "a test")
    assert policy(nothing).decide(Request(0, 0, [1, 2], [1, 1])).fetch == []


def test_the_pattern_of_the_same_topic_says_what_comes_next() -> None:
    made = policy(profile("ab"))
    assert made.decide(Request(0, 0, [2, 3], [1, 1])).fetch == [6, 7]
    made = policy(profile("ab"))
    assert made.decide(Request(0, 0, [0, 1], [1, 1])).fetch == [4, 5]
    assert made.decide(Request(0, 2, [0, 1], [1, 1])).fetch == []  # there is no layer 3


def test_what_was_seen_fades_so_a_new_topic_takes_over() -> None:
    made = policy(profile("ab"), slots=0)
    nearest: list[int] = []
    for step in range(200):
        experts = [0, 1] if step < 100 else [2, 3]
        for layer in range(3):
            made.ahead(Request(step, layer, experts, [1, 1]))
        nearest.append(int(made.likeness.argmax()))
    assert set(nearest[:100]) == {0}
    assert set(nearest[120:]) == {1}


def test_no_more_is_fetched_than_a_layer_uses_and_only_what_is_likely() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.random((PIECE_TOKENS, 3, 16)).argsort(axis=2)[:, :, :4]
    known = Profile.from_choices(chosen, 16, "a test")
    residency = Residency((3, 16), 1000, budget_bytes=20_000, cache_slots=20)
    made = Matching(residency, COSTS, known)
    share = patterns(known, (3, 16))[0, 1]
    wanted = made.ahead(Request(0, 0, [0, 1, 2, 3], [1] * 4))
    assert len(wanted) <= 4
    assert all(share[flat - 16] * 4 >= LEAST_CHANCE for flat in wanted)
    assert [share[flat - 16] for flat in wanted] == sorted(share[share * 4 >= LEAST_CHANCE])[::-1][
        :4
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_running_likeness_is_the_cosine(seed: int) -> None:
    """Against matrices built from scratch: nearest by cosine, tokens of a step shared out."""
    rng = random.Random(seed)
    chosen = np.stack([random_choices(rng, 150)[0] for _ in range(3)], axis=1)
    known = Profile.from_choices(chosen, 4, "a test", (0, 40, 100))
    made = policy(known, slots=0)
    shares = patterns(known, (3, 4))
    seen = np.zeros((3, 4))
    for step in range(30):
        seen *= FADE
        for layer in range(3):
            active, count = np.unique(
                random_choices(rng, rng.choice((1, 5)))[0], return_counts=True
            )
            tokens = int(count.sum()) // MODEL.top_k
            made.ahead(Request(step, layer, active.tolist(), count.tolist(), tokens))
            seen[layer, active] += count / count.sum()
            cosine = (shares * seen).sum(axis=(1, 2)) / (
                np.sqrt((shares**2).sum(axis=(1, 2))) * np.sqrt((seen**2).sum())
            )
            np.testing.assert_allclose(made.likeness / np.linalg.norm(seen), cosine)


def test_what_is_expected_gets_a_slot_what_is_needed_has_to_earn_it() -> None:
    made = policy(profile("ab"), slots=2)
    for step in range(3):
        decision = made.decide(Request(step, 2, [0, 1], [1, 1]))
        made.residency.apply(2, decision)
    assert made.residency.cached() == [8, 9]
    assert made.decide(Request(4, 2, [3], [1])).keep == [False]
    decision = made.decide(Request(5, 0, [0], [1]))
    assert (decision.keep, decision.fetch, decision.evict) == ([False], [4], [8])


def test_another_profile_begins_anew() -> None:
    orchestrator = Orchestrator(toy_plan(6, 6, "matching", profile=profile("ab")))
    orchestrator.decide(Request(0, 0, [2, 3], [1, 1]))
    orchestrator.change(toy_plan(6, 6, "matching", profile=profile("aba")))
    decision = orchestrator.decide(Request(1, 0, [2, 3], [1, 1]))
    assert decision.fetch == []  # 6 and 7 are there
    made: Any = orchestrator.policy
    assert made.likeness.shape == (3,)
    assert made.snapshot()["likeness"] == made.likeness.tolist()
    made.restore({"likeness": [1.0]})  # of another number of patterns
    assert made.likeness.tolist() == [0.0] * 3


def test_it_hits_more_often_than_lru_below_one_token_s_working_set() -> None:
    """32 x 2 experts a token, 40 slots: LRU scores nothing."""
    trace = synthetic_trace(
        "mixtral-8x7b", prompt_tokens=0, decode_tokens=60, skew=0.8, gpu_memory="20%"
    )
    known = Profile.from_trace(replay(trace, cache_slots=0).trace)
    plan = replace(trace.plan, pinned=(), cache_slots=40, profile=known)
    lru, ours = (replay_plan(trace, replace(plan, policy=p)).summary for p in ("lru", "matching"))
    assert lru.hit_rate < 0.05 < 0.3 < ours.hit_rate
    assert ours.tokens_per_s > lru.tokens_per_s
