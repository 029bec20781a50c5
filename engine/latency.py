"""A latency by token count: the highest of straight lines, or a table of measured points.

Lines are convex, which covers a roofline (memory-bound, then compute-bound) and the affine CPU
latency of Fiddler (arXiv 2402.07033, 3.2). Real kernels are not always convex: four tokens can be
faster than one where a matrix product takes another path. Then points say what was measured.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.strict import check_keys

TABLE_TOKENS = 4096
"""Token counts up to this are looked up; larger ones are computed by the same formula."""

MOST = 10**15
"""ns or bytes that a file may claim: eleven days, a petabyte. Sums of them stay within 64 bits."""


@dataclass(frozen=True)
class Curve:
    """Latency by token count: ``max over lines of fixed_ns + per_token_ns * tokens``, or points.

    Where there are ``points`` they count alone: straight between two of them, the first one's value
    before it, and after the last one on as between the last two (never falling).
    """

    lines: tuple[tuple[float, float], ...] = ()
    """Pairs ``(fixed_ns, per_token_ns)``."""
    points: tuple[tuple[float, float], ...] = ()
    """Pairs ``(tokens, ns)``, tokens ascending."""

    def array(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Latency in ns for each token count, rounded to whole nanoseconds."""
        if tokens.max(initial=0) <= TABLE_TOKENS and tokens.min(initial=0) >= 0:
            return self._looked_up.take(tokens)
        return self._computed(tokens)

    def _computed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        count = tokens.astype(np.float64)
        best = self._between(count) if self.points else np.zeros(count.shape)
        for fixed, per_token in () if self.points else self.lines:
            np.maximum(best, fixed + per_token * count, out=best)
        return np.rint(best).astype(np.int64)

    def _between(self, count: NDArray[np.float64]) -> NDArray[np.float64]:
        at, ns = np.array(self.points).T
        slope = 0.0
        if len(at) > 1:
            slope = max(float((ns[-1] - ns[-2]) / (at[-1] - at[-2])), 0.0)
        inside = cast("NDArray[np.float64]", np.interp(count, at, ns))
        return inside + slope * np.maximum(count - at[-1], 0.0)

    @cached_property
    def table(self) -> list[int]:
        """Latency in ns for 0..TABLE_TOKENS tokens."""
        return self._looked_up.tolist()

    @cached_property
    def _looked_up(self) -> NDArray[np.int64]:
        made = self._computed(np.arange(TABLE_TOKENS + 1))
        made.setflags(write=False)
        return made

    def upto(self, most: int) -> NDArray[np.int64]:
        """Latency in ns for 0..most tokens; not to be written to."""
        if most <= TABLE_TOKENS:
            return self._looked_up[: most + 1]
        return self.array(np.arange(most + 1))

    def __getstate__(self) -> dict[str, Any]:
        """The fields: what is pickled need not carry the table."""
        return {"lines": self.lines, "points": self.points}

    def __call__(self, tokens: int) -> int:
        """Latency in ns for one token count."""
        if tokens <= TABLE_TOKENS:
            return self.table[tokens]
        return int(self.array(np.array([tokens]))[0])

    @classmethod
    def from_dict(cls, what: str, values: object) -> Self:
        """A curve from plain values; ``what`` names it in the InputError about bad ones."""
        if not isinstance(values, Mapping):
            raise InputError(f"{what}: expected pairs of numbers, got {reprlib.repr(values)}.")
        given = check_keys(what, values, ("lines", "points"))  # pyright: ignore[reportUnknownArgumentType]
        lines, points = _pairs(what, given["lines"]), _pairs(what, given["points"])
        if not lines and not points:
            raise InputError(f"{what}: expected lines or points of numbers, got none.")
        if points and (
            points[0][0] < 0
            or any(a >= b for (a, _), (b, _) in pairwise(points))
            or any(ns < 0 for _, ns in points)
        ):
            raise InputError(f"{what}: points must have ascending tokens and times of at least 0.")
        return cls(lines, points)


def _pairs(what: str, values: Any) -> tuple[tuple[float, float], ...]:
    try:
        pairs = tuple((float(first), float(second)) for first, second in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: expected pairs of numbers; {error!r}.") from error
    if not all(abs(number) <= MOST for pair in pairs for number in pair):
        raise InputError(f"{what}: expected lines and points of numbers up to {MOST:g}.")
    return pairs
