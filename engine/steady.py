"""Times measured on a machine that is now faster, now slower, brought to its usual pace.

On a shared machine the same reading of memory takes 2 ms for half a minute and then 3. What is
measured in such times cannot be compared as it stands, nor be divided by one factor: what reads
memory follows the machine's pace, what computes does not. So each time is measured next to some
fixed work, whose time by its usual time is the ``pace`` (1 is usual, 1.5 half as slow again), and
how far a time follows the pace is fitted along with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import InputError

Floats = NDArray[np.float64]

FOLLOWS = 0.5, 0.5
"""Mean and spread of what is assumed of the share of a time that follows the pace, before anything
is measured: all between none and all of it. It matters where the pace hardly changed, and there
the share does not."""
FAR = 2.0
"""Where the pace is so many times the usual one, or a part of it, someone else has the cores."""
_ROUNDS = 12
_SIGMA = 1.4826
"""A normal distribution's standard deviation over its median deviation."""


@dataclass(frozen=True)
class Steady:
    """Times of some parts at the usual pace."""

    values: Floats
    """By part."""
    residual: float
    """Root mean square of ``measured / fitted - 1``, weighted, outliers at less weight."""


def at_usual_pace(
    parts: ArrayLike,
    ns: ArrayLike,
    pace: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    prior: tuple[ArrayLike, float] | None = None,
) -> Steady:
    """What each part takes at the usual pace, from sums of them measured at others.

    Fits ``ns = sum over j of parts[:, j] * values[j] * (1 + follows[j] * (pace - 1))`` by relative
    least squares, reweighted by Huber's rule so that outliers (pauses of the machine) count by
    their distance, not by its square; ``follows`` has the normal prior :data:`FOLLOWS`. What was
    measured at a pace beyond :data:`FAR` tells nothing and is left out, unless all was.

    Args:
        parts: ``(n, k)``: how many of each part a measurement is the sum of.
        ns: ``(n,)``, above 0.
        pace: ``(n,)``, above 0.
        weights: how many equal measurements each is the mean of.
        prior: of each value what is known from elsewhere, and to what fraction of it.

    Raises InputError where there is nothing to fit, or a time or pace is not positive.
    """
    basis, y, p = (np.asarray(given, np.float64) for given in (parts, ns, pace))
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if not basis.size or basis.ndim != 2 or not len(basis) == len(y) == len(p) == len(w):
        raise InputError(
            f"at_usual_pace: expected one time and pace for each row of parts, got "
            f"{basis.shape}, {y.shape}, {p.shape} and {w.shape}"
        )
    if not all((np.isfinite(given) & (given > 0)).all() for given in (y, p, w)):
        raise InputError("at_usual_pace: times, paces and weights must be above 0")
    near = (p <= FAR) & (p >= 1 / FAR)
    if near.any():
        basis, y, p, w = basis[near], y[near], p[near], w[near]
    count: int = basis.shape[1]
    columns = np.concatenate([basis, basis * (p - 1)[:, None]], axis=1)  # (n, 2k)
    size = np.full(count, y.sum() / basis.sum())  # of each value, for what is relative to it
    found, error, trust = np.zeros(2 * count), np.zeros(len(y)), np.ones(len(y))
    sigma = 0.05
    for _ in range(_ROUNDS):
        root = np.sqrt(w * trust) / y
        rows: list[Floats] = [columns * root[:, None]]
        wanted: list[Floats] = [y * root]
        follows = np.diag(sigma / FOLLOWS[1] / size)
        rows.append(np.concatenate([-FOLLOWS[0] * follows, follows], axis=1))
        wanted.append(np.zeros(count))
        if prior is not None:
            known = np.asarray(prior[0], np.float64)
            about = np.diag(sigma / prior[1] / known)
            rows.append(np.concatenate([about, np.zeros_like(about)], axis=1))
            wanted.append(about @ known)
        solved = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0]
        found = cast("Floats", solved)
        size = np.maximum(np.abs(found[:count]), 1e-3 * np.abs(found[:count]).max() + 1e-9)
        error = np.abs(columns @ found / y - 1)
        scaled = error * np.sqrt(w)  # of one measurement
        usual = max(float(np.median(scaled)), 1e-5)
        sigma = _SIGMA * usual
        trust = np.minimum(1.0, 2 * usual / np.maximum(scaled, 1e-12))
    residual = float(np.sqrt(np.average(error**2, weights=w * trust)))
    return Steady(np.maximum(found[:count], 0.0), residual)
