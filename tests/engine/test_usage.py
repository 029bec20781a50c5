"""Sums over a run by expert, compared with its rows, one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.events import Lane
from engine.history import places_at
from engine.policies import LIVE
from engine.replay import replay
from engine.residency import Place
from engine.trace import Trace
from engine.usage import lane_ns, place_shares
from tests.engine.builders import Driver, random_plan, toy_plan


def run(seed: int, policy: str) -> Trace:
    """Some steps, with plans that change in between, from slots that are not empty."""
    driver, rng = Driver(toy_plan(7, 4, policy)), random.Random(seed)
    for _ in range(15):
        plans = [random_plan(rng)] if rng.random() < 0.3 else []
        driver.step(rng, rng.choice((1, 1, 3)), plans=plans)
    return driver.trace()


@pytest.mark.parametrize("policy", LIVE)
def test_shares_of_places_are_those_of_the_ends_of_steps(policy: str) -> None:
    trace = run(1, policy)
    for source in (trace, replay(trace).trace):
        spans = source.steps["end_ns"] - source.steps["start_ns"]
        for last in (0, 6, len(spans) - 1):
            slow = np.zeros((len(Place), *source.model.grid))
            for step, span in enumerate(spans[: last + 1].tolist()):
                for place in Place:
                    slow[place] += span * (places_at(source, step) == place)
            np.testing.assert_allclose(place_shares(source, last), slow / spans[: last + 1].sum())
        np.testing.assert_array_equal(place_shares(source), place_shares(source, len(spans) - 1))


@pytest.mark.parametrize("policy", LIVE)
def test_lane_times_are_those_of_the_rows(policy: str) -> None:
    trace = run(2, policy)
    for source in (trace, replay(trace).trace, replay(trace, policy="stream_all").trace):
        rows = source.work
        for last in (None, 0, 6):
            slow = np.zeros((len(Lane), *source.model.grid), dtype=np.int64)
            for step, layer, expert, lane, start, end in zip(
                *(rows[n].tolist() for n in ("step", "layer", "expert", "lane")),
                *(rows[n].tolist() for n in ("start_ns", "end_ns")),
                strict=True,
            ):
                if expert >= 0 and (last is None or step <= last):
                    slow[lane, layer, expert] += end - start
            np.testing.assert_array_equal(lane_ns(source, last), slow)


@pytest.mark.parametrize("policy", LIVE)
def test_changes_of_a_replay_are_those_of_its_moves(policy: str) -> None:
    trace = run(3, policy)
    again = replay(trace).trace
    for name, values in vars(trace.happened.changes).items():
        np.testing.assert_array_equal(getattr(again.happened.changes, name), values, err_msg=name)


def test_before_the_first_step_no_time_has_passed() -> None:
    driver = Driver(toy_plan(5))
    trace = driver.trace()
    assert np.isnan(place_shares(trace)).all()
    assert not lane_ns(trace).any()
