"""What happened: the rows of work and moves of a run, at hand or made when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.decision import Ints
from engine.events import MOVES, WORK, Action, Lane, Rows, Work, columns, empty
from engine.layout import Course, Laid, lay_out


@dataclass(frozen=True)
class Totals:
    """Sums over a run."""

    calls: tuple[int, ...]
    """Expert calls by action."""
    bytes: tuple[int, ...]
    """By lane: what crossed the link."""
    busy_ns: tuple[int, ...]
    """By lane."""


@dataclass(frozen=True)
class Calls:
    """Every call of an expert, in the order run: columns of equal length."""

    step: Ints
    layer: Ints
    expert: Ints
    action: Ints


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
    def places(self) -> NDArray[np.uint8] | None:
        """Where every expert is at the end, ``(layers, experts)``; None where only moves tell."""
        ...

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
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
        work, moves = (
            rows[slice(*np.searchsorted(rows[:, 0], (first, stop)).tolist())]
            for rows in (self.work_rows, self.move_rows)
        )
        return work, moves


def _by_lane(lane: Rows, amount: Rows, lanes: int) -> tuple[int, ...]:
    return tuple(int(amount[lane == number].sum()) for number in range(lanes))


@dataclass(frozen=True)
class Stretch:
    """Steps of a replay under one plan."""

    pins: Recorded
    """What the plan changed before them."""
    course: Course
    laid: Laid
    """When everything starts and ends; no rows."""

    def calls(self) -> Calls:
        """Who was called, and where it ran."""
        batch = self.course.batch
        of = batch.segment
        return Calls(batch.step[of], batch.layer[of], batch.expert, self.course.decisions.action)

    def rows(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Work and moves of the steps ``first`` to ``stop`` (exclusive)."""
        course, laid = self.course, self.laid
        a, b = np.searchsorted(course.batch.step, (first, stop)).tolist()
        if len(course.decisions.fetch.values):  # what waits for the link is known by walking
            made = lay_out(course, laid.start, rows=slice(a, b))
        else:
            made = lay_out(course.part(a, b), laid.start[a:b])
        pins = self.pins.window(first, stop)
        return np.concatenate((pins[0], made.work)), np.concatenate((pins[1], made.moves))


class Rehearsed:
    """A replay's rows, made of its decisions when somebody asks for them."""

    def __init__(self, stretches: list[Stretch], steps: int, places: NDArray[np.uint8]) -> None:
        self._stretches = stretches
        self._steps = steps
        self.places = places
        """Where every expert is at the end, ``(layers, experts)``."""

    def __repr__(self) -> str:
        return f"Rehearsed({self._steps} steps)"

    @cached_property
    def _rows(self) -> tuple[Rows, Rows]:
        return self.window(0, self._steps)

    @property
    def work_rows(self) -> Rows:
        """All of them; made once."""
        return self._rows[0]

    @property
    def move_rows(self) -> Rows:
        """All of them; made once."""
        return self._rows[1]

    @property
    def totals(self) -> Totals:
        """Added up by the walk that laid everything out."""
        return self._totals

    @cached_property
    def _totals(self) -> Totals:
        calls = np.zeros(len(Action), dtype=np.int64)
        n_bytes, busy = np.zeros(len(Lane), dtype=np.int64), np.zeros(len(Lane), dtype=np.int64)
        for stretch in self._stretches:
            calls += np.bincount(stretch.course.decisions.action, minlength=len(Action))
            for part in (stretch.laid, stretch.pins.totals):
                n_bytes += part.bytes
                busy += part.busy_ns
        return Totals(*(tuple(values.tolist()) for values in (calls, n_bytes, busy)))

    @property
    def calls(self) -> Calls:
        """Of the decisions; no rows are made."""
        parts = [stretch.calls() for stretch in self._stretches]
        if len(parts) == 1:
            return parts[0]
        names = ("step", "layer", "expert", "action")
        none = np.zeros(0, dtype=np.int64)
        return Calls(*(np.concatenate([none, *(getattr(p, n) for p in parts)]) for n in names))

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
        parts = [stretch.rows(first, stop) for stretch in self._stretches]
        if len(parts) == 1:
            return parts[0]
        return (
            np.concatenate([empty(WORK), *(work for work, _ in parts)]),
            np.concatenate([empty(MOVES), *(moves for _, moves in parts)]),
        )
