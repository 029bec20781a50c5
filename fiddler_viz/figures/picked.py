"""What the reader picked, drawn over a figure: a frame around cells, a band and frames over time.

:func:`add_cells_mark` and :func:`add_time_marks` append traces to a built figure, which
:func:`mark_cells` and :func:`mark_time` then change in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from engine.events import Lane
from fiddler_viz.figures.base import trace
from fiddler_viz.figures.outline import cell_outlines
from fiddler_viz.figures.window import Window
from fiddler_viz.frames import Segments
from fiddler_viz.theme import VERMILLION

_S = 1e-9
_TOP, _BOTTOM = -0.86, len(Lane) - 0.5
_TALL = 0.43
"""Of a frame around a bar, to either side of its lane's middle."""


def add_cells_mark(figure: go.Figure) -> None:
    """Room for the frame around the heatmap's picked cells, on a white halo."""
    figure.add_traces([_line("#fff", 5), _line(VERMILLION, 2.5)])


def mark_cells(figure: Any, picked: NDArray[np.bool_]) -> None:
    """Frame the picked cells of a mask ``(layers, experts)``, with the figure's last two traces.

    A whole layer has one frame: around each of 128 small cells it would hide them.
    """
    whole = picked.all(axis=1, keepdims=True)
    x, y = cell_outlines(picked & ~whole, inset=-0.04)
    rows_x, rows_y = cell_outlines(whole, inset=-0.04)
    experts = picked.shape[1]
    wide = np.where(rows_x > 0, rows_x + experts - 1, rows_x)
    x, y = np.concatenate((x, wide)), np.concatenate((y, rows_y))
    for frame in list(figure.data)[-2:]:
        frame.update(x=x, y=y)


def add_time_marks(figure: go.Figure) -> None:
    """Room for the band of a step and the frames around an expert's bars."""
    band = _line(VERMILLION, 1.5) | {"fill": "toself", "fillcolor": "rgba(213,94,0,0.10)"}
    figure.add_traces([band, _line(VERMILLION, 2)])


def mark_time(
    figure: Any, view: Window, span: tuple[int, int] | None, layer: int | None, expert: int | None
) -> None:
    """Shade the time of a step, and frame the bars of a layer's experts (None: all of them).

    The last two traces of the figure are theirs. A step that fills the view is not shaded; of a
    raster nothing is framed.
    """
    band, frames = list(figure.data)[-2:]
    aside = span is None or span[1] <= view.start_ns or span[0] >= view.end_ns
    if span is None or aside or (span[0] <= view.start_ns and span[1] >= view.end_ns):
        band.update(x=[], y=[])
    else:
        start, end = (float(edge) * _S for edge in span)
        band.update(x=[start, start, end, end, start], y=[_TOP, _BOTTOM, _BOTTOM, _TOP, _TOP])
    shown = view.segments
    chosen = np.zeros(0, np.int64)
    if layer is not None and view.as_bars:
        chosen = np.flatnonzero(_of(shown, layer, expert))
    left, right = shown.start_ns[chosen] * _S, shown.end_ns[chosen] * _S
    low, high = shown.lane[chosen] - _TALL, shown.lane[chosen] + _TALL
    gap = np.full(len(chosen), np.nan)
    frames.update(
        x=np.stack([left, left, right, right, left, gap], axis=1).ravel(),
        y=np.stack([low, high, high, low, low, gap], axis=1).ravel(),
    )


def _of(shown: Segments, layer: int, expert: int | None) -> NDArray[np.bool_]:
    """Which stretches are an expert's work, or its weights' and activations' way."""
    mine = (shown.layer == layer) & (shown.expert >= 0)
    return mine if expert is None else mine & (shown.expert == expert)


def _line(color: str, width: float) -> dict[str, Any]:
    return trace(
        "scatter",
        x=[],
        y=[],
        mode="lines",
        line={"color": color, "width": width},
        hoverinfo="skip",
        showlegend=False,
    )
