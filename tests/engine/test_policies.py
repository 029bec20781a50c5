"""Policies: what each decides by hand, and that the batch form decides the same."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from engine.budgets import budget_curve
from engine.cost import Curve
from engine.decision import Decision, Request
from engine.errors import InputError, UnknownNameError
from engine.events import Action
from engine.orchestrator import Orchestrator
from engine.placement import change_plan, make_plan
from engine.plan import Plan
from engine.policies import (
    LIVE,
    POLICIES,
    Cpu,
    Fiddler,
    Layers,
    Lru,
    Policy,
    Stream,
    base,
    resolve_policy,
)
from engine.profile import Profile
from engine.replay import playable, replay
from engine.residency import Place, Residency
from engine.trace import Start, Trace
from tests.engine.builders import (
    COSTS,
    MODEL,
    hardware,
    random_batch,
    random_plan,
    recorded,
    toy_plan,
)

RESIDENT, STREAM, CPU = Action.RESIDENT, Action.STREAM, Action.CPU


def docstrings_policy() -> type[Policy]:
    """The ten-line policy of engine/policies/base.py's docstring, run as it stands there."""
    found = re.search(r"::\n\n(.*?)\n\nPolicies", base.__doc__ or "", re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"Policy": Policy, "Action": Action}
    exec(dedent(found[1]), names)
    return names["Cautious"]


def ledger(slots: int = 0, pinned: tuple[int, ...] = ()) -> Residency:
    """3 x 4 experts of 1,000 bytes, room for the pinned ones and the slots."""
    made = Residency((3, 4), 1000, budget_bytes=1000 * (slots + len(pinned)), cache_slots=slots)
    made.mark(pinned, ())
    return made


def decide(policy: Policy, layer: int, *experts: int, tokens: int = 1) -> Decision:
    """One decision, entered in the ledger."""
    decision = policy.decide(Request(0, layer, list(experts), [tokens] * len(experts)))
    policy.residency.apply(layer, decision)
    return decision


# ---------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Cpu, [RESIDENT, CPU, CPU]),
        (Layers, [RESIDENT, CPU, CPU]),
        (Stream, [RESIDENT, STREAM, STREAM]),
        (Lru, [RESIDENT, STREAM, STREAM]),
        (Fiddler, [RESIDENT, CPU, STREAM]),
    ],
)
def test_where_a_missing_expert_runs(policy: type[Policy], expected: list[Action]) -> None:
    made = policy(ledger(pinned=(4,)), COSTS)
    decision = made.decide(Request(0, 1, [0, 1, 2], [9, 1, 9]))  # layer 1: flat 4, 5, 6
    assert decision.actions == expected
    assert decision.keep == [False] * 3
    assert decision.evict == []


def test_fiddler_changes_side_right_after_the_tie() -> None:
    """One token: CPU 45 ns against 62; two: 62 each, weights stay; three: 79 against 62."""
    fiddler = Fiddler(ledger(), COSTS)
    assert [COSTS.cpu_ns(n) for n in (1, 2, 3)] == [45, 62, 79]
    assert [COSTS.stream_ns(n) for n in (1, 2, 3)] == [62, 62, 62]
    assert [fiddler.miss(n) for n in (1, 2, 3)] == [CPU, CPU, STREAM]
    assert COSTS.break_even_tokens == 3
    assert fiddler.misses(np.array([3, 1, 2, 3])).tolist() == [STREAM, CPU, CPU, STREAM]


def test_fiddler_counts_the_activations_both_ways() -> None:
    slower_link = replace(COSTS, to_device=Curve(((6, 1),)))  # the tie at two tokens is broken
    assert Fiddler(ledger(), slower_link).miss(2) == STREAM
    assert slower_link.break_even_tokens == 2


@pytest.mark.parametrize("policy", [p for p in LIVE.values() if p.choose is Policy.choose])
def test_many_misses_at_once_are_the_single_ones(policy: type[Policy]) -> None:
    made = policy(ledger(), COSTS)
    tokens = np.array([5000, 1, 2, 3, 4, 4096, 4097, 1, 1], dtype=np.int64)
    assert made.misses(tokens).tolist() == [made.miss(n) for n in tokens.tolist()]
    assert made.misses(tokens[:0]).tolist() == []


def test_lru_keeps_what_it_copies_and_gives_the_oldest_up() -> None:
    lru = Lru(ledger(slots=2), COSTS)
    assert decide(lru, 0, 1, 2).keep == [True, True]
    assert decide(lru, 1, 0).evict == [1]  # flat 1 is older than flat 2
    hit = decide(lru, 0, 2)
    assert (hit.actions, hit.keep, hit.evict) == ([RESIDENT], [False], [])
    assert decide(lru, 2, 3).evict == [4]  # flat 2 was used since
    assert list(lru.cache) == lru.residency.cached() == [2, 11]


def test_hits_come_first_so_a_miss_never_evicts_what_its_layer_uses() -> None:
    lru = Lru(ledger(slots=2), COSTS)
    decide(lru, 0, 2, 3)
    decision = decide(lru, 0, 0, 2)  # 2 is the oldest, but active
    assert decision.actions == [STREAM, RESIDENT]
    assert decision.evict == [3]
    assert list(lru.cache) == [2, 0]


def test_without_a_victim_the_copy_is_not_kept() -> None:
    lru = Lru(ledger(slots=2), COSTS)
    decision = decide(lru, 0, 0, 1, 2, 3)
    assert decision.actions == [STREAM] * 4
    assert decision.keep == [True, True, False, False]
    assert decision.evict == []


def test_stream_and_cpu_leave_slots_alone_but_use_what_is_in_them() -> None:
    for policy in (Stream, Cpu, Layers):
        residency = ledger(slots=2)
        residency.mark((), (1, 2))
        made = policy(residency, COSTS)
        made.restore({})
        decision = decide(made, 0, 0, 1)
        assert decision.actions[1] == RESIDENT
        assert decision.keep == [False, False]
        assert list(made.cache) == [2, 1]


# ---------------------------------------------------------------------- against references


def brute_force_lru(
    accesses: list[tuple[int, list[int]]], slots: int, pinned: set[int], columns: int
) -> list[tuple[list[int], list[bool], list[int]]]:
    """Least recently used, from the time each expert was last used; no ordered structure."""
    used: dict[int, int] = {}  # cached flat index -> when it was last used
    clock = 0
    answers: list[tuple[list[int], list[bool], list[int]]] = []
    for layer, experts in accesses:
        active = [layer * columns + expert for expert in experts]
        for flat in active:
            if flat in used:
                used[flat] = clock = clock + 1
        actions: list[int] = []
        keep: list[bool] = []
        evict: list[int] = []
        hits = set(used) | pinned
        for flat in active:
            if flat in hits:
                actions.append(RESIDENT)
                keep.append(False)
                continue
            actions.append(STREAM)
            victims = [other for other in used if other not in active]
            full = len(used) == slots
            keep.append(bool(victims) or not full)
            if keep[-1]:
                if full:
                    evict.append(min(victims, key=used.__getitem__))
                    del used[evict[-1]]
                used[flat] = clock = clock + 1
        answers.append((actions, keep, evict))
    return answers


@pytest.mark.parametrize("seed", range(20))
def test_lru_is_the_brute_force_lru(seed: int) -> None:
    rng = random.Random(seed)
    slots = rng.randrange(1, 8)
    pinned = set(rng.sample(range(12), rng.randrange(4)))
    accesses = [
        (rng.randrange(3), sorted(rng.sample(range(4), rng.randrange(1, 5)))) for _ in range(80)
    ]
    lru = Lru(ledger(slots, tuple(sorted(pinned))), COSTS)
    for (layer, experts), expected in zip(
        accesses, brute_force_lru(accesses, slots, pinned, 4), strict=True
    ):
        decision = decide(lru, layer, *experts)
        assert (decision.actions, decision.keep, decision.evict) == expected


def state(orchestrator: Orchestrator) -> tuple[Any, ...]:
    """All that decides what comes next."""
    residency = orchestrator.residency
    return bytes(residency.place), residency.cached_count, list(orchestrator.policy.cache)


def both(one: Orchestrator, other: Orchestrator, rng: random.Random) -> None:
    """A random batch decided at once by one and layer by layer by the other: no difference."""
    batch = random_batch(rng, rng.randrange(1, 30))
    at_once = one.decide_all(batch)
    each = other.policy.decide_each(batch)
    for name in ("action", "keep"):
        mine, theirs = getattr(at_once, name), getattr(each, name)
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert mine.dtype == theirs.dtype
    for name in ("evict", "fetch", "unused"):
        mine, theirs = getattr(at_once, name), getattr(each, name)
        np.testing.assert_array_equal(mine.first, theirs.first, err_msg=name)
        np.testing.assert_array_equal(mine.values, theirs.values, err_msg=name)
    assert state(one) == state(other)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pinned", [0, 5])
@pytest.mark.parametrize("slots", [0, 1, 2, 5])
def test_all_at_once_is_one_by_one(policy: str, pinned: int, slots: int) -> None:
    rng = random.Random(f"{policy} {pinned} {slots}")
    plan = toy_plan(pinned + slots, slots, policy, planner="random")
    one, other = Orchestrator(plan), Orchestrator(plan)
    for _ in range(6):  # each batch finds the slots as the last one left them
        both(one, other, rng)


@pytest.mark.parametrize("seed", range(15))
def test_all_at_once_is_one_by_one_after_replans(seed: int) -> None:
    rng = random.Random(seed)
    plan = random_plan(rng)
    one, other = Orchestrator(plan), Orchestrator(plan)
    for _ in range(8):
        plan = random_plan(rng)
        assert one.change(plan) == other.change(plan)
        both(one, other, rng)


def test_all_at_once_with_nothing_to_decide() -> None:
    lru = Orchestrator(toy_plan(3, 3, "lru"))
    nothing = lru.decide_all(random_batch(random.Random(0), 5).part(2, 2))
    assert len(nothing.action) == len(nothing.keep) == len(nothing.evict.values) == 0


def test_a_policy_with_its_own_decide_is_asked_layer_by_layer() -> None:
    class Reluctant(Lru):
        def decide(self, request: Request) -> Decision:
            many = len(request.experts)
            return Decision(4, request.experts, request.tokens, [CPU] * many, [False] * many)

    batch = random_batch(random.Random(1), 6)
    decisions = Reluctant(ledger(slots=3), COSTS).decide_all(batch)
    assert set(decisions.action.tolist()) == {CPU}


def test_active_experts_are_never_evicted() -> None:
    rng = random.Random(3)
    for policy in ("lru", "fiddler"):
        orchestrator = Orchestrator(toy_plan(3, 3, policy))
        for _ in range(300):
            layer = rng.randrange(3)
            experts = sorted(rng.sample(range(4), rng.randrange(1, 5)))
            tokens = [rng.randrange(1, 6)] * len(experts)
            decision = orchestrator.decide(Request(0, layer, experts, tokens))
            assert not {layer * 4 + expert for expert in experts} & set(decision.evict)


# ---------------------------------------------------------------------- state


def test_recency_travels_in_a_snapshot() -> None:
    residency = ledger(slots=4)
    residency.mark((), (0, 3, 5, 7))
    lru = Lru(residency, COSTS)
    lru.restore({"recent": [5, 9, 5, 0]})  # 9 is not cached: forgotten; 3, 7 unnamed: oldest
    assert list(lru.cache) == [3, 7, 5, 0]
    assert lru.snapshot() == {"recent": [3, 7, 5, 0]}
    assert lru.shrink(1) == [3, 7, 5]
    lru.forget(0)
    lru.forget(0)
    assert lru.snapshot() == {"recent": []}


def test_a_start_goes_on_where_the_snapshot_was_taken() -> None:
    rng = random.Random(5)
    first = Orchestrator(toy_plan(6, 4, "lru"))
    first.decide_all(random_batch(rng, 12))
    again = Orchestrator(first.plan, first.start())
    assert state(again) == state(first)
    both(again, first, rng)


def test_the_policy_in_force_is_exactly_the_plan_s() -> None:
    """A subclass of the wanted policy is another policy."""

    class Louder(Lru):
        pass

    orchestrator = Orchestrator(toy_plan(4, 4, "lru"))
    orchestrator.policy = Louder(orchestrator.residency, COSTS)
    orchestrator.change(toy_plan(4, 4, "lru"))
    assert type(orchestrator.policy) is Lru


# ---------------------------------------------------------------------- names, and users' own


def test_policies_by_name() -> None:
    assert list(POLICIES) == [
        "fiddler", "makespan", "stream", "lru", "cpu", "layers", "lfu", "lrfu", "lru_layer",
        "qstar", "hybrimoe", "dynamic", "prefetch", "matching", "stream_all",
        "fiddler_released", "belady",
    ]  # fmt: skip
    assert set(POLICIES) - set(LIVE) == {"belady"}
    for name, policy in POLICIES.items():
        assert resolve_policy(name) is policy
        assert resolve_policy(policy) is policy
        assert policy.name == name
        assert policy.title and policy.summary.endswith(".")
    with pytest.raises(UnknownNameError, match="Did you mean 'fiddler'"):
        resolve_policy("fidler")


def test_which_policies_cache_and_in_how_much_of_the_room() -> None:
    without = {"stream", "cpu", "layers", "stream_all", "fiddler_released"}
    assert {name for name, policy in POLICIES.items() if not policy.admits} == without
    shares = {name: policy.slot_share for name, policy in POLICIES.items() if policy.admits}
    assert {name for name, share in shares.items() if not share} == {"fiddler", "makespan"}
    assert {name for name, share in shares.items() if 0 < share < 1} == {"dynamic"}
    assert {name for name, policy in POLICIES.items() if policy.planner != "popularity"} == {
        "layers"
    }


def test_the_ten_line_policy_of_the_docstring_decides() -> None:
    cautious = docstrings_policy()
    assert resolve_policy(cautious) is cautious
    made = cautious(ledger(pinned=(0,)), COSTS)
    assert made.decide(Request(0, 0, [0, 1, 2], [64, 63, 64])).actions == [RESIDENT, CPU, STREAM]
    orchestrator, other = (Orchestrator(toy_plan(5, 2)) for _ in range(2))
    for each in (orchestrator, other):
        each.policy = cautious(each.residency, COSTS)
    both(orchestrator, other, random.Random(0))


def test_a_policy_of_one_s_own_runs_replans_and_replays() -> None:
    """A plan carries the class; a file keeps its name, and says so when that leads nowhere."""
    cautious = docstrings_policy()
    made = make_plan(MODEL, hardware(), Profile.uniform(MODEL.grid), max_tokens=10, policy=cautious)
    assert (made.policy, made.policy_class) == ("cautious", cautious)
    trace = recorded(3, toy_plan(5))
    what_if = replay(trace, policy=cautious)
    assert type(Orchestrator(what_if.trace.plan).policy) is cautious
    again = replay(what_if.trace, gpu_memory="50%").trace.plan
    assert again.policy_class is cautious
    assert replay(what_if.trace, policy="cpu").trace.plan.own_policy is None
    read = Plan.from_dict(made.to_dict())
    assert made.has_policy and not read.has_policy
    with pytest.raises(InputError, match="policy 'cautious' is not at hand"):
        Orchestrator(read, Start())
    for policy in ("lru", cautious):  # and then it is a plan like any other
        assert change_plan(read, model=MODEL, policy=policy).has_policy


def test_a_saved_run_under_a_policy_of_one_s_own_can_be_replayed_under_others(
    tmp_path: Path,
) -> None:
    under = replay(recorded(3, toy_plan(5)), policy=docstrings_policy()).trace
    read = Trace.load(under.save(tmp_path / "own.safetensors"))
    assert read.summary == under.summary
    assert replay(read, policy="cpu").summary == replay(under, policy="cpu").summary
    names = {point.policy for point in budget_curve(read, budgets=("50%",)).points}
    assert names == set(playable(read))
    with pytest.raises(InputError, match="'cautious' is not at hand"):
        replay(read, gpu_memory="50%")


def own(**rules: Any) -> type[Policy]:
    """A policy of somebody's own with these rules."""
    words = {"name": "own", "title": "Own", "summary": "Own.", "admits": True, "slot_share": 1.0}
    miss = {} if "choose" in rules else {"miss": lambda self, tokens: Action.STREAM}
    return type("Own", (Policy,), words | miss | rules)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"miss": lambda self, tokens: Action.RESIDENT}, r"miss\(\) .* got <Action.RES"),
        ({"miss": lambda self, tokens: 7}, r"miss\(\) must return Action.STREAM or Action.CPU"),
        ({"miss": lambda self, tokens: None}, r"miss\(\) must return .* got None"),
        ({"miss": lambda self, tokens: True}, r"miss\(\) must return .* got True"),
        ({"choose": lambda self, request, missing: [0] * len(missing)}, r"choose\(\) .* 0 among"),
        ({"choose": lambda self, request, missing: []}, r"choose\(\) .* a list of \d actions"),
        ({"choose": lambda self, request, missing: None}, r"choose\(\) .* got None"),
        ({"ahead": lambda self, request: [-1]}, r"ahead\(\) .* flat indices .* got \[-1\]"),
        ({"ahead": lambda self, request: [10**6]}, r"ahead\(\) .* got \[1000000\]"),
        ({"ahead": lambda self, request: None}, r"ahead\(\) .* got None"),
        ({"decide": lambda self, request: None}, r"decide\(\) must return a Decision .* got None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slots", [0, 3])
def test_a_policy_that_answers_nonsense_is_refused(
    rules: dict[str, Any], said: str, slots: int
) -> None:
    """Before it reaches the ledger, in a replay, and one by one as in an engine."""
    if "ahead" in rules and not slots:
        return  # not asked
    policy = own(**rules)
    trace = recorded(3, toy_plan(5))
    with pytest.raises(InputError, match=f"policy 'own': {said}"):
        replay(trace, policy=policy, cache_slots=slots)
    plan = change_plan(trace.plan, model=trace.model, policy=policy, cache_slots=slots)
    made = Orchestrator(plan)
    with pytest.raises(InputError, match=f"policy 'own': {said}"):
        made.policy.decide_each(trace.batch)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": "fiddler"}, "the name 'fiddler' is that of a policy of ours"),
        ({"name": 5}, "name must be a text, got 5"),
        ({"title": ""}, "title must be a text"),
        ({"slot_share": 2.0}, "slot_share must be from 0 to 1, got 2.0"),
        ({"slot_share": "a"}, "slot_share must be from 0 to 1, got 'a'"),
    ],
)
def test_a_policy_s_words_are_checked(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_policy(own(**words))


@pytest.mark.parametrize("wrong", [int, object(), 3, None, Policy])
def test_what_is_no_policy(wrong: Any) -> None:
    with pytest.raises(InputError, match="a name or a subclass of"):
        resolve_policy(wrong)


def test_a_policy_that_does_not_decide_is_refused_before_it_runs() -> None:
    class Silent(Policy):
        name, title, summary = "silent", "Silent", "Says nothing."

    with pytest.raises(InputError, match=r"'silent' does not say .* Silent a method miss"):
        resolve_policy(Silent)


def test_a_child_of_one_of_ours_needs_a_name_of_its_own() -> None:
    """A file would lead to its parent."""
    with pytest.raises(InputError, match="the name 'lru' is that of a policy of ours"):
        resolve_policy(type("Mine", (Lru,), {}))
    assert resolve_policy(type("Mine", (Lru,), {"name": "mine"})).checked
    assert not Lru.checked


def test_reprs() -> None:
    assert repr(Lru(ledger(slots=2), COSTS)) == (
        "Lru(Residency(0 pinned, 0/2 cached, 0 B of 2.00 KB))"
    )
    assert Place(ledger(pinned=(1,)).place[1]) is Place.PINNED
