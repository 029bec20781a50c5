"""What the timeline draws: all that can be seen of a trace between two times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.events import WORK, Clock, Lane, StepKind, columns
from engine.trace import Trace
from fiddler_viz.figures.raster import Shares, occupancy
from fiddler_viz.frames import Ints, Segments, pick_step, segments
from fiddler_viz.theme import count, show_token

BARS_UP_TO = 500
"""Segments in view that are still drawn as bars of their own."""
PIXELS = 1200
_NOTHING_NS = 1_000_000_000
"""Length of a window in which nothing happened yet."""
_MOST_STEPS = 60
"""Steps in view whose borders can still be told apart."""
_LABEL_FROM = 0.08
"""Share of the width that a step needs for its label."""


@dataclass(frozen=True)
class Window:
    """A stretch of time, and what can be seen in it."""

    start_ns: int
    end_ns: int
    segments: Segments
    """Only those in view."""
    shares: Shares
    """Busy shares per pixel, ``(lanes, kinds, pixels)``: :func:`raster.occupancy`."""
    clock: Clock
    step_start_ns: Ints
    """Starts of the steps in view; empty where there are too many to be told apart."""
    step_labels: tuple[str, ...]
    """Raw text, one per start; empty strings where there is no room."""

    @property
    def as_bars(self) -> bool:
        """Whether segments are few enough for bars."""
        return len(self.segments) <= BARS_UP_TO

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in view."""
        return not len(self.segments)

    def busy(self, lane: Lane) -> float:
        """Share of the window that a lane was busy, 0..1."""
        return float(self.shares[lane].sum(axis=0).mean())


def window(
    trace: Trace,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    step: int | None = None,
    pixels: int = PIXELS,
) -> Window:
    """The window of a trace between two times, or of one step; left out: all of it."""
    steps = trace.steps
    if step is not None:
        step = pick_step(trace, step)
        start_ns, end_ns = int(steps["start_ns"][step]), int(steps["end_ns"][step])
    start_ns = 0 if start_ns is None else start_ns
    end_ns = trace.duration_ns if end_ns is None else end_ns
    first = int(np.searchsorted(steps["end_ns"], start_ns, side="right"))
    stop = int(np.searchsorted(steps["start_ns"], end_ns))
    work, _ = trace.happened.window(first, max(stop, first))
    return live_window(
        segments(columns(work, WORK)),
        start_ns=start_ns,
        end_ns=end_ns,
        clock=trace.clock,
        step_start_ns=steps["start_ns"],
        step_labels=_Labels(trace),
        pixels=pixels,
    )


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
    """The window of segments that a viewer has gathered itself; labels are raw text."""
    if end_ns <= start_ns:
        end_ns = start_ns + _NOTHING_NS
    seen = every.within(start_ns, end_ns)
    starts = np.zeros(0, np.int64) if step_start_ns is None else step_start_ns
    inside = np.flatnonzero((starts >= start_ns) & (starts < end_ns))
    if len(inside) > _MOST_STEPS:
        inside = inside[:0]
    room = np.diff(np.r_[starts[inside], end_ns]) / (end_ns - start_ns)
    labels = tuple(
        step_labels[i] if step_labels is not None and wide >= _LABEL_FROM else ""
        for i, wide in zip(inside.tolist(), room.tolist(), strict=True)
    )
    shares = occupancy(seen, start_ns, end_ns, pixels)
    return Window(start_ns, end_ns, seen, shares, clock, starts[inside], labels)


class _Labels(Sequence[str]):
    """The steps of a trace in a word or two each, made when asked for: few are ever in view."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.step_rows)

    def __getitem__(self, step: int) -> str:  # type: ignore[override]  # no slices needed
        return step_label(self._trace, step)


def step_label(trace: Trace, step: int) -> str:
    """A step in a word or two; raw text."""
    steps = trace.steps
    if steps["kind"][step] == StepKind.PREFILL:
        return f"prefill, {count(int(steps['tokens'][step]), 'token')}"
    token = int(steps["token"][step])
    if trace.texts and 0 <= token < len(trace.texts):
        return f"“{show_token(trace.texts[token], 12).strip()}”"
    return f"step {step}"
