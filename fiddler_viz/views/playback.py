"""Where in a run the reader is: a step, and how far into the next; moves with a clock, or stands.

Nothing ticks in here. Whoever draws asks where it is by now, and how long the step lasts; what
was not drawn in time is skipped, and the time between two frames never adds up to a drift.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fiddler_viz.frames import Ints

_NS = 1e9
STEPWISE = 0.0
"""In place of a speed: one step a second, however long it took."""


class Playback:
    """A place in a run of so many steps, counted in steps that have ended: 0 before the first.

    The place is kept in steps, not in time: under another plan the same text is shown, and goes on
    at that plan's pace. Times are those of the run; ``speed`` of them pass in a second.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._ends_ns: Ints = np.zeros(1, dtype=np.int64)
        self._speed = 1.0
        self._place = 0.0
        """Where it was at :attr:`_since_s`; the fraction is of the step that was under way."""
        self._since_s: float | None = None
        """When it last began to move; None: it stands."""

    def __repr__(self) -> str:
        return f"Playback({'playing' if self.playing else 'still'} at {self.place:.2f})"

    @property
    def steps(self) -> int:
        """Of the run."""
        return len(self._ends_ns) - 1

    @property
    def moving(self) -> bool:
        """Whether it was set to move and not paused since."""
        return self._since_s is not None

    @property
    def playing(self) -> bool:
        """Whether it moves; false once it is at the end."""
        return self.moving and self.place < self.steps

    @property
    def place(self) -> float:
        """Steps that have ended by now, and the fraction of the next one that has passed."""
        if self._since_s is None:
            return self._place
        passed_s = self._now_s() - self._since_s
        if self._speed == STEPWISE:
            return min(self._place + passed_s, self.steps)
        return self._at_ns(self._ns(self._place) + passed_s * self._speed * _NS)

    @property
    def at_ns(self) -> float:
        """The run's own time by now."""
        return self._ns(self.place)

    @property
    def next_ns(self) -> int:
        """When the step under way ends, in the run's own time."""
        return int(self._ends_ns[min(int(self.place) + 1, self.steps)])

    @property
    def end_ns(self) -> int:
        """Of the run."""
        return int(self._ends_ns[-1])

    @property
    def pace(self) -> float:
        """Seconds of the run that pass in a second, now; 0 where it stands."""
        if not self.playing:
            return 0.0
        if self._speed != STEPWISE:
            return self._speed
        at = int(self.place)
        return float(self._ends_ns[at + 1] - self._ends_ns[at]) / _NS

    def wait_s(self) -> float | None:
        """Until the step under way ends, 0 at the end until it is paused; None where it stands.

        At the end it still has to be drawn, by whoever asked a moment before it got there.
        """
        if not self.moving:
            return None
        place = self.place
        if place >= self.steps:
            return 0.0
        if self._speed == STEPWISE:
            return int(place) + 1 - place
        left_ns = float(self._ends_ns[min(int(place) + 1, self.steps)]) - self._ns(place)
        return max(left_ns, 0.0) / (self._speed * _NS)

    def follow(self, ends_ns: Ints) -> None:
        """Of a run whose steps ended then (ascending ns): the place stays, in steps."""
        ends_ns = np.concatenate((np.zeros(1, dtype=np.int64), ends_ns))
        if not np.array_equal(ends_ns, self._ends_ns):
            self._anchor()
            self._ends_ns = ends_ns
            self._place = min(self._place, self.steps)

    def move(self, place: float) -> None:
        """Be somewhere else; goes on from there where it moves."""
        self._place = min(max(place, 0), self.steps)
        self._anchor(self._place)

    def play(self, speed: float | None = None) -> None:
        """Move from here on, from the start where it is at the end; None: as fast as before."""
        self._anchor()
        if speed is not None:
            self._speed = speed
        if self._place >= self.steps:
            self._place = 0.0
        self._since_s = self._now_s()

    def set_speed(self, speed: float) -> None:
        """From here on that fast: times of the run, or :data:`STEPWISE`."""
        self._anchor()
        self._speed = speed

    def pause(self) -> None:
        """Stand still here."""
        self._anchor()
        self._since_s = None

    def _anchor(self, place: float | None = None) -> None:
        """Count from now on."""
        self._place = self.place if place is None else place
        if self._since_s is not None:
            self._since_s = self._now_s()

    def _ns(self, place: float) -> float:
        return float(np.interp(place, np.arange(len(self._ends_ns)), self._ends_ns))

    def _at_ns(self, ns: float) -> float:
        """The place at a time; a step that has ended by then counts as a whole one."""
        ended = int(np.searchsorted(self._ends_ns, ns, side="right")) - 1
        if ended >= self.steps:
            return float(self.steps)
        begun, end = (float(self._ends_ns[at]) for at in (ended, ended + 1))
        return ended + min((ns - begun) / (end - begun), 1 - 1e-9)
