"""Two plans side by side: the same steps under both on one time axis, and their figures.

:func:`plans` is the one line; :func:`plans_figure` draws an :class:`engine.comparison.Comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.comparison import Comparison, compare_plans
from engine.errors import InputError
from engine.events import Lane
from engine.replay import replay
from engine.strict import check_changes
from engine.trace import Trace
from engine.units import format_ns
from fiddler_viz.figures.base import axis_style, legend_style, sizes
from fiddler_viz.figures.lines import titled
from fiddler_viz.figures.plans_words import CLOCKS, differing, rows_of
from fiddler_viz.figures.raster import data_uri, paint, palette, png
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.timeline_words import hover_texts
from fiddler_viz.figures.window import Window, window
from fiddler_viz.frames import describe_selection, pick_step
from fiddler_viz.theme import LANES, SEGMENTS, Segment, Theme, percent, safe, theme

_PIXELS = 2400
_PITCH = len(Lane) + 1.2
"""From a lane of A to the same of B, in lanes: their own, and room for B's heading."""
_MARGIN = {"l": 78, "r": 16, "b": 84}
_HEAD_PX, _ROW_PX = 30, 23
"""Heights of the table of figures: its head, and each row."""
_GAP_PX = 14
_S = 1e-9
_CHANGES = tuple(name for name in signature(replay).parameters if name != "trace")
"""What can be changed in a plan, by name."""


def plans(
    source: Any,
    a: Mapping[str, Any] | None = None,
    b: Mapping[str, Any] | None = None,
    *,
    step: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Two plans for the same run, one above the other on one time axis, and their figures.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. ``a`` and ``b``:
    what is changed in each, by the names of :func:`engine.replay.replay`'s arguments; left out: as
    it ran. ``step``: one step only, else all of them. Sizes in CSS pixels. Raises InputError for
    what is no such change, and what a replay raises.
    """
    found = comparison(source, a, b)
    return plans_figure(found, theme, step=step, width=width, height=height)


def comparison(
    source: Any, a: Mapping[str, Any] | None = None, b: Mapping[str, Any] | None = None
) -> Comparison:
    """What :func:`plans` draws, as numbers. The arguments are its."""
    trace = as_trace(source)
    first, second = (
        replay(trace, **check_changes(name, changes, _CHANGES)).trace
        for name, changes in (("a", a), ("b", b))
    )
    return compare_plans(first, second)


def plans_figure(
    found: Comparison,
    look: str | Theme = "light",
    *,
    step: int | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The figure of a comparison. Sizes in CSS pixels; without ``width`` it fills its container."""
    look = theme(look)
    width, height = sizes(width, height, usual=620)
    views = {"A": _stretch(found.a, step), "B": _stretch(found.b, step)}
    longest = max(view.end_ns - view.start_ns for view in views.values())
    title = "Two plans, the same run"
    if step is not None:
        number = pick_step(found.a, step)
        title = f"Two plans: {describe_selection(found.a, token=None, step=number)}"
    figure = titled(look, title, differing(found), width=width, height=height, margin=_MARGIN)
    inside = height - figure.layout.margin.t - _MARGIN["b"]
    needed = _HEAD_PX + _ROW_PX * len(found.figures) + 3
    if inside < needed:
        raise InputError(
            "height (CSS pixels): two plans and their table take at least "
            f"{height + needed - inside}, got {height}"
        )
    table = needed / inside
    figure.add_trace(_table(found, look, 1 - table))
    as_bars = all(view.as_bars for view in views.values())
    for segment in Segment if as_bars else ():
        figure.add_trace(_bars(list(views.values()), segment))
    figure.add_traces([_legend(segment) for segment in Segment])
    figure.update_xaxes(
        **axis_style(look),
        domain=[0, 1],
        range=[0, longest * _S * 1.01],
        ticksuffix="s",
        tickformat=".6~s",
        nticks=9,
        showgrid=True,
        ticks="outside",
        title={"text": "time from the start of the steps", "standoff": 4, "font": {"size": 12}},
    )
    rows = [(plan, lane) for plan in views for lane in Lane]
    figure.update_yaxes(
        **axis_style(look),
        domain=[0, max(1 - table - _GAP_PX / inside, 0.2)],
        range=[_at("B", len(Lane) - 0.4), -1.05],
        tickvals=[_at(plan, lane) for plan, lane in rows],
        ticktext=[
            f"<b>{LANES[lane][0]}</b> {percent(views[plan].busy(lane))}" for plan, lane in rows
        ],
        showgrid=False,
        ticks="",
    )
    traces = {"A": found.a, "B": found.b}
    figure.update_layout(
        barmode="overlay",
        bargap=0,
        dragmode="pan",
        legend=legend_style(),
        shapes=[_track(plan, lane, views[plan], look) for plan, lane in rows],
        images=[] if as_bars else [_image(plan, view) for plan, view in views.items()],
        annotations=[_heading(plan, traces[plan], view, look) for plan, view in views.items()],
    )
    return figure


def _stretch(trace: Trace, step: int | None) -> Window:
    return window(trace, step=step, pixels=_PIXELS)


def _at(plan: str, lane: float) -> float:
    return lane + (_PITCH if plan == "B" else 0.0)


def _table(found: Comparison, look: Theme, below: float) -> go.Table:
    """A line for each figure, in the room above ``below`` (a share of the height)."""
    names, a, b, between = rows_of(found)
    line = {"color": look.rule, "width": 1}
    head = ["", "A", "B", "B − A"]
    columns = [names, a, b, between]
    return go.Table(
        domain={"x": [0, 1], "y": [below, 1]},
        columnwidth=[26, 26, 26, 28],
        header={
            "values": [f"<b>{name}</b>" for name in head],
            "align": "left",
            "fill": {"color": look.panel},
            "line": line,
            "font": {"size": 12, "color": look.text},
            "height": _HEAD_PX,
        },
        cells={
            "values": [[safe(cell) for cell in column] for column in columns],
            "align": "left",
            "fill": {"color": look.paper},
            "line": line,
            "font": {"size": 12, "color": look.text},
            "height": _ROW_PX,
        },
    )


def _bars(views: list[Window], segment: Segment) -> go.Bar:
    """One kind of work of both plans."""
    kind = SEGMENTS[segment]
    base: list[float] = []
    length: list[float] = []
    at: list[float] = []
    texts: list[str] = []
    for plan, view in zip("AB", views, strict=True):
        shown = view.segments
        chosen = np.flatnonzero(shown.kind == segment)
        base += ((shown.start_ns[chosen] - view.start_ns) * _S).tolist()
        length += ((shown.end_ns - shown.start_ns)[chosen] * _S).tolist()
        at += [_at(plan, lane) for lane in shown.lane[chosen].tolist()]
        texts += [f"plan {plan}, {text}" for text in hover_texts(shown, chosen.tolist())]
    return go.Bar(
        name=kind.label,
        legendgroup=kind.label,
        showlegend=False,
        orientation="h",
        base=base,
        x=length,
        y=at,
        width=0.8,
        hovertext=texts,
        hoverinfo="text",
        textposition="none",
        marker=_marker(segment),
    )


def _legend(segment: Segment) -> go.Bar:
    kind = SEGMENTS[segment]
    return go.Bar(
        name=kind.label,
        legendgroup=kind.label,
        orientation="h",
        x=[None],
        y=[None],
        marker=_marker(segment),
    )


def _marker(segment: Segment) -> dict[str, Any]:
    kind = SEGMENTS[segment]
    pattern = {"shape": kind.pattern, "fillmode": "overlay", "fgcolor": "#fff", "fgopacity": 0.4}
    return {
        "color": kind.color,
        "line": {"width": 0},
        "pattern": {**pattern, "size": 8, "solidity": 0.2},
    }


def _track(plan: str, lane: Lane, view: Window, look: Theme) -> dict[str, Any]:
    """The room of a lane, as long as the plan takes, so that idle time can be seen."""
    return {
        "type": "rect",
        "x0": 0,
        "x1": (view.end_ns - view.start_ns) * _S,
        "y0": _at(plan, lane) - 0.4,
        "y1": _at(plan, lane) + 0.4,
        "layer": "below",
        "line": {"width": 0},
        "fillcolor": look.empty,
    }


def _image(plan: str, view: Window) -> dict[str, Any]:
    """How busy each lane was, far out; as :mod:`fiddler_viz.figures.raster` paints it."""
    return {
        "source": data_uri(png(paint(view.shares), palette())),
        "xref": "x",
        "yref": "y",
        "sizing": "stretch",
        "layer": "above",
        "x": 0,
        "y": _at(plan, -0.5),
        "sizex": (view.end_ns - view.start_ns) * _S,
        "sizey": len(Lane),
    }


def _heading(plan: str, trace: Trace, view: Window, look: Theme) -> dict[str, Any]:
    """A plan's name, how long the steps took, and on which clock."""
    took = format_ns(view.end_ns - view.start_ns)
    words = f"{took}, {CLOCKS[trace.clock]}; {trace.plan.policy}, {trace.machine}"
    return {
        "text": f"<b>{plan}</b>  {safe(words)}",
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yref": "y",
        "y": _at(plan, -0.62),
        "yanchor": "middle",
        "showarrow": False,
        "font": {"size": 12, "color": look.text},
    }
