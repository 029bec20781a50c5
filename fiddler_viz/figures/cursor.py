"""A line across the timeline: where the run is in play."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from fiddler_viz.theme import Theme

_S = 1e-9
_NAME = "cursor"


def add_cursor(figure: go.Figure, look: Theme) -> None:
    """Room for the line in a built timeline; not to be seen yet."""
    figure.add_shape(
        type="line",
        name=_NAME,
        xref="x",
        yref="paper",
        x0=0,
        x1=0,
        y0=0,
        y1=1,
        line={"color": look.text, "width": 2},
        visible=False,
    )


def move_cursor(figure: Any, at_ns: int | None) -> None:
    """Put the line at a time of the run; None: nothing is in play."""
    shapes = figure.layout.shapes
    for number in range(len(shapes)):
        if shapes[number].name == _NAME:
            shapes[number].update(x0=(at_ns or 0) * _S, x1=(at_ns or 0) * _S)
            shapes[number].visible = at_ns is not None
