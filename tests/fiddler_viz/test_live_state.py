from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from engine.events import Action, Work
from engine.usage import lane_ns, place_shares, shares_of
from fiddler_viz.views.growing import Growing
from fiddler_viz.views.live_state import LiveState
from tests.fiddler_viz.fake_engine import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(gpu_memory="24GB")


def test_a_finished_run_is_all_there(engine: FakeEngine) -> None:
    live = LiveState(engine)
    run = engine.generate("go", 12).trace
    assert live.pull()
    seen = live.trace()
    np.testing.assert_array_equal(seen.step_rows, run.step_rows)
    np.testing.assert_array_equal(seen.token_rows, run.token_rows)
    np.testing.assert_array_equal(seen.work_rows, run.work_rows)
    np.testing.assert_array_equal(seen.move_rows, run.move_rows)
    assert seen.texts == run.texts
    assert seen.summary == run.summary
    assert not live.pull()


def test_counts_are_those_of_the_trace(engine: FakeEngine) -> None:
    live = LiveState(engine)
    run = engine.generate("go", 12).trace
    live.pull()
    flat = run.routing.layer[:, None] * run.model.experts + run.routing.experts
    routed = np.bincount(flat.ravel(), minlength=run.model.experts_total)
    np.testing.assert_array_equal(live.routed.ravel(), routed)
    expert = run.work["kind"] == Work.EXPERT
    for action in Action:
        calls = int((run.work["action"][expert] == action).sum())
        assert live.actions[action].sum() == calls
    assert set(live.last.step.tolist()) == {12}
    newest = run.routing.where(run.routing.step == 12)
    np.testing.assert_array_equal(live.last.experts, newest.experts)
    np.testing.assert_array_equal(live.last.weights, newest.weights)


@pytest.mark.parametrize("policy", ["fiddler", "lru", "lfu"])
def test_times_are_those_of_the_trace_however_often_it_is_pulled(policy: str) -> None:
    engine = FakeEngine(gpu_memory="24GB", policy=policy, cache_slots=20, pause_s=0.002)
    live = LiveState(engine)
    runner = threading.Thread(target=lambda: engine.generate("go", 12))
    runner.start()
    pulls = 0
    while runner.is_alive():
        new = live.pull()
        pulls += new
        if new and pulls == 3:
            engine.replan(gpu_memory="30GB", pin=(17, 3))
    runner.join()
    live.pull()
    run = engine.last_run.trace
    assert pulls >= 3 and len(run.plan_list) == 2
    np.testing.assert_array_equal(live.usage.spent_ns, lane_ns(run))
    np.testing.assert_allclose(shares_of(live.usage.held_ns), place_shares(run))
    assert live.usage.held_ns[:, 0, 0].sum() == run.duration_ns


def test_another_run_starts_over(engine: FakeEngine) -> None:
    live = LiveState(engine)
    engine.generate("go", 20)
    live.pull()
    run = engine.generate("again", 3).trace
    live.pull()
    assert live.steps == len(run.step_rows)
    np.testing.assert_array_equal(live.trace().work_rows, run.work_rows)


def test_a_run_that_was_never_pulled_is_skipped(engine: FakeEngine) -> None:
    live = LiveState(engine)
    engine.generate("go", 20)
    run = engine.generate("again", 5).trace
    live.pull()
    np.testing.assert_array_equal(live.trace().step_rows, run.step_rows)
    np.testing.assert_array_equal(live.trace().token_rows, run.token_rows)
    assert live.routed.sum() == run.routing.experts.size


def test_a_viewer_opened_between_runs_sees_only_the_next(engine: FakeEngine) -> None:
    engine.generate("go", 20)
    live = LiveState(engine)
    live.skip(running=False)
    assert not live.pull()
    run = engine.generate("again", 2).trace
    live.pull()
    assert live.steps == len(run.step_rows)


def test_memory_stays_bounded_and_numbers_right(engine: FakeEngine) -> None:
    live = LiveState(engine, limit=1000)
    run = engine.generate("go", 60).trace
    live.pull()
    assert len(live.tables["work"]) <= 1000
    assert live.tables["work"].dropped
    assert live.steps == len(run.step_rows)
    assert live.routed.sum() == run.routing.experts.size
    seen = live.trace()
    assert len(seen.work_rows) <= 1000
    assert seen.summary == run.summary, "of all of the run, though its oldest rows are gone"
    assert seen.happened.totals == run.happened.totals


def test_sums_are_those_of_the_run_however_often_they_are_asked_for(engine: FakeEngine) -> None:
    live, sums = LiveState(engine), list[int]()
    engine.pause_s = 0.002
    thread = threading.Thread(target=lambda: engine.generate("go", 40))
    asking = threading.Thread(target=lambda: [live.usage.held_ns.sum() for _ in range(2000)])
    thread.start()
    asking.start()
    while thread.is_alive() or live.pull():
        live.pull()
        sums.append(sum(live.trace().happened.totals.busy_ns))
    asking.join()
    assert sums == sorted(sums)
    run = engine.last_run.trace
    assert live.trace().happened.totals == run.happened.totals
    np.testing.assert_array_equal(live.usage.spent_ns, lane_ns(run))
    for _ in range(3):
        assert not live.pull()
    assert not live.usage._waiting, "an engine that rests costs nothing"


def test_a_trace_so_far_is_copied_with_its_sums(engine: FakeEngine) -> None:
    live = LiveState(engine, limit=1000)
    engine.generate("go", 60)
    live.pull()
    seen = live.trace()
    assert len(seen.work_rows) <= 1000
    copied = pickle.loads(pickle.dumps(seen))
    assert copied.happened.totals == seen.happened.totals == engine.last_run.trace.happened.totals


def test_growing_keeps_the_newest() -> None:
    table, views = Growing(2, limit=10), list[Any]()
    for value in range(25):
        table.append(np.full((1, 2), value, dtype=np.int64))
        assert len(table) <= 10
        assert table.rows[-1, 0] == value
        views.append((table.rows, table.rows.copy()))
    assert all((view == then).all() for view, then in views), "rows that were handed out stay"
    assert table.dropped + len(table) == 25
    table.append(np.arange(60, dtype=np.int64).reshape(30, 2))
    assert table.rows[-1].tolist() == [58, 59]
