"""The byte ledger never exceeds its budget, whatever is asked of it; refused calls change nothing.

Two walks: the ledger's own calls against a model of sets (hypothesis), and random replans,
decisions and wrong calls through the orchestrator, with each single change in them checked.
About 7,000 random steps in all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.decision import Decision, Request
from engine.errors import BudgetError, InputError, LedgerError
from engine.events import Action, Why
from engine.orchestrator import Orchestrator
from engine.placement import change_plan
from engine.planners import PLANNERS
from engine.policies import LIVE
from engine.residency import Memory, Place, Residency
from engine.trace import Start
from tests.engine.builders import LEAST, MODEL, random_batch, random_choices, random_plan, toy_plan

EXPERT = 1000
CHANGES = ("resize", "pin", "unpin", "admit", "evict", "apply")


def everything(ledger: Residency) -> tuple[Any, ...]:
    """All a ledger holds, to see that nothing changed."""
    values = {name: value for name, value in vars(ledger).items() if name != "place"}
    return values, bytes(ledger.place)


def assert_adds_up(ledger: Residency) -> None:
    """Counted places, bytes and limits agree, and the budget holds."""
    places = ledger.places()
    memory = ledger.memory()
    assert places.shape == ledger.grid
    assert ledger.pinned_count == int((places == Place.PINNED).sum())
    assert ledger.cached_count == int((places == Place.CACHED).sum()) == len(ledger.cached())
    assert ledger.cached_count <= ledger.cache_slots
    assert memory.pinned == ledger.pinned_count * ledger.expert_bytes
    assert memory.cached == ledger.cached_count * ledger.expert_bytes
    parts = (memory.dense, memory.kv, memory.workspace, memory.pinned, memory.cached)
    assert ledger.used_bytes == memory.used == sum(parts)
    assert sum(parts) + memory.free == memory.budget == ledger.budget_bytes
    assert memory.free >= 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Check every ledger after each single change, and that a refused one changed nothing."""
    done: list[str] = []

    def watch(name: str) -> Callable[..., Any]:
        real = getattr(Residency, name)

        def call(self: Residency, *args: Any, **options: Any) -> Any:
            before = everything(self) if "budget_bytes" in vars(self) else None
            try:
                result = real(self, *args, **options)
            except LedgerError:
                assert before is None or everything(self) == before
                raise
            done.append(name)
            assert_adds_up(self)
            return result

        return call

    for name in CHANGES:
        monkeypatch.setattr(Residency, name, watch(name))
    yield done


# ---------------------------------------------------------------------- by hand


def test_a_small_ledger_by_hand() -> None:
    ledger = Residency(
        (2, 3), 10, budget_bytes=100, dense_bytes=50, kv_bytes=7, workspace_bytes=3, cache_slots=2
    )
    assert ledger.reserved_bytes == ledger.used_bytes == 60
    assert (ledger.pin(5), ledger.admit(0), ledger.admit(1)) == (10, 10, 10)
    assert ledger.memory() == Memory(
        dense=50, kv=7, workspace=3, pinned=10, cached=20, free=10, budget=100
    )
    assert ledger.memory().used == ledger.used_bytes == 90
    assert ledger.places().tolist() == [[2, 2, 0], [0, 0, 1]]
    assert ledger.cached() == [0, 1]
    assert repr(ledger) == "Residency(1 pinned, 2/2 cached, 90 B of 100 B)"
    assert ledger.pin(0) == 0  # it is there already: nothing is copied, its slot is free
    assert ledger.memory().cached == 10
    ledger.evict(1)
    ledger.unpin(5)
    assert ledger.places().tolist() == [[1, 0, 0], [0, 0, 0]]


def test_places_are_a_copy() -> None:
    ledger = Residency((1, 2), 1, budget_bytes=2)
    before = ledger.places()
    ledger.pin(0)
    assert before.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ledger: ledger.pin(1), "cannot pin: 110 B would exceed the budget of 100 B"),
        (lambda ledger: ledger.pin(0), "expert 0 of layer 0: it is pinned, not host or cached"),
        (lambda ledger: ledger.admit(0), "expert 0 of layer 0: it is pinned, not host"),
        (lambda ledger: ledger.admit(4), "expert 1 of layer 1: it is cached, not host"),
        (lambda ledger: ledger.admit(1), "all 1 cache slots are taken: evict first"),
        (lambda ledger: ledger.evict(0), "expert 0 of layer 0: it is pinned, not cached"),
        (lambda ledger: ledger.evict(5), "expert 2 of layer 1: it is host, not cached"),
        (lambda ledger: ledger.unpin(4), "expert 1 of layer 1: it is cached, not pinned"),
        (lambda ledger: ledger.unpin(-6), "cannot unpin expert -6: there are 6 of them"),
        (lambda ledger: ledger.pin(-2), "cannot pin expert -2"),
        (lambda ledger: ledger.pin(6), "cannot pin expert 6"),
        (lambda ledger: ledger.evict(-2), "cannot evict expert -2"),
        (lambda ledger: ledger.admit(10**9), "cannot admit expert 1000000000"),
        (
            lambda ledger: ledger.resize(budget_bytes=99, cache_slots=1, workspace_bytes=0),
            "100 B are in use, more than the new budget of 99 B",
        ),
        (
            lambda ledger: ledger.resize(budget_bytes=100, cache_slots=1, workspace_bytes=1),
            "101 B are in use, more than the new budget of 100 B",
        ),
        (
            lambda ledger: ledger.resize(budget_bytes=500, cache_slots=0, workspace_bytes=0),
            "1 experts are cached, more than the new 0 slots",
        ),
    ],
)
def test_refused_calls_say_why_and_change_nothing(
    call: Callable[[Residency], object], message: str
) -> None:
    ledger = Residency((2, 3), 10, budget_bytes=100, dense_bytes=80, cache_slots=1)
    ledger.mark([0], [4])
    before = everything(ledger)
    with pytest.raises(LedgerError, match=message):
        call(ledger)
    assert everything(ledger) == before
    assert_adds_up(ledger)


def test_a_ledger_that_cannot_hold_what_is_reserved_is_not_made() -> None:
    with pytest.raises(LedgerError, match="evict first"):
        Residency((1, 1), 1, budget_bytes=9, dense_bytes=10)
    with pytest.raises(LedgerError, match="more than the new -1 slots"):
        Residency((1, 1), 1, budget_bytes=9, cache_slots=-1)


def test_a_slot_is_refused_where_pinned_experts_took_its_bytes() -> None:
    ledger = Residency((1, 3), 10, budget_bytes=20, cache_slots=2)
    ledger.mark([0, 1], [])
    with pytest.raises(LedgerError, match="cannot admit: 30 B would exceed"):
        ledger.admit(2)


def test_a_decision_gives_up_before_it_takes() -> None:
    ledger = Residency((2, 3), 10, budget_bytes=10, cache_slots=1)
    ledger.mark([], [5])
    ledger.apply(0, Decision(3, [0, 1], [1, 1], [1, 1], [False, True], evict=[5]))
    assert ledger.cached() == [1]
    with pytest.raises(LedgerError):
        ledger.apply(0, Decision(3, [0], [1], [1], [True]))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_entered_at_once_is_what_comes_of_one_by_one(seed: int) -> None:
    """Random starts and decisions, sound and not, against the ledger's single changes."""
    rng = random.Random(seed)
    fast, slow = (Residency((2, 4), 10, budget_bytes=60, cache_slots=4) for _ in range(2))
    refused: list[str] = []
    for number in range(50):
        pinned, cached, gone, fetched = (
            [rng.randrange(-1, 9) for _ in range(rng.choice((0, 0, 1, 2)))] for _ in range(4)
        )
        kept = [rng.randrange(4)]
        decision = Decision(4, kept, [1], [int(Action.STREAM)], [rng.random() < 0.5])
        decision.evict, decision.fetch = gone, fetched
        come = [4 + expert for expert in kept if decision.keep[0]] + fetched
        if number % 5:
            at_once = partial(fast.apply, 1, decision)
            single = [(slow.evict, gone), (slow.admit, come)]
        else:
            at_once = partial(fast.mark, pinned, cached)
            single = [(slow.pin, pinned), (slow.admit, cached)]
        said = [answer(at_once), answer(partial(in_turn, single))]
        assert said[0] == said[1]
        assert everything(fast) == everything(slow)
        assert_adds_up(fast)
        refused += filter(None, said[:1])
    assert 5 < len(refused) < 50


def in_turn(calls: Iterable[tuple[Callable[[int], object], Iterable[int]]]) -> None:
    for call, flats in calls:
        for flat in flats:
            call(flat)


def answer(call: Callable[[], object]) -> str:
    """What a ledger refuses a call for; nothing where it does not."""
    try:
        call()
    except LedgerError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------- against a model of sets


class Ledger(RuleBasedStateMachine):
    """Random calls, many of them wrong, on a ledger and on two sets with the same limits."""

    experts = st.integers(-3, 14)

    def __init__(self) -> None:
        super().__init__()
        self.budget, self.slots, self.workspace = 7 * EXPERT, 2, 500
        self.pinned: set[int] = set()
        self.cached: set[int] = set()
        self.ledger = Residency(
            (3, 4),
            EXPERT,
            budget_bytes=self.budget,
            dense_bytes=1100,
            kv_bytes=400,
            workspace_bytes=self.workspace,
            cache_slots=self.slots,
        )

    def fits(self, more: int) -> bool:
        held = len(self.pinned) + len(self.cached) + more
        return 1500 + self.workspace + held * EXPERT <= self.budget

    def ask(self, allowed: bool, call: Callable[[], object]) -> bool:
        """The call goes through exactly where the model allows it."""
        before = everything(self.ledger)
        try:
            call()
        except LedgerError:
            assert not allowed
            assert everything(self.ledger) == before
            return False
        assert allowed
        return True

    def missing(self, expert: int) -> bool:
        return 0 <= expert < 12 and expert not in self.pinned | self.cached

    @rule(expert=experts)
    def pin(self, expert: int) -> None:
        allowed = expert in self.cached or (self.missing(expert) and self.fits(1))
        if self.ask(allowed, lambda: self.ledger.pin(expert)):
            self.cached.discard(expert)
            self.pinned.add(expert)

    @rule(expert=experts)
    def unpin(self, expert: int) -> None:
        if self.ask(expert in self.pinned, lambda: self.ledger.unpin(expert)):
            self.pinned.remove(expert)

    @rule(expert=experts)
    def admit(self, expert: int) -> None:
        room = len(self.cached) < self.slots and self.fits(1)
        if self.ask(self.missing(expert) and room, lambda: self.ledger.admit(expert)):
            self.cached.add(expert)

    @rule(expert=experts)
    def evict(self, expert: int) -> None:
        if self.ask(expert in self.cached, lambda: self.ledger.evict(expert)):
            self.cached.remove(expert)

    @rule(
        budget=st.integers(0, 16 * EXPERT),
        slots=st.integers(-1, 12),
        workspace=st.integers(0, 1500),
    )
    def resize(self, budget: int, slots: int, workspace: int) -> None:
        held = len(self.pinned) + len(self.cached)
        allowed = 1500 + workspace + held * EXPERT <= budget and len(self.cached) <= slots

        def call() -> None:
            self.ledger.resize(budget_bytes=budget, cache_slots=slots, workspace_bytes=workspace)

        if self.ask(allowed, call):
            self.budget, self.slots, self.workspace = budget, slots, workspace

    @invariant()
    def agree(self) -> None:
        assert_adds_up(self.ledger)
        flat = self.ledger.places().ravel()
        assert set(np.flatnonzero(flat == Place.PINNED).tolist()) == self.pinned
        assert set(self.ledger.cached()) == self.cached


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# ---------------------------------------------------------------------- through the orchestrator


def assert_in_step(orchestrator: Orchestrator) -> None:
    """Plan, ledger and policy say the same."""
    plan, ledger = orchestrator.plan, orchestrator.residency
    assert_adds_up(ledger)
    flat = ledger.places().ravel()
    assert tuple(np.flatnonzero(flat == Place.PINNED).tolist()) == plan.pinned
    assert sorted(orchestrator.policy.cache) == ledger.cached()
    assert (ledger.budget_bytes, ledger.cache_slots) == (plan.gpu_memory, plan.cache_slots)
    assert type(orchestrator.policy) is LIVE[plan.policy]
    assert orchestrator.policy.residency is ledger
    assert orchestrator.policy.costs == plan.costs


def random_change(rng: random.Random, orchestrator: Orchestrator) -> None:
    """A slider moved: often a plan that works, often one that is refused, often no change."""
    before = everything(orchestrator.residency), orchestrator.plan, orchestrator.start()
    try:
        plan = change_plan(
            orchestrator.plan,
            model=MODEL,
            gpu_memory=rng.choice(
                (None, None, "0%", "37%", "100%", LEAST - 1, LEAST + rng.randrange(15_000), "9KB")
            ),
            cache_slots=rng.choice((None, None, 0, 1, rng.randrange(14), -1)),
            policy=rng.choice((None, None, *LIVE, "none such")),
            planner=rng.choice((None, None, *PLANNERS, "none such")),
        )
    except (BudgetError, InputError):
        assert (everything(orchestrator.residency), orchestrator.plan, orchestrator.start()) == (
            before
        )
        return
    copied = sum(n_bytes for *_, n_bytes in orchestrator.change(plan))
    assert copied % EXPERT == 0


def random_decision(rng: random.Random, orchestrator: Orchestrator) -> None:
    if rng.random() < 0.5:
        orchestrator.decide_all(random_batch(rng, rng.randrange(1, 8)))
        return
    active, counts = np.unique(random_choices(rng, rng.choice((1, 1, 4)))[0], return_counts=True)
    orchestrator.decide(Request(0, rng.randrange(3), active.tolist(), counts.tolist()))


def wrong_call(rng: random.Random, ledger: Residency) -> None:
    """A call on the ledger that has to be refused, past the policy's back."""
    places = ledger.places().ravel()
    wrongs = {"pin": Place.PINNED, "unpin": Place.HOST, "admit": Place.CACHED, "evict": Place.HOST}
    name, wrong = rng.choice(list(wrongs.items()))
    there = np.flatnonzero(places == wrong).tolist() or [-1, 12]
    with pytest.raises(LedgerError):
        getattr(ledger, name)(rng.choice(there))


@pytest.mark.parametrize("seed", range(8))
def test_a_replanned_engine_keeps_to_its_budget(seed: int, watched: list[str]) -> None:
    """8 x 500 steps of replan, decide (admit, evict), no-op and wrong calls."""
    rng = random.Random(seed)
    orchestrator = Orchestrator(random_plan(rng))
    assert_in_step(orchestrator)
    for _ in range(500):
        step = rng.random()
        if step < 0.3:
            random_change(rng, orchestrator)
        elif step < 0.4:
            orchestrator.change(random_plan(rng))
        elif step < 0.8:
            random_decision(rng, orchestrator)
        elif step < 0.9:
            wrong_call(rng, orchestrator.residency)
        else:  # a slider let go where it was: nothing to do
            before = orchestrator.start()
            assert orchestrator.change(orchestrator.plan) == []
            assert orchestrator.start() == before
        assert_in_step(orchestrator)
    assert {"pin", "unpin", "apply", "evict", "resize"} <= set(watched)


def test_what_a_change_does_in_which_order(watched: list[str]) -> None:
    """First what goes, then what comes: 2 pinned and 2 slots become 3 pinned and 1 slot."""
    orchestrator = Orchestrator(toy_plan(4, 2, "lru"))  # pins 0 and 1
    orchestrator.decide(Request(0, 1, [0, 1], [1, 1]))  # caches flat 4 and 5; 4 is the older
    counts = np.zeros(MODEL.grid, dtype=np.int64)
    counts.ravel()[[1, 5, 11]] = (3, 2, 1)
    del watched[:]
    changes = orchestrator.change(toy_plan(4, 1, "lru", counts=counts))
    assert changes == [
        (0, 0, Why.UNPIN, 0),
        (1, 1, Why.PIN, 0),  # a cache slot held it
        (2, 3, Why.PIN, 1000),
    ]
    assert watched == ["unpin", "pin", "resize", "pin"]
    assert orchestrator.residency.cached() == [4]


def test_fewer_slots_give_the_least_recently_used_up() -> None:
    orchestrator = Orchestrator(toy_plan(4, 4, "lru"))
    for layer, expert in ((0, 0), (0, 1), (1, 2), (0, 0)):
        orchestrator.decide(Request(0, layer, [expert], [1]))
    changes = orchestrator.change(toy_plan(2, 2, "lru"))
    assert changes == [(0, 1, Why.EVICT, 0)]
    assert list(orchestrator.policy.cache) == [6, 0]


def test_another_policy_takes_the_slots_over_in_their_order() -> None:
    orchestrator = Orchestrator(toy_plan(3, 3, "lru"))
    for expert in (2, 0, 1):
        orchestrator.decide(Request(0, 0, [expert], [1]))
    assert orchestrator.change(toy_plan(3, 3, "fiddler")) == []
    assert list(orchestrator.policy.cache) == [2, 0, 1]
    decision = orchestrator.decide(Request(0, 0, [3], [9]))  # nine tokens: worth a copy, and a slot
    assert (decision.actions, decision.evict) == ([Action.STREAM], [2])


def test_a_start_that_does_not_fit_its_plan_is_refused() -> None:
    for start in (Start((0,)), Start((4, 4)), Start((4, 5, 6)), Start((12,)), Start((-1,))):
        with pytest.raises(LedgerError):
            Orchestrator(toy_plan(3, 2, "lru"), start)  # pins 0, two slots
