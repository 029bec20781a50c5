"""What was resident when, rebuilt from the moves, against the ledger that made them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.events import Rows, Why
from engine.happened import Recorded
from engine.history import Ledger, memory_at, memory_over_time, places_at
from engine.replay import replay
from engine.residency import Memory, Place
from engine.trace import Trace
from tests.engine.builders import LEAST, Driver, random_plan, toy_plan

PARTS = ("dense", "kv", "workspace", "pinned", "cached", "free", "budget")


def with_moves(trace: Trace, rows: Rows) -> Trace:
    return replace(trace, happened=Recorded(trace.work_rows, rows))


def driven(seed: int, most_plans: int = 2) -> tuple[Trace, list[NDArray[np.uint8]], list[Memory]]:
    """A trace, and what its ledger said before the first step and after each."""
    rng = random.Random(seed)
    plan = random_plan(rng)
    warm = Driver(plan)
    for _ in range(rng.randrange(5)):
        warm.step(rng, 3)
    driver = Driver(plan, warm.orchestrator.start())
    ledger = driver.orchestrator.residency
    places, memory = [ledger.places()], [ledger.memory()]
    for number in range(15):
        many = min(rng.choice((0, 0, 1, 2)), most_plans)
        plans = [random_plan(rng) for _ in range(many)]
        layers = rng.choice((None, None, None, 0, 2))
        driver.step(rng, 4 if number == 0 else 1, plans=plans, layers=layers)
        places.append(ledger.places())
        memory.append(ledger.memory())
    return driver.trace(), places, memory


@pytest.mark.parametrize("seed", range(15))
def test_the_history_is_what_the_ledger_said(seed: int) -> None:
    trace, places, memory = driven(seed)
    over_time = memory_over_time(trace)
    assert over_time["step"].tolist() == list(range(15))
    assert set(over_time) == {"step", *PARTS}
    for step in range(-1, 15):
        np.testing.assert_array_equal(places_at(trace, step), places[step + 1], err_msg=str(step))
        assert memory_at(trace, step) == memory[step + 1]
        if step >= 0:
            row = {part: int(over_time[part][step]) for part in PARTS}
            assert Memory(**row) == memory[step + 1]
    assert (over_time["free"] >= 0).all()


@pytest.mark.parametrize("seed", range(15))
def test_at_any_time_the_ledger_is_within_its_budget(seed: int) -> None:
    """Also between the changes of one step, and while a new plan's experts are being pinned."""
    trace, _, memory = driven(seed, most_plans=1)  # as an engine: of several the latest wins
    steps, ledger = trace.steps, Ledger.of(trace)
    times = np.unique(np.concatenate([ledger.time_ns, steps["start_ns"], steps["end_ns"]]))
    found = ledger.at(times)
    used = sum(found[part] for part in PARTS[:-2])
    np.testing.assert_array_equal(used + found["free"], found["budget"])
    assert (found["free"] >= 0).all()
    for name in ("pinned", "cached"):
        assert (found[name] >= 0).all()
    for step in range(15):  # just before the next one begins nothing of it has happened
        end = int(steps["end_ns"][step])
        if end > int(steps["start_ns"][step]):
            row = {part: int(column[0]) for part, column in ledger.at(np.array([end - 1])).items()}
            row.pop("time_ns")
            assert Memory(**row) == memory[step + 1]


def test_a_replay_has_the_same_history() -> None:
    trace, places, _ = driven(3)
    again = replay(trace).trace
    for step in range(-1, 15):
        np.testing.assert_array_equal(places_at(again, step), places[step + 1])


def test_by_hand() -> None:
    """Expert 0 of layer 0 pinned, two slots, and six moves; a stream changes nothing."""
    driver, rng = Driver(toy_plan(3, 2)), random.Random(0)
    for _ in range(4):
        driver.step(rng)
    moves = [  # step, layer, expert, why; then lane, bytes, start, end, clock
        (0, 1, 2, Why.ADMIT),
        (0, 2, 2, Why.STREAM),
        (1, 1, 2, Why.EVICT),
        (1, 2, 3, Why.ADMIT),
        (3, 0, 0, Why.UNPIN),
        (3, 2, 3, Why.PIN),
    ]
    rows = np.array([(*move, -1, 0, 0, 0, 1) for move in moves], dtype=np.int64)
    trace = with_moves(driver.trace(), rows)
    host, pinned, cached = int(Place.HOST), int(Place.PINNED), int(Place.CACHED)
    changed = [[places_at(trace, step)[at] for at in ((0, 0), (1, 2), (2, 3))] for step in range(4)]
    assert changed == [
        [pinned, cached, host],
        [pinned, host, cached],
        [pinned, host, cached],
        [host, host, pinned],
    ]
    assert places_at(trace, -1).ravel().tolist() == [pinned] + [host] * 11
    assert memory_over_time(trace)["pinned"].tolist() == [1000] * 4
    assert memory_over_time(trace)["cached"].tolist() == [1000, 1000, 1000, 0]
    assert memory_at(trace, 1) == Memory(
        dense=5000, kv=100, workspace=2340, pinned=1000, cached=1000, free=1000, budget=LEAST + 3000
    )


def test_before_the_first_step_the_first_plan_holds() -> None:
    """Even where another one was in force when that step began."""
    driver = Driver(toy_plan(8))
    driver.step(random.Random(0), plans=[toy_plan(2)])
    trace = driver.trace()
    assert memory_at(trace, -1).budget == LEAST + 8000
    assert memory_at(trace, -1).pinned == 8000
    assert memory_at(trace, -1).free == 0
    assert memory_at(trace, 0).budget == LEAST + 2000


def test_beyond_the_last_step_is_the_end() -> None:
    trace, places, memory = driven(1)
    np.testing.assert_array_equal(places_at(trace, 99), places[-1])
    assert memory_at(trace, 99) == memory[-1]


def test_without_steps() -> None:
    trace = Driver(toy_plan(4)).trace()
    assert memory_at(trace, -1) == memory_at(trace, 0) == toy_ledger(4)
    assert {len(column) for column in memory_over_time(trace).values()} == {0}


def test_without_moves() -> None:
    trace, _, _ = driven(2)
    bare = with_moves(trace, trace.move_rows[:0])
    np.testing.assert_array_equal(places_at(bare, 14), places_at(bare, -1))
    assert len(set(memory_over_time(bare)["pinned"].tolist())) == 1


def toy_ledger(pinned: int) -> Memory:
    plan = toy_plan(pinned)
    ledger = plan.residency()
    ledger.mark(plan.pinned, ())
    return ledger.memory()
