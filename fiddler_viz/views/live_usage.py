"""How long every expert of a running engine was where and had which lane, added up as it runs."""

from __future__ import annotations

import threading
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from engine.events import MOVES, STEPS, WORK, Rows, empty
from engine.happened import Recorded, Totals
from engine.recorder import Recorder
from engine.residency import Place
from engine.usage import held_ns
from fiddler_viz.frames import Ints

_START, _END = ((STEPS.names or ()).index(name) for name in ("start_ns", "end_ns"))


LIMIT_ROWS = 1 << 15
"""Rows that may wait to be added up: they are when someone asks, and of many rows at once it takes
a fraction of the time."""


class LiveUsage:
    """Sums over a run so far. Lanes of experts count as work is seen, all else as steps end.

    One thread adds rows, any may ask.
    """

    def __init__(self, grid: tuple[int, int], recorder: Recorder | None) -> None:
        self._grid = grid
        self.steps = 0
        """Steps that have ended."""
        self._lock = threading.RLock()
        self._waiting: list[tuple[Rows, Rows, Rows]] = []
        self._rows = 0
        """How many of these."""
        self._work, self._moves = empty(WORK), empty(MOVES)
        """Of steps that have not ended."""
        self._places: NDArray[np.uint8] = np.zeros(grid[0] * grid[1], dtype=np.uint8)
        if recorder is not None:
            self._places[list(recorder.plans[0][1].pinned)] = Place.PINNED
            self._places[list(recorder.start.cached)] = Place.CACHED
        self._totals = Recorded.nothing().totals
        self._spent_ns: Ints = Recorded.nothing().spent(0, grid)
        self._held_ns: Ints = np.zeros((len(Place), *grid), dtype=np.int64)

    def __repr__(self) -> str:
        return f"LiveUsage({self.steps} steps)"

    def totals(self, steps: int) -> Totals | None:
        """Sums over the first so many steps; None where others have ended since."""
        with self._lock:
            self._add_up()
            return self._totals if self.steps == steps else None

    @property
    def spent_ns(self) -> Ints:
        """By :class:`Lane`, ``(lanes, layers, experts)``."""
        with self._lock:
            self._add_up()
            return self._spent_ns

    @property
    def held_ns(self) -> Ints:
        """By :class:`Place`, ``(places, layers, experts)``."""
        with self._lock:
            self._add_up()
            return self._held_ns

    def take(self, steps: Rows, work: Rows, moves: Rows) -> None:
        """Rows that are new, and do not change any more."""
        if not (len(steps) or len(work) or len(moves)):
            return
        with self._lock:
            self.steps += len(steps)
            self._waiting.append((steps, work, moves))
            self._rows += len(steps) + len(work) + len(moves)
            if self._rows > LIMIT_ROWS:
                self._add_up()

    def _add_up(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._rows = self._waiting, [], 0
        steps, work, moves = map(np.concatenate, zip(*waiting, strict=True))
        if len(work):
            until = int(work[-1, 0]) + 1
            self._spent_ns = self._spent_ns + Recorded(work, moves).spent(until, self._grid)
        work, moves = np.concatenate([self._work, work]), np.concatenate([self._moves, moves])
        ran, moved = (bisect_left(rows[:, 0], self.steps) for rows in (work, moves))
        self._work, self._moves = work[ran:].copy(), moves[moved:].copy()
        if not len(steps):
            return
        ended = Recorded(work[:ran], moves[:moved])
        self._totals += ended.totals
        edges = np.concatenate(([0], np.cumsum(steps[:, _END] - steps[:, _START])))
        first = self.steps - len(steps)
        held, self._places = held_ns(self._places, ended.changes, edges, self._grid[1], first)
        self._held_ns = self._held_ns + held.reshape(self._held_ns.shape)
