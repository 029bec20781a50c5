"""Caching policies against simulations that keep nothing but a list of uses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.decision import Batch, Request
from engine.events import Action
from engine.policies import LIVE, POLICIES, Belady, Lfu, Lrfu, Lru, LruLayer, Policy
from engine.policies.ranking import HALF_LIFE_STEPS
from engine.policies.retention import LayerRecency
from engine.policies.scores import Scores
from engine.residency import Residency
from tests.engine.builders import COSTS

Accesses = list[tuple[int, list[int]]]
"""Layer and active experts, one after the other."""
Uses = dict[int, list[tuple[int, int]]]
"""Of each cached expert: step and number of every use since it was cached."""
Victim = Callable[[Uses, list[int], int], int]
"""Who goes: uses, experts that may go, the expert that comes."""
DEMAND = ("lru", "lfu", "lrfu", "lru_layer")


def ledger(grid: tuple[int, int], slots: int, pinned: tuple[int, ...] = ()) -> Residency:
    made = Residency(grid, 1000, budget_bytes=1000 * (slots + len(pinned)), cache_slots=slots)
    made.mark(pinned, ())
    return made


def accesses(rng: random.Random, grid: tuple[int, int], steps: int) -> Accesses:
    """Steps through all layers, some experts likelier, a few steps of many tokens."""
    made: Accesses = []
    for _ in range(steps):
        many = rng.choice((1, 1, 2, 2, grid[1]))
        for layer in range(grid[0]):
            likely = sorted(range(grid[1]), key=lambda i: rng.random() ** (1 + i), reverse=True)
            made.append((layer, sorted(likely[:many])))
    return made


def as_batch(wanted: Accesses, columns: int) -> Batch:
    sizes = [len(experts) for _, experts in wanted]
    layer = np.array([layer for layer, _ in wanted], dtype=np.int64)
    expert = np.array([expert for _, experts in wanted for expert in experts], dtype=np.int64)
    return Batch(
        columns, np.cumsum(layer == 0) - 1, layer, np.ones(len(wanted), dtype=np.int64),
        np.repeat(np.arange(len(wanted)), sizes), expert, np.ones(len(expert), dtype=np.int64),
    )  # fmt: skip


def simulated(
    wanted: Accesses, slots: int, columns: int, victim: Victim, shares: list[int] | None = None
) -> list[tuple[set[int], list[int]]]:
    """Hits and evictions of each access; ``shares``: slots of each layer."""
    uses: Uses = {}
    step = number = 0
    answers: list[tuple[set[int], list[int]]] = []
    for layer, experts in wanted:
        step += layer == 0
        active = [layer * columns + expert for expert in experts]
        hits = {flat for flat in active if flat in uses}
        for flat in sorted(hits):
            number += 1
            uses[flat].append((step, number))
        gone: list[int] = []
        for flat in active:
            if flat in uses:
                continue
            mine = [o for o in uses if shares is None or o // columns == layer]
            if len(mine) >= (slots if shares is None else shares[layer]):
                may_go = [other for other in mine if other not in active]
                if not may_go:
                    continue
                gone.append(victim(uses, may_go, flat))
                del uses[gone[-1]]
            number += 1
            uses[flat] = [(step, number)]
        answers.append((hits, gone))
    return answers


def oldest(uses: Uses, may_go: list[int], _: int) -> int:
    return min(may_go, key=lambda flat: uses[flat][-1][1])


def rarest(uses: Uses, may_go: list[int], _: int) -> int:
    return min(may_go, key=lambda flat: (len(uses[flat]), uses[flat][-1][1]))


def faded(uses: Uses, may_go: list[int], _: int) -> int:
    def score(flat: int) -> tuple[float, int]:
        total = math.fsum(2.0 ** (step / HALF_LIFE_STEPS) for step, _ in uses[flat])
        return round(math.log2(total), 9), uses[flat][-1][1]

    return min(may_go, key=score)


@pytest.mark.parametrize(
    ("policy", "victim"), [(Lru, oldest), (Lfu, rarest), (Lrfu, faded), (LruLayer, oldest)]
)
def test_caches_are_what_they_say_on_250_random_traces(
    policy: type[Policy], victim: Victim
) -> None:
    for seed in range(250):
        rng = random.Random(f"{policy.name} {seed}")
        grid = rng.randrange(1, 5), rng.randrange(2, 9)
        slots = rng.randrange(1, grid[0] * grid[1] + 1)
        wanted = accesses(rng, grid, 40)
        shares = [slots // grid[0] + (layer < slots % grid[0]) for layer in range(grid[0])]
        by_layer = shares if policy is LruLayer else None
        made = policy(ledger(grid, slots), COSTS)
        expected = simulated(wanted, slots, grid[1], victim, by_layer)
        for (layer, experts), (hits, gone) in zip(wanted, expected, strict=True):
            decision = made.decide(Request(0, layer, experts, [1] * len(experts)))
            made.residency.apply(layer, decision)
            there = [at for at, action in enumerate(decision.actions) if not action]
            assert {layer * grid[1] + experts[at] for at in there} == hits
            assert decision.evict == gone


def test_layers_share_slots_evenly_the_first_have_one_more() -> None:
    made = LruLayer(ledger((3, 4), 5), COSTS)
    for layer in (0, 1, 2):
        decision = made.decide(Request(0, layer, [0, 1, 2, 3], [1] * 4))
        made.residency.apply(layer, decision)
        assert sum(decision.keep) == (2, 2, 1)[layer]
    assert made.residency.cached() == [0, 1, 4, 5, 8]


def test_a_layer_above_its_share_after_a_smaller_plan_gives_up_first() -> None:
    rule = LayerRecency((2, 4))
    for flat in (0, 1, 2):
        rule.add(flat)
    assert rule.make_room(4, 3, {4}) == [0]  # layer 0 has a share of 2 and holds 3
    assert rule.make_room(4, 3, {0, 1, 2, 4}) is None
    assert rule.make_room(3, 3, {3}) == [0, 1]
    assert rule.make_room(4, 1, {4}) is None  # one slot: layer 0's
    assert rule.make_room(4, 0, {4}) is None


# ---------------------------------------------------------------------- scores


def test_scores_count_uses_of_experts_that_are_not_cached() -> None:
    rule = Scores((1, 4))
    for flat in (0, 1):
        rule.missed(flat)
        rule.add(flat)
    rule.missed(2)
    assert rule.make_room(2, 2, {2}) is None  # a tie: who is there stays
    rule.step()
    rule.missed(2)
    assert rule.make_room(2, 2, {2}) == [0]
    assert rule.make_room(2, 2, {2, 0}) == [1]
    assert rule.make_room(3, 2, {3}) is None  # never used
    assert rule.make_room(3, 3, {3}) == []


def test_scores_fade_by_their_half_life() -> None:
    rule = Scores((1, 4))
    rule.missed(0, 2.0)
    for _ in range(rule.half_life_steps):
        rule.step()
    rule.missed(1, 1.0)
    assert rule.scores[0] == pytest.approx(rule.scores[1])
    rule.missed(0, 1.0)  # 2 faded to 1, and 1
    assert rule.scores[0] / rule.scores[1] == pytest.approx(2.0)


def test_scores_are_brought_down_before_they_overflow() -> None:
    """Order and victims of a long run are those of sums that never overflow."""
    rule, rng = Scores((1, 6)), random.Random(0)
    uses: dict[int, list[int]] = {flat: [] for flat in range(6)}
    for flat in range(4):
        rule.missed(flat)
        rule.add(flat)
        uses[flat].append(0)
    for step in range(1, 3 * 512 * HALF_LIFE_STEPS // 8):
        for _ in range(8):
            rule.step()
        flat = rng.randrange(6)
        uses[flat].append(8 * step)
        (rule.touch if flat in rule else rule.missed)(flat)
        if step % 500 == 0:
            score = {
                flat: math.fsum(2.0 ** ((at - 8 * step) / HALF_LIFE_STEPS) for at in uses[flat])
                for flat in uses
            }
            assert list(rule) == sorted(range(4), key=score.__getitem__)
            assert rule.make_room(4, 4, ()) == (
                [next(iter(rule))] if score[4] > min(score[flat] for flat in range(4)) else None
            )


# ---------------------------------------------------------------------- belady


def hits(policy: type[Policy], wanted: Accesses, grid: tuple[int, int], slots: int) -> int:
    made = policy(ledger(grid, slots), COSTS).decide_all(as_batch(wanted, grid[1]))
    return int((made.action == Action.RESIDENT).sum())


def most_hits(wanted: Accesses, columns: int, slots: int) -> int:
    """The best of all caches: every set that could be kept after every access is tried."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for layer, experts in wanted:
        active = {layer * columns + expert for expert in experts}
        after: dict[frozenset[int], int] = {}
        for cached, score in states.items():
            score += len(active & cached)
            held = sorted(cached | active)
            for mask in range(1 << len(held)):
                if mask.bit_count() <= slots:
                    kept = frozenset(flat for at, flat in enumerate(held) if mask >> at & 1)
                    after[kept] = max(after.get(kept, 0), score)
        states = after
    return max(states.values())


@pytest.mark.parametrize("seed", range(40))
def test_belady_is_the_best_of_all_caches_on_tiny_traces(seed: int) -> None:
    rng = random.Random(seed)
    grid = rng.choice(((1, 4), (2, 3), (3, 2)))
    wanted = accesses(rng, grid, 12 // grid[0])
    for slots in range(4):
        assert hits(Belady, wanted, grid, slots) == most_hits(wanted, grid[1], slots)


@pytest.mark.parametrize("seed", range(30))
def test_no_policy_on_demand_hits_more_often_than_belady_at_any_size(seed: int) -> None:
    rng = random.Random(seed)
    grid = rng.randrange(1, 4), rng.randrange(2, 7)
    wanted = accesses(rng, grid, 30)
    for slots in range(grid[0] * grid[1] + 1):
        bound = hits(Belady, wanted, grid, slots)
        for name in DEMAND:
            assert hits(POLICIES[name], wanted, grid, slots) <= bound, (name, slots)


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("policy", LIVE)
@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_has_the_same_future(policy: str, seed: int) -> None:
    """Two policies, one restored half way from the other's JSON values: no difference after."""
    rng = random.Random(f"{policy} {seed}")
    grid, slots = (3, 6), rng.randrange(1, 12)
    one = POLICIES[policy](ledger(grid, slots, (0, 7)), COSTS)
    made = accesses(rng, grid, 80)
    half = 3 * rng.randrange(20, 50)

    def ask(policy: Policy, at: int) -> Any:
        layer, experts = made[at]
        draw = random.Random(at)
        request = Request(at // 3, layer, experts, [draw.randrange(1, 4) for _ in experts])
        request.weights = [draw.random() for _ in experts]
        request.predicted = made[at + 1][1] if layer + 1 < grid[0] else None
        decision = policy.decide(request)
        policy.residency.apply(layer, decision)
        return decision

    for at in range(half):
        ask(one, at)
    other = POLICIES[policy](ledger(grid, slots, (0, 7)), COSTS)
    for flat in one.residency.cached():
        other.residency.admit(flat)
    other.restore(one.snapshot())
    assert list(other.cache) == list(one.cache)
    assert other.snapshot() == one.snapshot()
    for at in range(half, len(made)):
        assert ask(other, at) == ask(one, at)
