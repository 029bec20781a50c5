"""A trace cut after a step, against what was recorded when the run was there."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InputError
from engine.events import Clock
from engine.happened import Recorded
from engine.history import memory_at, places_at
from engine.hybrid import HybridEngine
from engine.policies import LIVE, POLICIES
from engine.replay import replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from tests.engine.builders import Driver, random_plan, toy_plan, use
from tests.engine.test_scenarios import SCENARIOS, Scenario

ROWS = ("step_rows", "token_rows", "work_rows", "move_rows")


def assert_same(cut: Trace, there: Trace) -> None:
    """All that a trace holds but its meta."""
    for name in ROWS:
        np.testing.assert_array_equal(getattr(cut, name), getattr(there, name), err_msg=name)
    for name, values in vars(there.routing).items():
        np.testing.assert_array_equal(getattr(cut.routing, name), values, err_msg=name)
    assert (cut.plan_list, cut.texts, cut.start) == (there.plan_list, there.texts, there.start)
    np.testing.assert_equal(cut.summary.to_dict(), there.summary.to_dict())  # nan equals nan


@pytest.mark.parametrize("seed", range(8))
def test_what_was_recorded_when_the_run_was_there(seed: int) -> None:
    """With replans, steps cut short, and every policy."""
    rng = random.Random(seed)
    driver = Driver(random_plan(rng))
    there: list[Trace] = [driver.trace()]
    for number in range(14):
        plans = [random_plan(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
        layers = rng.choice((None, None, None, 0, 2))
        driver.step(rng, 4 if number == 0 else 1, plans=plans, layers=layers)
        there.append(driver.trace())
    whole = there[-1]
    for step in range(-1, 13):
        cut, stopped = whole.until(step), there[step + 1]
        known = len(cut.token_rows) - len(stopped.token_rows)  # the next token, sampled
        assert known == (step + 1 > 0)
        assert_same(
            replace(
                cut,
                token_rows=cut.token_rows[: len(cut.token_rows) - known],
                texts=cut.texts[: len(cut.texts) - known],
            ),
            stopped,
        )
        assert cut.token_rows[len(cut.token_rows) - known :, 0].tolist() == [-1] * known
        np.testing.assert_array_equal(places_at(cut, step), places_at(whole, step))
        assert memory_at(cut, step) == memory_at(whole, step)
        use(cut.check())
    assert whole.until(13) is whole and whole.until(99) is whole


@pytest.mark.parametrize("policy", [*LIVE, "belady"])
def test_a_replay_is_cut_like_a_recording(policy: str) -> None:
    """Sums known without counting are those of the rows; and no policy but one sees ahead."""
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=6, decode_tokens=14)
    if POLICIES[policy].wants_predictions:
        foreseen = trace.routing.experts.copy()
        trace = replace(trace, routing=replace(trace.routing, predicted=foreseen))
    whole = replay(trace, gpu_memory="40%", policy=policy).trace
    for step in (-1, 0, 7, 13):
        cut = whole.until(step)
        assert cut.happened.totals == Recorded(cut.work_rows, cut.move_rows).totals
        for name, values in vars(Recorded(cut.work_rows, cut.move_rows).calls).items():
            np.testing.assert_array_equal(getattr(cut.happened.calls, name), values)
        if policy != "belady":
            again = replay(trace.until(step), gpu_memory="40%", policy=policy).trace
            for name in ROWS:
                np.testing.assert_array_equal(getattr(cut, name), getattr(again, name))
        window = cut.happened.window(step, step + 9)  # nothing of what comes later
        for rows, every in zip(window, whole.happened.window(step, step + 1), strict=True):
            np.testing.assert_array_equal(rows, every)


@pytest.fixture(scope="module")
def wide() -> HybridEngine:
    import fiddler_viz as fv
    from fiddler_viz import demo

    return fv.load("demo", as_model=demo.COSTED_AS, gpu_memory="40GB", max_sequences=8)


@pytest.mark.parametrize("name", ["single", "batch", "chunks", "sampling", "beams"])
def test_what_a_run_stopped_there_holds(
    wide: HybridEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario: Scenario = SCENARIOS[name]
    whole = scenario.run(wide).trace
    finish = wide.session._finish_step
    for last in (0, 1, 2, len(whole.step_rows) - 2):

        def stopping(*, complete: bool, last: int = last) -> None:
            finish(complete=complete)
            if wide.session._number == last + 1:
                wide.stop()

        monkeypatch.setattr(wide.session, "_finish_step", stopping)
        run = scenario.run(wide)
        monkeypatch.undo()
        assert run.ended == "stopped" and len(run.trace.step_rows) == last + 1
        cut = whole.until(last).check()
        assert_same(cut, run.trace)
        assert cut.meta["until"] == last and cut.meta["ended"] == "cut"


def test_bad_steps_and_nothing_to_cut() -> None:
    trace = Driver(toy_plan(4)).trace()
    assert trace.until(np.int64(-1)) is trace  # type: ignore[arg-type]
    assert trace.until(-1) is trace  # no step: nothing is before the first one
    for bad in (-2, 1.0, True, None):
        with pytest.raises(InputError, match="whole number of at least -1"):
            trace.until(bad)  # type: ignore[arg-type]


def test_before_the_first_step_the_plan_is_there_and_nothing_else() -> None:
    whole = synthetic_trace("mixtral-8x7b", prompt_tokens=6, decode_tokens=4)
    cut = whole.until(-1)
    assert [len(getattr(cut, name)) for name in ROWS] == [0, 0, 0, 0]
    assert (cut.plan, cut.clock, cut.duration_ns) == (whole.plan, Clock.MODELLED, 0)
    assert memory_at(cut, -1) == memory_at(whole, -1)
