"""The usual pace: parts come back out of sums measured on a machine that was now fast, now slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.steady import at_usual_pace

RANDOM = np.random.default_rng


def test_what_follows_the_pace_and_what_does_not() -> None:
    """Two parts, one that reads and one that computes, only ever measured in sums."""
    random = RANDOM(0)
    pace = random.choice([0.75, 1.0, 1.5], 60)
    parts = random.integers(1, 6, (60, 2)).astype(float)
    ns = parts @ [3e6, 0.0] * pace + parts @ [0.0, 1e6]
    found = at_usual_pace(parts, ns, pace)
    assert found.values == pytest.approx([3e6, 1e6], rel=1e-3)
    assert found.residual < 1e-3


def test_at_one_pace_it_is_a_robust_mean() -> None:
    ns = 1e6 * (1 + 0.02 * RANDOM(1).normal(size=40))
    ns[::8] += 3e8  # pauses
    found = at_usual_pace(np.ones((40, 1)), ns, np.ones(40))
    assert found.values == pytest.approx([1e6], rel=0.02)


@pytest.mark.parametrize("follows", [0.0, 0.5, 1.0])
def test_few_measurements_all_at_another_pace(follows: float) -> None:
    """Half of the time is taken to follow the pace, unless it shows."""
    pace = np.array([1.4, 1.4])
    ns = 1e6 * (1 + follows * (pace - 1))
    (value,) = at_usual_pace(np.ones((2, 1)), ns, pace).values
    assert value == pytest.approx(float(ns[0]) / 1.2, rel=1e-3)
    many, ns = np.tile([0.7, 1.0, 1.4], 4), np.tile(1 + follows * np.array([-0.3, 0, 0.4]), 4)
    assert at_usual_pace(np.ones((12, 1)), ns, many).values == pytest.approx([1.0], rel=1e-3)


def test_weights_are_counts_of_measurements() -> None:
    """The mean of many is worth more than one, and less of an outlier when it is as far off."""
    ones = np.ones((4, 1))
    ns = [1.0e6, 1.0e6, 1.1e6, 1.1e6]
    near = at_usual_pace(ones, ns, np.ones(4), weights=[100, 100, 1, 1]).values
    assert near == pytest.approx([1.0e6], rel=0.01)


def test_a_prior_holds_what_sums_leave_open() -> None:
    parts, ns = np.ones((6, 2)), np.full(6, 5e6)
    found = at_usual_pace(parts, ns, np.ones(6), prior=([1e6, 3e6], 0.2))
    assert found.values.sum() == pytest.approx(5e6, rel=1e-3)
    assert found.values[0] < found.values[1]


@pytest.mark.parametrize(
    ("parts", "ns", "pace", "weights"),
    [
        (np.ones((0, 1)), [], [], None),
        (np.ones((2, 1)), [1.0], [1.0, 1.0], None),
        (np.ones((2, 1)), [1.0, 1.0], [1.0], None),
        (np.ones(2), [1.0, 1.0], [1.0, 1.0], None),
        (np.ones((1, 1)), [0.0], [1.0], None),
        (np.ones((1, 1)), [1.0], [-1.0], None),
        (np.ones((1, 1)), [1.0], [float("nan")], None),
        (np.ones((1, 1)), [1.0], [1.0], [0.0]),
    ],
)
def test_what_cannot_be_fitted(parts: Any, ns: Any, pace: Any, weights: Any) -> None:
    with pytest.raises(InputError, match="at_usual_pace"):
        at_usual_pace(parts, ns, pace, weights=weights)


def test_when_someone_else_has_the_cores_nothing_is_learnt() -> None:
    """A pace of ten would outweigh all others in what follows it."""
    pace = np.array([1.0, 0.8, 1.2, 1.0, 10.0, 10.0])
    ns = 1e6 * np.array([1.0, 0.8, 1.2, 1.0, 3.0, 2.0])
    assert at_usual_pace(np.ones((6, 1)), ns, pace).values == pytest.approx([1e6], rel=0.01)
    only = at_usual_pace(np.ones((2, 1)), ns[4:], pace[4:]).values
    assert 1e5 < only[0] < 1e6  # better than nothing
