"""What the timeline draws: all that can be seen of a trace between two times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.critical_path import on_path
from engine.errors import InputError
from engine.events import WORK, Clock, Lane, columns, empty
from engine.lane_times import Gaps, LaneTimes, idle_gaps, lane_times, union
from engine.strict import whole
from engine.trace import Trace
from engine.tracks import Tracks
from fiddler_viz.figures.raster import Shares, occupancy
from fiddler_viz.figures.step_labels import StepLabels
from fiddler_viz.frames import Ints, Segments, pick_step, segments
from fiddler_viz.theme import Segment

BARS_UP_TO = 500
"""Segments in view that are still drawn as bars of their own."""
PIXELS = 1200
MOST_NS = 2**61
"""Of times that are asked for, 73 years: further off, sums of two do not fit in 64 bits."""
LARGE_LAYERS = 2000
"""Layers of steps in view, some 20,000 segments, from which on a trace is sorted once for all."""
_NOTHING_NS = 1_000_000_000
"""Length of a window in which nothing happened yet."""
_MOST_STEPS = 60
"""Steps in view whose borders can still be told apart."""
_LABEL_FROM = 0.08
"""Share of the width that a step needs for its label."""
_LANES, _KINDS = len(Lane), len(Segment)


@dataclass(frozen=True)
class Window:
    """A stretch of time, and what can be seen in it."""

    start_ns: int
    end_ns: int
    pieces: int
    """Segments in view."""
    segments: Segments
    """These; left out of large windows, which never draw them one by one."""
    shares: Shares
    """Busy shares per pixel, ``(lanes, kinds, pixels)``: :func:`raster.occupancy`."""
    path_shares: Shares
    """Share of each pixel's time that the critical path was on a lane, ``(lanes, pixels)``."""
    times: LaneTimes
    gaps: Gaps
    """Where lanes wait, of windows drawn as bars."""
    clock: Clock
    step_start_ns: Ints
    """Starts of the steps in view; empty where there are too many to be told apart."""
    step_labels: tuple[str, ...]
    """Raw text, one per start; empty strings where there is no room."""

    @property
    def as_bars(self) -> bool:
        """Whether segments are few enough for bars."""
        return self.pieces <= BARS_UP_TO

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in view."""
        return not self.pieces

    def busy(self, lane: Lane) -> float:
        """Share of the window that a lane was busy, 0..1."""
        return float(self.shares[lane].sum(axis=0).mean())


class Windows:
    """Windows of one trace. What large ones need is worked out once, a second for a million rows.

    ``growing``: the trace is of a run under way, so nothing is worked out for later, and large
    windows are without the critical path.
    """

    def __init__(self, trace: Trace, *, growing: bool = False) -> None:
        self.trace = trace
        self._growing = growing

    def __repr__(self) -> str:
        return f"Windows({self.trace!r})"

    def large(self, start_ns: int, end_ns: int) -> bool:
        """Whether so much was done between two times that one of a growing run has no path."""
        return self._is_large(*self._steps(start_ns, end_ns))

    def _is_large(self, first: int, stop: int) -> bool:
        return (stop - first) * self.trace.model.layers > LARGE_LAYERS

    def _steps(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        steps = self.trace.steps
        first = int(np.searchsorted(steps["end_ns"], start_ns, side="right"))
        return first, max(int(np.searchsorted(steps["start_ns"], end_ns)), first)

    def at(
        self, start_ns: int, end_ns: int, *, pixels: int = PIXELS, quick: bool = False
    ) -> Window:
        """The window between two times; ``quick``: a large one without what it would wait for."""
        trace = self.trace
        steps = trace.steps
        if end_ns <= start_ns:
            end_ns = start_ns + _NOTHING_NS
        first, stop = self._steps(start_ns, end_ns)
        large = self._is_large(first, stop)
        waits = quick or self._growing
        if large and ("_large" in vars(self) or not waits):
            return self._of_tracks(start_ns, end_ns, pixels)
        work = columns(trace.happened.window(first, stop)[0], WORK)
        return live_window(
            segments(work, None if large else on_path(trace, work)),
            start_ns=start_ns,
            end_ns=end_ns,
            clock=trace.clock,
            step_start_ns=steps["start_ns"],
            step_labels=StepLabels(trace),
            pixels=pixels,
        )

    @cached_property
    def _large(self) -> Tracks:
        """A track for each kind of work on each lane, for the path on each lane, and for any."""
        trace = self.trace
        work = columns(trace.happened.window(0, len(trace.step_rows))[0], WORK)
        every = segments(work, on_path(trace, work))
        path = every.critical
        merged = union(every.start_ns, every.end_ns)
        groups = (
            every.lane * _KINDS + every.kind,
            _LANES * _KINDS + every.lane[path],
            np.full(len(merged[0]), _LANES * (_KINDS + 1)),
        )
        start = np.concatenate([every.start_ns, every.start_ns[path], merged[0]])
        end = np.concatenate([every.end_ns, every.end_ns[path], merged[1]])
        return Tracks.of(np.concatenate(groups), start, end, _LANES * (_KINDS + 1) + 1)

    def _of_tracks(self, start_ns: int, end_ns: int, pixels: int) -> Window:
        tracks, many = self._large, _LANES * _KINDS
        width = (end_ns - start_ns) / pixels
        covered = tracks.until(np.linspace(start_ns, end_ns, pixels + 1))
        shares = np.diff(covered, axis=1) / width
        spent = np.rint(covered[:, -1] - covered[:, 0]).astype(np.int64)
        busy = spent[:many].reshape(_LANES, _KINDS).sum(axis=1)
        critical = spent[many : many + _LANES]
        times = LaneTimes(
            start_ns, end_ns, tuple(busy.tolist()), tuple(critical.tolist()), int(spent[-1])
        )
        labels = steps_in_view(
            self.trace.steps["start_ns"], StepLabels(self.trace), start_ns, end_ns
        )
        return Window(
            start_ns,
            end_ns,
            tracks.crossing(start_ns, end_ns, many),
            segments(columns(empty(WORK), WORK)),
            shares[:many].reshape(_LANES, _KINDS, pixels),
            shares[many : many + _LANES],
            times,
            Gaps.none(),
            self.trace.clock,
            *labels,
        )


def window(
    trace: Trace,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    step: int | None = None,
    pixels: int = PIXELS,
) -> Window:
    """The window of a trace between two times, or of one step; left out: all of it.

    Raises InputError for times and steps that cannot be.
    """
    if step is not None:
        step = pick_step(trace, step)
        start_ns, end_ns = (int(trace.steps[name][step]) for name in ("start_ns", "end_ns"))
    return Windows(trace).at(*between(trace, start_ns, end_ns), pixels=pixels)


def between(trace: Trace, start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
    """Two times in ns that a caller gave; left out: the run's begin and end.

    Raises InputError for what is no time.
    """
    start_ns = 0 if start_ns is None else whole("start_ns", start_ns, least=-MOST_NS)
    end_ns = trace.duration_ns if end_ns is None else whole("end_ns", end_ns, least=-MOST_NS)
    if max(start_ns, end_ns) > MOST_NS:
        raise InputError(
            f"start_ns={start_ns}, end_ns={end_ns}: expected nanoseconds up to {MOST_NS}; this run "
            f"took {trace.duration_ns}"
        )
    return start_ns, end_ns


def live_window(
    every: Segments,
    *,
    start_ns: int,
    end_ns: int,
    clock: Clock,
    step_start_ns: Ints | None = None,
    step_labels: Sequence[str] | None = None,
    pixels: int = PIXELS,
) -> Window:
    """The window of segments at hand; labels are raw text."""
    if end_ns <= start_ns:
        end_ns = start_ns + _NOTHING_NS
    seen = every.within(start_ns, end_ns)
    starts = np.zeros(0, np.int64) if step_start_ns is None else step_start_ns
    work, path = (
        {name: getattr(seen, name) for name in ("lane", "start_ns", "end_ns")},
        seen.critical,
    )
    path_shares = occupancy(seen.where(path), start_ns, end_ns, pixels).sum(axis=1)
    gaps = Gaps.none()
    if 0 < len(seen) <= BARS_UP_TO:
        gaps = idle_gaps(work, path, start_ns, end_ns)
    return Window(
        start_ns,
        end_ns,
        len(seen),
        seen,
        occupancy(seen, start_ns, end_ns, pixels),
        path_shares,
        lane_times(work, path, start_ns, end_ns),
        gaps,
        clock,
        *steps_in_view(starts, step_labels, start_ns, end_ns),
    )


def steps_in_view(
    starts: Ints, labels: Sequence[str] | None, start_ns: int, end_ns: int
) -> tuple[Ints, tuple[str, ...]]:
    """Starts of the steps in view and their labels, empty where there is no room."""
    inside = np.flatnonzero((starts >= start_ns) & (starts < end_ns))
    if len(inside) > _MOST_STEPS:
        inside = inside[:0]
    room = np.diff(np.r_[starts[inside], end_ns]) / (end_ns - start_ns)
    return starts[inside], tuple(
        labels[i] if labels is not None and wide >= _LABEL_FROM else ""
        for i, wide in zip(inside.tolist(), room.tolist(), strict=True)
    )
