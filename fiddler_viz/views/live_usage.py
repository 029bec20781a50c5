"""How long every expert of a running engine was where and had which lane, added up as it runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.events import MOVES, STEPS, WORK, Rows
from engine.happened import Recorded
from engine.recorder import Recorder
from engine.residency import Place
from engine.usage import held_ns
from fiddler_viz.frames import Ints

_START, _END = ((STEPS.names or ()).index(name) for name in ("start_ns", "end_ns"))


class LiveUsage:
    """Sums over a run so far. Lanes count as work is seen, places as steps end."""

    def __init__(self, grid: tuple[int, int], recorder: Recorder | None) -> None:
        self._grid = grid
        self._steps = 0
        self._moves: Rows = np.zeros((0, len(MOVES.names or ())), dtype=np.int64)
        """Of steps that have not ended."""
        self._places: NDArray[np.uint8] = np.zeros(grid[0] * grid[1], dtype=np.uint8)
        if recorder is not None:
            self._places[list(recorder.plans[0][1].pinned)] = Place.PINNED
            self._places[list(recorder.start.cached)] = Place.CACHED
        self.spent_ns: Ints = Recorded.nothing().spent(0, grid)
        """By :class:`Lane`, ``(lanes, layers, experts)``."""
        self.held_ns: Ints = np.zeros((len(Place), *grid), dtype=np.int64)
        """By :class:`Place`, ``(places, layers, experts)``."""

    def __repr__(self) -> str:
        return f"LiveUsage({self._steps} steps)"

    def take(self, steps: Rows, work: Rows, moves: Rows) -> None:
        """Rows that are new."""
        if len(work):
            until = int(work[:, (WORK.names or ()).index("step")].max()) + 1
            self.spent_ns += Recorded(work, moves).spent(until, self._grid)
        if len(moves):
            self._moves = np.concatenate([self._moves, moves])
        if not len(steps):
            return
        first, self._steps = self._steps, self._steps + len(steps)
        ended = int(np.searchsorted(self._moves[:, 0], self._steps))
        changes = Recorded(work[:0], self._moves[:ended]).changes
        edges = np.concatenate(([0], np.cumsum(steps[:, _END] - steps[:, _START])))
        held, self._places = held_ns(self._places, changes, edges, self._grid[1], first)
        self.held_ns += held.reshape(self.held_ns.shape)
        self._moves = self._moves[ended:]
