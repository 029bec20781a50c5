"""Fitting: made-up timings come back as the lines they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.fitting import fit_curve, fit_line, hats, knots_among
from engine.latency import Curve

TOKENS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512])


def noisy(ns: np.ndarray, spread: float, seed: int = 0) -> np.ndarray:
    return ns * (1 + spread * np.random.default_rng(seed).normal(size=len(ns)))


def test_a_line_is_recovered_exactly() -> None:
    fit = fit_curve(TOKENS, 3e6 + 1.1e5 * TOKENS)
    ((fixed, slope),) = fit.curve.lines
    assert (fixed, slope) == (pytest.approx(3e6), pytest.approx(1.1e5))
    assert fit.residual < 1e-9
    assert fit.samples == len(TOKENS)


def test_two_lines_are_recovered() -> None:
    """A roofline: flat while reading weights, then climbing."""
    truth = np.maximum(3e6, 2e5 + 9e4 * TOKENS)
    fit = fit_curve(TOKENS, truth)
    assert len(fit.curve.lines) == 2
    assert fit.curve.array(TOKENS) == pytest.approx(truth, rel=0.02)
    assert fit.curve(1024) == pytest.approx(2e5 + 9e4 * 1024, rel=0.02)


def test_what_is_not_convex_becomes_a_table() -> None:
    """Four tokens faster than one, as where a matrix product takes another path."""
    truth = np.interp(TOKENS, (1, 2, 4, 16, 64, 512), (25.1, 24, 16.1, 18.3, 30.5, 130)) * 1e6
    fit = fit_curve(TOKENS, truth)
    assert fit.curve.points and not fit.curve.lines
    assert fit.curve(4) < fit.curve(1)
    assert fit.curve.array(TOKENS) == pytest.approx(truth, rel=0.01)


def test_few_token_counts_off_the_lines_show() -> None:
    """One token takes a slower path than two, and nothing else does: the residual hardly tells."""
    tokens = np.arange(1, 400)
    truth = np.where(tokens == 1, 3.5e6, np.maximum(2.9e6, 2e5 + 9e4 * tokens))
    fit = fit_curve(tokens, truth)
    assert fit.curve(1) == pytest.approx(3.5e6, rel=0.02)
    assert fit.curve(2) == pytest.approx(2.9e6, rel=0.02)


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.1])
def test_the_residual_is_the_noise(spread: float) -> None:
    tokens = np.repeat(TOKENS, 20)
    fit = fit_curve(tokens, noisy(3e6 + 1.1e5 * tokens, spread))
    assert 0.6 * spread < fit.residual < 1.2 * spread  # outliers count for less
    assert fit.curve.array(TOKENS) == pytest.approx(3e6 + 1.1e5 * TOKENS, rel=spread)


def test_outliers_do_not_bend_it() -> None:
    """One measurement in ten took ten times as long: someone else's work."""
    tokens = np.repeat(TOKENS, 10)
    ns = noisy(3e6 + 1.1e5 * tokens, 0.01)
    ns[::10] *= 10
    fit = fit_curve(tokens, ns)
    assert fit.curve.array(TOKENS) == pytest.approx(3e6 + 1.1e5 * TOKENS, rel=0.05)


def test_hats_are_a_curve_s_points() -> None:
    """Beyond the last point, too."""
    at, ns = np.array([1.0, 4.0, 16.0]), np.array([3e6, 2e6, 5e6])
    tokens = np.array([0, 1, 2, 4, 10, 16, 40])
    curve = Curve(points=tuple(zip(at.tolist(), ns.tolist(), strict=True)))
    assert hats(at, tokens.astype(float)) @ ns == pytest.approx(curve.array(tokens))
    assert hats(at[:1], np.array([1.0, 9.0])).tolist() == [[1.0], [1.0]]


def test_knots_are_where_measurements_are() -> None:
    known = np.array([2.0, 3.0, 17.0, 45.0, 300.0])
    assert knots_among(known).tolist() == [2, 3, 17, 45, 300]
    assert knots_among(known[:4]).tolist() == [2, 3, 17, 45]
    assert knots_among(np.array([1.0, 30.0, 700.0])).tolist() == [1, 30, 700]
    assert knots_among(np.array([1.0, 37.0, 40.0, 41.0]), (40, 41)).tolist() == [1, 37, 40, 41]


def test_weights_say_what_counts() -> None:
    tokens, ns = np.array([1, 1, 100]), np.array([10.0, 20.0, 1000.0])
    assert fit_curve(tokens, ns, [1000, 1, 1]).curve(1) == pytest.approx(10, abs=1)
    assert fit_curve(tokens, ns, [1, 1000, 1]).curve(1) == pytest.approx(20, abs=1)


def test_a_single_count_is_a_constant() -> None:
    fit = fit_curve([1, 1, 1], [10.0, 10.0, 10.0])
    assert fit.curve(1) == fit.curve(50) == 10


def test_a_slope_is_never_below_nothing() -> None:
    assert fit_line([1, 2, 3], [30.0, 20.0, 10.0])[1] == 0.0
    assert fit_line([5, 5], [10.0, 12.0]) == (pytest.approx(11.0), 0.0)
    assert fit_line([0, 100, 200], [10.0, 20.0, 30.0]) == (
        pytest.approx(10.0),
        pytest.approx(0.1),
    )


@pytest.mark.parametrize(
    ("tokens", "ns", "weights"),
    [
        ([], [], None),
        ([1, 2], [1.0], None),
        ([1], [0.0], None),
        ([1], [-1.0], None),
        ([1], [float("nan")], None),
        ([-1], [1.0], None),
        ([1], [1.0], [0.0]),
        ([1], [1.0], [1.0, 2.0]),
    ],
)
def test_what_cannot_be_fitted(tokens: Any, ns: Any, weights: Any) -> None:
    with pytest.raises(InputError, match="fit_curve"):
        fit_curve(tokens, ns, weights)
