"""A replay's work and moves: made of its decisions when somebody asks for them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.course import Course
from engine.decision import Ints
from engine.events import MOVES, WORK, Action, Lane, Rows, Why, empty
from engine.happened import Calls, Changes, Recorded, Totals, spent_ns
from engine.layout import Laid, lay_out

_Table = TypeVar("_Table", Calls, Changes)


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

    def changes(self) -> Changes:
        """What gave its slot up, what took one for its call, what was fetched: layer by layer."""
        batch, made = self.course.batch, self.course.decisions
        kept = np.flatnonzero(made.keep)
        segment = np.concatenate([made.evict.segment, batch.segment[kept], made.fetch.segment])
        flat = np.concatenate([made.evict.values, batch.flat[kept], made.fetch.values])
        counts = (len(made.evict.values), len(kept), len(made.fetch.values))
        why = np.repeat([int(Why.EVICT), int(Why.ADMIT), int(Why.FETCH)], counts)
        order = np.argsort(segment, kind="stable")
        layer, expert = np.divmod(flat[order], batch.columns)
        changed = Changes(batch.step[segment[order]], layer, expert, why[order])
        return _joined(Changes, [self.pins.changes, changed])

    def spent(self, stop: int, grid: tuple[int, int]) -> Ints:
        """By the costs of what was decided; no rows are made, but where copies were cut."""
        batch, made, costs = self.course.batch, self.course.decisions, self.course.costs
        if len(made.fetch.values):
            return Recorded(*self.rows(0, stop)).spent(stop, grid)
        until = int(np.searchsorted(batch.step, stop))
        calls = slice(int(batch.first[until]))
        flat, count, action = batch.flat[calls], batch.count[calls], made.action[calls]
        cpu, copied = action == Action.CPU, flat[action == Action.STREAM]
        copied = np.concatenate([copied, made.unused.values[: made.unused.first[until]]])
        ran = np.where(cpu, costs.cpu.array(count), costs.gpu.array(count))
        return (
            spent_ns(np.where(cpu, int(Lane.CPU), int(Lane.GPU)), flat, ran, grid)
            + spent_ns(
                np.full_like(copied, Lane.H2D), copied, np.full_like(copied, costs.copy_ns), grid
            )
            + self.pins.spent(stop, grid)
        )

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
            action = stretch.course.decisions.action
            calls += [np.count_nonzero(action == each) for each in Action]
            for part in (stretch.laid, stretch.pins.totals):
                n_bytes += part.bytes
                busy += part.busy_ns
        return Totals(*(tuple(values.tolist()) for values in (calls, n_bytes, busy)))

    @property
    def calls(self) -> Calls:
        """Of the decisions; no rows are made."""
        return _joined(Calls, [stretch.calls() for stretch in self._stretches])

    @property
    def changes(self) -> Changes:
        """Of the decisions, once; no rows are made."""
        return self._changes

    @cached_property
    def _changes(self) -> Changes:
        return _joined(Changes, [stretch.changes() for stretch in self._stretches])

    def spent(self, stop: int, grid: tuple[int, int]) -> Ints:
        """Of the decisions."""
        none = np.zeros((len(Lane), *grid), dtype=np.int64)
        return sum((stretch.spent(stop, grid) for stretch in self._stretches), none)

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
        parts = [stretch.rows(first, stop) for stretch in self._stretches]
        if len(parts) == 1:
            return parts[0]
        return (
            np.concatenate([empty(WORK), *(work for work, _ in parts)]),
            np.concatenate([empty(MOVES), *(moves for _, moves in parts)]),
        )


def _joined(kind: type[_Table], parts: list[_Table]) -> _Table:
    """Columns one after the other."""
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, dtype=np.int64)
    names = [each.name for each in fields(kind)]
    return kind(*(np.concatenate([none, *(getattr(part, n) for part in parts)]) for n in names))
