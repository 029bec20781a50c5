"""Four lanes over time: what computed, what copied, what waited.

Far out the lanes are a raster (how busy each was, pixel by pixel, exact for any number of
segments); with few segments in view they are real bars with hover texts. The x axis is in seconds
and writes its ticks in the unit that fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.events import Lane
from fiddler_viz.figures.base import (
    EMPTY,
    axis_style,
    legend_style,
    new_figure,
    note,
    sizes,
    title_of,
    trace,
)
from fiddler_viz.figures.raster import data_uri, paint, palette, png
from fiddler_viz.figures.timeline_words import CLOCKS, LOOK_FOR, finding, gap_texts, hover_texts
from fiddler_viz.figures.window import Window
from fiddler_viz.theme import (
    IDLE,
    LANES,
    PATH,
    SEGMENTS,
    Kind,
    Segment,
    Theme,
    percent,
    safe,
    theme,
)

__all__ = ["BARS", "CLOCKS", "GAPS", "LINE", "LOOK_FOR", "timeline_figure", "update_timeline"]

_MARGIN = {"l": 78, "r": 16, "t": 54, "b": 84}
_LOW_PX = 200
_S = 1e-9
_HOVER, _STEPS, _LABELS, BARS = 0, 1, 2, 3
"""Where each trace is in ``figure.data``; one bar trace per :class:`Segment` follows ``BARS``."""
GAPS = BARS + len(Segment)
LINE = GAPS + 1
"""The critical path, under the bars."""
_HOPS_UP_TO = 40
"""Pieces of the path up to which its way from lane to lane is drawn too."""
_UNDER = 0.45
"""From a lane's middle to the line under it."""
_HOVER_COLUMNS = 240


def timeline_figure(
    view: Window,
    look: str | Theme = "light",
    *,
    width: int | None = None,
    height: int | None = None,
    legend: bool = True,
) -> go.Figure:
    """The timeline of a window. Sizes in CSS pixels; without ``width`` it fills its container.

    ``legend``: as for :func:`~fiddler_viz.figures.heatmap.heatmap_figure`.
    """
    look = theme(look)
    width, height = sizes(width, height, usual=340)
    seconds = {
        "ticksuffix": "s",
        "tickformat": ".6~s",
        "nticks": 9,
        "showgrid": True,
        "ticks": "outside",
    }
    lanes = {
        "range": [len(Lane) - 0.5, -1.4 if _low(height) else -0.86],
        "tickvals": list(range(len(Lane))),
        "ticktext": [LANES[lane][0] for lane in Lane],
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
    }
    figure = new_figure(
        look,
        width=width,
        height=height,
        margin=_MARGIN,
        xaxis=axis_style(look) | seconds,
        yaxis=axis_style(look) | lanes,
        barmode="overlay",
        bargap=0,
        dragmode="pan",
        annotations=[note(look, EMPTY)],
        shapes=[_track(lane, look) for lane in Lane],
        images=[{"xref": "x", "yref": "y", "sizing": "stretch", "layer": "above", "source": ""}],
        legend=legend_style(),
        showlegend=None if legend else False,
    )
    figure.add_traces(_traces(look, legend=legend))
    update_timeline(figure, view, look)
    return figure


def _track(lane: Lane, look: Theme) -> dict[str, Any]:
    """The room of a lane, so that idle time can be seen."""
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": lane - 0.4,
        "y1": lane + 0.4,
        "layer": "below",
        "line": {"width": 0},
        "fillcolor": look.empty,
    }


def _traces(look: Theme, *, legend: bool) -> list[dict[str, Any]]:
    hover = trace(
        "heatmap",
        opacity=0,
        showscale=False,
        zmin=0,
        zmax=1,
        customdata=[[lane] for lane in Lane],
        hovertemplate="%{x}: busy %{z:.0%}<extra></extra>",
    )
    steps = trace(
        "scatter",
        mode="lines",
        line={"color": look.rule, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    labels = trace(
        "scatter",
        mode="text",
        textposition="middle right",
        textfont={"size": 11, "color": look.muted},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=True,
    )
    kinds = list(SEGMENTS.values())
    bars = [_bar(kind) for kind in (*kinds, IDLE)]
    made = [hover, steps, labels, *bars, _line()]
    if legend:
        made += [*(_bar(kind, legend=True) for kind in (*kinds, IDLE)), _line(legend=True)]
    return made


def _line(*, legend: bool = False) -> dict[str, Any]:
    return trace(
        "scatter",
        name=PATH.label,
        legendgroup=PATH.label,
        showlegend=legend,
        x=[None] if legend else [],
        y=[None] if legend else [],
        mode="lines",
        line={"color": PATH.color, "width": 3, "shape": "vh"},
        hoverinfo="skip",
    )


def _bar(kind: Kind, *, legend: bool = False) -> dict[str, Any]:
    ground = kind is not IDLE
    return trace(
        "bar",
        name=kind.label,
        legendgroup=kind.label,
        showlegend=legend,
        orientation="h",
        x=[None] if legend else [],
        y=[None] if legend else [],
        width=None if legend else 0.8,
        hoverinfo="text",
        textposition="none",
        marker={
            "color": kind.color if ground else "rgba(0,0,0,0)",
            "line": {"width": 0},
            "pattern": {
                "shape": kind.pattern,
                "fillmode": "overlay",
                "fgcolor": "#fff" if ground else kind.color,
                "fgopacity": 0.4 if ground else 0.45,
                "size": 8,
                "solidity": 0.2 if ground else 0.12,
            },
        },
    )


def _low(height: Any) -> bool:
    """Whether a lane has room for one line of text, not for two."""
    return isinstance(height, int | float) and height < _LOW_PX


def update_timeline(
    figure: go.Figure, view: Window, look: str | Theme = "light", *, move: bool = True
) -> None:
    """Show another window in a figure of :func:`timeline_figure`, in place.

    ``move=False`` leaves the x axis where the reader has put it.
    """
    look = theme(look)
    with figure.batch_update():
        _update_raster(figure, view)
        _update_bars(figure, view)
        starts = view.step_start_ns * _S
        gap = np.full(len(starts), np.nan)
        low, top = _low(figure.layout.height), float(figure.layout.yaxis.range[1])
        figure.data[_STEPS].update(
            x=np.stack([starts, starts, gap], axis=1).ravel(),
            y=np.tile(np.array([top, len(Lane) - 0.5, np.nan], np.float32), len(starts)),
        )
        figure.data[_LABELS].update(
            x=starts,
            y=np.full(len(starts), (top - 0.5) / 2, np.float32),
            text=[f" {safe(label)}" for label in view.step_labels],
        )
        figure.layout.yaxis.ticktext = [
            f"<b>{LANES[lane][0]}</b>{' ' if low else '<br>'}{percent(view.busy(lane))}"
            f"{'' if low else ' busy'}"
            for lane in Lane
        ]
        figure.layout.title = title_of(look, "Timeline", CLOCKS[view.clock], safe(finding(view)))
        figure.layout.annotations[0].visible = view.is_empty
        if move:
            figure.layout.xaxis.range = [view.start_ns * _S, view.end_ns * _S]


def _update_raster(figure: go.Figure, view: Window) -> None:
    lanes, _, pixels = view.shares.shape
    image, hover = figure.layout.images[0], figure.data[_HOVER]
    if view.as_bars:
        image.visible = False
        hover.z = None
        return
    start, wide = view.start_ns * _S, (view.end_ns - view.start_ns) * _S
    image.update(
        source=data_uri(png(paint(view.shares, view.path_shares), palette())),
        x=start,
        y=-0.5,
        sizex=wide,
        sizey=lanes,
        visible=True,
    )
    columns = min(_HOVER_COLUMNS, pixels)
    busy = view.shares.sum(axis=1)[:, : pixels - pixels % columns]
    busy = busy.reshape(lanes, columns, -1).mean(axis=2)
    hover.update(z=np.round(busy, 3), x0=start + wide / columns / 2, dx=wide / columns)


def _update_bars(figure: go.Figure, view: Window) -> None:
    shown, gaps = view.segments, view.gaps
    for segment in Segment:
        chosen = np.flatnonzero(shown.kind == segment) if view.as_bars else np.zeros(0, np.int64)
        if not len(chosen) and not len(figure.data[BARS + segment].x):
            continue
        figure.data[BARS + segment].update(
            base=shown.start_ns[chosen] * _S,
            x=(shown.end_ns - shown.start_ns)[chosen] * _S,
            y=shown.lane[chosen].astype(np.int16),
            hovertext=hover_texts(shown, chosen.tolist()),
        )
    if len(gaps) or len(figure.data[GAPS].x):
        figure.data[GAPS].update(
            base=gaps.start_ns * _S,
            x=(gaps.end_ns - gaps.start_ns) * _S,
            y=gaps.lane.astype(np.int16),
            hovertext=gap_texts(gaps),
        )
    _update_line(figure.data[LINE], view)


def _update_line(line: Any, view: Window) -> None:
    """The critical path: along what it is on, and up or down where it goes to another lane."""
    shown = view.segments
    path = np.flatnonzero(shown.critical) if view.as_bars else np.zeros(0, np.int64)
    path = path[np.lexsort((shown.end_ns[path], shown.start_ns[path]))]
    if not len(path) and not len(line.x):
        return
    start, end = shown.start_ns[path], shown.end_ns[path]
    under = shown.lane[path] + _UNDER
    # Few pieces are one line, also from lane to lane; where nobody worked the pen is lifted.
    goes_on = np.append((start[1:] <= end[:-1]) & (len(path) <= _HOPS_UP_TO), False)
    lift = np.where(goes_on, end * _S, np.nan)
    line.update(
        x=np.stack([start * _S, end * _S, lift], axis=1).ravel(),
        y=np.repeat(under, 3),
    )
