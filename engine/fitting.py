"""Curves fitted to measured times: the plainest form that follows the measurements.

All fits minimise relative errors, so that one token counts as much as a thousand, and are robust:
a measurement far off the others (a busy machine) loses weight instead of bending the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import InputError
from engine.latency import Curve

Floats = NDArray[np.float64]

GOOD_ENOUGH = 0.02
"""A plainer form is taken where its residual is below this, or near the table's."""
APART = 0.05
"""A plainer form is taken where no point of the table is further from it, as a fraction: what is
off by much at few token counts only, as where a kernel begins, shows in no residual."""
_KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
          2048, 3072, 4096, 8192, 16384)  # fmt: skip
_ROUNDS = 8


@dataclass(frozen=True)
class Fit:
    """A curve, and how far the measurements are from it."""

    curve: Curve
    residual: float
    """Root mean square of ``measured / fitted - 1``, weighted, outliers at less weight."""
    samples: int


def fit_curve(tokens: ArrayLike, ns: ArrayLike, weights: ArrayLike | None = None) -> Fit:
    """One line, two lines (a roofline), or a table of points: the first that fits well enough.

    ``weights`` count how many measurements stand behind each value. Raises InputError where there
    is nothing to fit, or a time is not positive.
    """
    x, y = np.asarray(tokens, np.float64), np.asarray(ns, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if not len(x) or x.shape != y.shape or x.shape != w.shape:
        raise InputError(
            f"fit_curve: expected as many tokens as times, got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(y) & (y > 0) & np.isfinite(x) & (x >= 0) & (w > 0)).all():
        raise InputError("fit_curve: times and weights must be above 0, tokens not below")
    table = _scored(_table(x, y, w), x, y, w)
    bar = max(GOOD_ENOUGH, 1.2 * table.residual)
    for plain in (_line(x, y, w), _two_lines(x, y, w)):
        if plain is not None:
            found = _scored(plain, x, y, w)
            if found.residual <= bar and _apart(plain, table.curve) <= APART:
                return found
    return table


def fit_line(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """``(fixed, slope)`` of a line, the slope not below 0; robust and relative as all here."""
    at, ns = np.asarray(x, np.float64), np.asarray(y, np.float64)
    w = np.ones(len(at)) if weights is None else np.asarray(weights, np.float64)
    fixed, slope = _solve(np.stack([np.ones_like(at), at], axis=1), ns, w)
    if slope < 0 or len(np.unique(at)) < 2:
        return float(np.average(ns, weights=w)), 0.0
    return float(fixed), float(slope)


def _solve(basis: Floats, y: Floats, w: Floats) -> Floats:
    """Relative least squares, reweighted so that outliers count by distance, not by its square."""
    weight = w.copy()
    found = np.zeros(basis.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weight) / y
        solved = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        found = cast("Floats", solved)
        weight = w * _trust(np.abs(basis @ found / y - 1), w)
    return found


def _trust(error: Floats, w: Floats) -> Floats:
    """Huber's weights; what is usual is the weighted median error."""
    order: NDArray[np.int64] = np.argsort(error)
    middle = int((np.cumsum(w[order]) < w.sum() / 2).sum())
    usual = 2.0 * max(float(error[order][min(middle, len(error) - 1)]), 1e-4)
    return np.minimum(1.0, usual / np.maximum(error, 1e-12))


def _line(x: Floats, y: Floats, w: Floats) -> Curve | None:
    if len(np.unique(x)) < 2:
        return Curve(((float(np.average(y, weights=w)), 0.0),))
    fixed, slope = (float(value) for value in _solve(np.stack([np.ones_like(x), x], 1), y, w))
    return Curve(((fixed, slope),)) if slope >= 0 and fixed >= 0 else None


def _two_lines(x: Floats, y: Floats, w: Floats) -> Curve | None:
    """The higher of a line on the left and a steeper one on the right, the best break of all."""
    known = np.unique(x)
    best, least = None, np.inf
    for cut in known[1:-2]:
        left, right = x <= cut, x > cut
        lines: list[tuple[float, float]] = []
        for part in (left, right):
            basis = np.stack([np.ones(int(part.sum())), x[part]], axis=1)
            fixed, slope = (float(value) for value in _solve(basis, y[part], w[part]))
            if slope < 0 or len(np.unique(x[part])) < 2:
                fixed, slope = float(np.average(y[part], weights=w[part])), 0.0
            lines.append((fixed, slope))
        curve = Curve(tuple(lines))
        residual = _scored(curve, x, y, w).residual
        if residual < least:
            best, least = curve, residual
    return best


def _table(x: Floats, y: Floats, w: Floats) -> Curve:
    """Points at round token counts, where there are measurements, joined by straight lines."""
    known = np.unique(x)
    at = np.union1d(knots_among(known), known[-1:])
    ns = np.maximum(_solve(hats(at, x), y, w), 0.0)
    return Curve(points=tuple(zip(at.tolist(), ns.tolist(), strict=True)))


def knots_among(known: Floats, more: Sequence[int] = ()) -> Floats:
    """Of ``known`` token counts (ascending) the first, and those nearest to round ones and ``more``
    as far as they go."""
    wanted = [knot for knot in (*_KNOTS, *more) if knot <= known[-1]]
    near = [float(known[np.argmin(np.abs(known - knot))]) for knot in wanted]
    return np.unique([known[0], *near]).astype(np.float64)


def hats(at: Floats, x: Floats) -> Floats:
    """Of each ``x`` the share of each point in ``at`` when straight lines join them, ``(n, k)``.

    Beyond the last point as between the last two, before the first as at it: as a Curve's points.
    """
    made = np.stack([np.interp(x, at, row) for row in np.eye(len(at))], axis=1)
    beyond = x > at[-1]
    if len(at) > 1:
        made[beyond, -1] = (x[beyond] - at[-2]) / (at[-1] - at[-2])
        made[beyond, -2] = 1 - made[beyond, -1]
    return made


def _apart(plain: Curve, table: Curve) -> float:
    """The largest distance of a table's points from a plainer curve, as a fraction."""
    at, ns = np.array(table.points).T
    return float(np.max(np.abs(_values(plain, at) / np.maximum(ns, 1e-9) - 1)))


def _values(curve: Curve, x: Floats) -> Floats:
    lines = [fixed + slope * x for fixed, slope in curve.lines]
    if lines:
        return np.max(np.array(lines), axis=0)
    return cast("Floats", np.interp(x, *np.array(curve.points).T))


def _scored(curve: Curve, x: Floats, y: Floats, w: Floats) -> Fit:
    error = np.abs(y / np.maximum(_values(curve, x), 1e-9) - 1)
    trust = w * _trust(error, w)
    residual = float(np.sqrt(np.average(error**2, weights=trust)))
    return Fit(curve, residual, len(x))
