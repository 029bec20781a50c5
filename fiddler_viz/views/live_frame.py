"""What panels show of a run under way, small enough for ten frames a second beside an engine.

A whole drawing (:meth:`fiddler_viz.views.screen.Screen.draw`) compares and sends all of a figure
and lets plotly lay it out anew: ten milliseconds of the engine's time and a hundred of the
browser's. Between two of them a frame carries arrays, and ``live_frame.js`` paints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.events import WORK, Lane, columns
from engine.trace import Trace
from fiddler_viz.figures.heatmap import FEW_CELLS, TRACES, aside, is_dark
from fiddler_viz.figures.heatmap_words import scale
from fiddler_viz.figures.step_labels import StepLabels
from fiddler_viz.figures.window import steps_in_view
from fiddler_viz.frames import Grid, segments
from fiddler_viz.theme import LANES, SEGMENTS, Segment, Theme

MOST_SEGMENTS = 20_000
"""In view: of more a frame would take as long as a drawing."""
_S = 1e-9


@dataclass(frozen=True)
class LiveFrame:
    """What one panel's painter takes."""

    content: dict[str, Any]
    buffers: Sequence[bytes] = field(default_factory=list)


def heatmap_look(beat: str, cells: int) -> dict[str, Any]:
    """What the heatmap's painter needs once; ``beat``: the model that frames come through."""
    few = cells <= FEW_CELLS
    return {"panel": "heatmap", "beat": beat, "few": few, "aside": aside(cells), **TRACES}


def heatmap_frame(grid: Grid, theme: Theme) -> LiveFrame:
    """Amounts, places, what ran, which colours are dark, and dots, of all cells; the labels of the
    colour scale."""
    buffers = [
        grid.amount.astype(np.float32).tobytes(),
        grid.places.astype(np.uint8).tobytes(),
        grid.ran.astype(np.int8).tobytes(),
        is_dark(grid, theme).astype(np.uint8).tobytes(),
    ]
    if grid.coloured.dots is not None:
        buffers.append(grid.coloured.dots.astype(np.uint8).tobytes())
    return LiveFrame({"shape": list(grid.shape), "labels": scale(grid)[1]}, buffers)


def timeline_look(beat: str, theme: Theme) -> dict[str, Any]:
    """What the timeline's painter needs once."""
    return {
        "panel": "timeline",
        "beat": beat,
        "kinds": [
            {"color": SEGMENTS[kind].color, "pattern": SEGMENTS[kind].pattern} for kind in Segment
        ],
        "lanes": [LANES[lane][0] for lane in Lane],
        "panel_color": theme.panel,
        "empty": theme.empty,
        "rule": theme.rule,
        "muted": theme.muted,
    }


def timeline_frame(trace: Trace, start_ns: int, end_ns: int) -> LiveFrame | None:
    """The stretches of lanes between two times; None where there are too many for a frame."""
    steps = trace.steps
    first = int(np.searchsorted(steps["end_ns"], start_ns, side="right"))
    stop = max(int(np.searchsorted(steps["start_ns"], end_ns)), first)
    work = trace.happened.window(first, stop)[0]
    if not 0 < len(work) <= MOST_SEGMENTS or end_ns <= start_ns:
        return None
    shown = segments(columns(work, WORK))
    starts, labels = steps_in_view(steps["start_ns"], StepLabels(trace), start_ns, end_ns)
    return LiveFrame(
        {
            "start_s": start_ns * _S,
            "end_s": end_ns * _S,
            "steps": list(zip((starts * _S).tolist(), labels, strict=True)),
        },
        [
            ((shown.lane << 4) | shown.kind).astype(np.uint8).tobytes(),
            *(
                ((edge - start_ns) / (end_ns - start_ns)).astype(np.float32).tobytes()
                for edge in (shown.start_ns, shown.end_ns)
            ),
        ],
    )
