"""What happened: the rows of work and moves of a run, and what is added up of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.decision import Ints
from engine.events import MOVES, WORK, Action, Lane, Rows, Why, Work, columns, empty, rows_of


@dataclass(frozen=True)
class Totals:
    """Sums over a run."""

    calls: tuple[int, ...]
    """Expert calls by action."""
    bytes: tuple[int, ...]
    """By lane: what crossed the link."""
    busy_ns: tuple[int, ...]
    """By lane."""

    def __add__(self, more: Totals) -> Totals:
        """Sums over this run and what comes after."""
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Totals(*(tuple(map(sum, zip(*both, strict=True))) for both in pairs))


@dataclass(frozen=True)
class Calls:
    """Every call of an expert, in the order run: columns of equal length."""

    step: Ints
    layer: Ints
    expert: Ints
    action: Ints


@dataclass(frozen=True)
class Changes:
    """Every change of what is on the device, in the order made: columns of equal length."""

    step: Ints
    layer: Ints
    expert: Ints
    why: Ints
    """The :class:`engine.events.Why` of one that changes where the expert is."""


_PLACING = (Why.ADMIT, Why.PIN, Why.UNPIN, Why.EVICT, Why.FETCH)
"""Reasons of moves that change where an expert is."""


class Happened(Protocol):
    """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which they happened."""

    @property
    def work_rows(self) -> Rows: ...
    @property
    def move_rows(self) -> Rows: ...
    @property
    def totals(self) -> Totals: ...
    @property
    def calls(self) -> Calls: ...
    @property
    def changes(self) -> Changes: ...
    @property
    def places(self) -> NDArray[np.uint8] | None:
        """Where every expert is at the end, ``(layers, experts)``; None where only moves tell."""
        ...

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
        ...

    def spent(self, stop: int, grid: tuple[int, int]) -> Ints:
        """``(lanes, layers, experts)``: ns of lanes for experts before step ``stop``.

        Activations cross the link for all of a layer's experts together: they are in none.
        """
        ...


@dataclass(frozen=True)
class Recorded:
    """All rows at hand."""

    work_rows: Rows
    move_rows: Rows

    @property
    def places(self) -> None:
        """To be read off the moves."""

    @property
    def calls(self) -> Calls:
        """Picked from the rows of work."""
        work = columns(self.work_rows, WORK)
        ran = work["kind"] == Work.EXPERT
        return Calls(*(work[name][ran] for name in ("step", "layer", "expert", "action")))

    @property
    def changes(self) -> Changes:
        """Picked from the moves, once."""
        return self._changes

    @cached_property
    def _changes(self) -> Changes:
        return placing(self.move_rows)

    @classmethod
    def nothing(cls) -> Recorded:
        """Nothing happened."""
        return cls(empty(WORK), empty(MOVES))

    @property
    def totals(self) -> Totals:
        """Counted on the rows, once."""
        return self._totals

    @cached_property
    def _totals(self) -> Totals:
        work, moves = columns(self.work_rows, WORK), columns(self.move_rows, MOVES)
        ran = work["action"][work["kind"] == Work.EXPERT]
        crossed = moves["lane"] >= 0
        spent = work["end_ns"] - work["start_ns"]
        lanes = len(Lane)
        return Totals(
            tuple(np.bincount(ran, minlength=len(Action)).tolist()),
            _by_lane(moves["lane"][crossed], moves["bytes"][crossed], lanes),
            _by_lane(work["lane"], spent, lanes),
        )

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
        return rows_of(self.work_rows, first, stop), rows_of(self.move_rows, first, stop)

    def spent(self, stop: int, grid: tuple[int, int]) -> Ints:
        """Added up over the rows of work."""
        work = columns(rows_of(self.work_rows, 0, stop), WORK)
        of = work["expert"] >= 0
        flat = work["layer"][of] * grid[1] + work["expert"][of]
        return spent_ns(work["lane"][of], flat, (work["end_ns"] - work["start_ns"])[of], grid)


def placing(move_rows: Rows) -> Changes:
    """Moves that change where an expert is."""
    moves = columns(move_rows, MOVES)
    kept = np.isin(moves["why"], _PLACING)
    return Changes(*(moves[name][kept] for name in ("step", "layer", "expert", "why")))


def spent_ns(lane: Ints, flat: Ints, ns: Ints, grid: tuple[int, int]) -> Ints:
    """Time added up by lane and expert; floats hold every ns up to 104 days."""
    shape = (len(Lane), *grid)
    at = lane * (grid[0] * grid[1]) + flat
    return np.bincount(at, ns, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)


def _by_lane(lane: Rows, amount: Rows, lanes: int) -> tuple[int, ...]:
    return tuple(int(amount[lane == number].sum()) for number in range(lanes))
