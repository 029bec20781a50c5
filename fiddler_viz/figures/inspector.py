"""Why an expert ran where it did: what each way would have cost, and what the chosen one took.

What the cost model expects is outlined and carries its interval; what the trace says is solid.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from engine.events import Action
from engine.inspection import Inspection
from engine.units import format_ns
from fiddler_viz.figures.base import (
    axis_style,
    legend_style,
    new_figure,
    optional,
    sizes,
    title_of,
    trace,
)
from fiddler_viz.figures.inspector_words import (
    PARTS,
    expectation,
    parts_of,
    took,
    where,
    why,
)
from fiddler_viz.theme import ACTIONS, SEGMENTS, Segment, Theme, safe, theme

_MARGIN = {"l": 16, "r": 20, "t": 78, "b": 66}
_NARROW_MARGIN = _MARGIN | {"t": 116, "b": 88}
_ROWS_PX = 200
_USUAL_PX = 760
_LETTER_PX = 6.4
_S = 1e-9
_KINDS = tuple(segment for segment in Segment if segment != Segment.DENSE)
_SEGMENT = {"copy": Segment.WEIGHTS, "there": Segment.ACTIVATIONS, "back": Segment.ACTIVATIONS}
_TOOK = len(Action)
"""Row of what it took, below one row per action."""
_ERRORS = 2 * len(_KINDS)
"""Where the intervals are in ``figure.data``: after the predicted and the real bars by kind."""
_BAR, _BAR_Y, _TEXT_Y, _TIGHT_Y = 0.46, 0.16, -0.26, -0.33
"""Of a row's height; the last where rows are low: text just above its bar."""
_NARROW_PX = 620


def inspector_figure(
    call: Inspection,
    look: str | Theme = "light",
    *,
    text: str | None = None,
    width: int | None = None,
    height: int | None = None,
    tight: bool = False,
) -> go.Figure:
    """The inspector of one call. Sizes in CSS pixels; ``text``: that of the token asked for.

    ``tight``: there is room for low rows only, and none for an axis; the times are in words, too.
    """
    look = theme(look)
    width, height = sizes(width, height, usual=0)  # that depends on the width
    margin = _NARROW_MARGIN if _narrow(width) else _MARGIN
    height = height or margin["t"] + _ROWS_PX + margin["b"]
    seconds = {
        "ticksuffix": "s",
        "tickformat": ".3~s",
        "nticks": 8,
        "showgrid": True,
        "ticks": "" if tight else "outside",
        "fixedrange": True,
    }
    if tight:
        seconds["showticklabels"] = False
    figure = new_figure(
        look,
        width=width,
        height=height,
        margin=margin,
        xaxis=axis_style(look) | seconds,
        yaxis={"visible": False, "range": [_TOOK + 0.5, -0.5], "fixedrange": True},
        barmode="overlay",
        dragmode=False,
        legend=legend_style() | {"itemclick": False, "itemdoubleclick": False},
    )
    bars = [_bars(kind, real=real) for real in (False, True) for kind in _KINDS]
    intervals = trace(
        "scatter",
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 11, "color": look.text, "line": {"width": 2}},
        error_x={"type": "data", "symmetric": False, "color": look.text, "thickness": 1.6},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_traces([*bars, intervals, *(_entry(kind) for kind in _KINDS)])
    update_inspector(figure, call, look, text=text, tight=tight)
    return figure


def _narrow(width: Any) -> bool:
    """Whether there is no room for parts, nor for a caption beside the title."""
    return isinstance(width, int | float) and width < _NARROW_PX


def _bars(kind: Segment, *, real: bool) -> dict[str, Any]:
    look = SEGMENTS[kind]
    rgb = ",".join(str(value) for value in bytes.fromhex(look.color[1:]))
    return trace(
        "bar",
        name=look.label,
        orientation="h",
        x=[],
        y=[],
        width=_BAR,
        showlegend=False,
        hoverinfo="text",
        textposition="none",
        marker={
            "color": look.color if real else f"rgba({rgb},0.3)",
            "line": {"color": look.color, "width": 0 if real else 1.6},
            "pattern": _pattern(look.pattern, "#fff" if real else look.color),
        },
    )


def _entry(kind: Segment) -> dict[str, Any]:
    look = SEGMENTS[kind]
    name = look.label if kind in (Segment.WEIGHTS, Segment.ACTIVATIONS) else f"run, {look.label}"
    return trace(
        "bar",
        name=name,
        orientation="h",
        x=[None],
        y=[None],
        marker={"color": look.color, "pattern": _pattern(look.pattern, "#fff")},
    )


def _pattern(shape: str, color: str) -> dict[str, Any]:
    return {
        "shape": shape,
        "fillmode": "overlay",
        "fgcolor": color,
        "fgopacity": 0.5,
        "size": 8,
        "solidity": 0.2,
    }


def update_inspector(
    figure: go.Figure,
    call: Inspection,
    look: str | Theme = "light",
    *,
    text: str | None = None,
    tight: bool = False,
) -> None:
    """Show another call in a figure of :func:`inspector_figure`, in place."""
    look = theme(look)
    shown = call.comparable
    rows = list(_stretches(call))
    furthest = max([call.took_ns, 1, *(option.high_ns for option in shown)])
    with figure.batch_update():
        for number, (real, kind) in enumerate((r, k) for r in (False, True) for k in _KINDS):
            mine = [row for row in rows if (row[0] == _TOOK) == real and row[1] == kind]
            figure.data[number].update(
                base=[start * _S for _, _, start, _, _ in mine],
                x=[ns * _S for _, _, _, ns, _ in mine],
                y=[at + _BAR_Y for at, *_ in mine],
                hovertext=[hover for *_, hover in mine],
            )
        resident = call.options[Action.RESIDENT]
        figure.data[_KINDS.index(Segment.RESIDENT)].opacity = 1 if resident.possible else 0.45
        figure.data[_ERRORS].update(
            x=[option.ns * _S for option in shown],
            y=[option.action + _BAR_Y for option in shown],
            error_x={
                "array": [(option.high_ns - option.ns) * _S for option in shown],
                "arrayminus": [(option.ns - option.low_ns) * _S for option in shown],
            },
        )
        figure.layout.xaxis.range = [0, furthest * 1.04 * _S]
        figure.layout.annotations = _labels(
            call, look, figure.layout.width, _TIGHT_Y if tight else _TEXT_Y
        )
        figure.layout.shapes = _chosen(call, look)
        width = figure.layout.width
        letters = int(((width or _USUAL_PX) - 24) / _LETTER_PX)
        sentence = "<br>".join(safe(line) for line in textwrap.wrap(why(call), max(letters, 20)))
        caption, title = safe(where(call, text)), f"Why: layer {call.layer}, expert {call.expert}"
        if _narrow(width):
            caption, sentence = "", f"{caption}<br>{sentence}"
        figure.layout.title = title_of(look, title, caption, sentence)


def _stretches(call: Inspection) -> Iterator[tuple[int, Segment, int, int, str]]:
    """Row, kind, start, length and hover text of every bar."""
    rows = [(int(option.action), option.action, option.parts) for option in call.comparable]
    for at, action, parts in [*rows, (_TOOK, call.action, call.took)]:
        start = 0
        for name, ns in parts:
            kind = _SEGMENT.get(name, Segment(Segment.RESIDENT + action))
            told = "took" if at == _TOOK else f"{ACTIONS[action].label}, expected"
            yield at, kind, start, ns, f"<b>{told}</b>: {PARTS[name]} {format_ns(ns)}"
            start += ns


def _labels(
    call: Inspection, look: Theme, width: int | None, text_y: float
) -> list[dict[str, Any]]:
    """A line of text above each row's bar."""
    small = _narrow(width)
    texts: list[tuple[int, str, bool]] = []
    for option in call.options:
        kind, mine = ACTIONS[option.action], option.action == call.action
        label, told = f"{kind.letter} {kind.label}", expectation(option, parts=not small)
        if option not in call.comparable:
            told = "all experts ran here" if mine else "no GPU is used"
        if mine and not call.on_host:
            label = f"▶ <b>{label}, chosen</b>"
        told = _optional(told, option.parts)
        texts.append((int(option.action), f"{label}: {told}", option.possible))
    lasted = _optional(took(call, parts=not small), call.took)
    texts.append((_TOOK, f"<b>it took</b> {lasted}", True))
    return [
        {
            "text": text,
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "xshift": 4,
            "yref": "y",
            "y": at + text_y,
            "showarrow": False,
            "align": "left",  # it stays where it is without its optional words
            "font": {"size": 12, "color": look.text if strong else look.muted},
        }
        for at, text, strong in texts
    ]


def _optional(text: str, parts: tuple[tuple[str, int], ...]) -> str:
    """A text whose parts may be left out; hover texts name them, too."""
    detail = f" = {parts_of(parts)}"
    return text.replace(detail, optional(detail))


def _chosen(call: Inspection, look: Theme) -> list[dict[str, Any]]:
    """A bar along the chosen row's edge, and a line above what it took."""
    line = {"type": "line", "xref": "paper", "x0": 0, "layer": "above"}
    ruled = line | {"x1": 1, "y0": _TOOK - 0.5, "y1": _TOOK - 0.5}
    shapes = [ruled | {"line": {"color": look.rule, "width": 1}}]
    if not call.on_host:
        edge = {"x1": 0, "y0": call.action - 0.44, "y1": call.action + 0.44}
        shapes.append(line | edge | {"line": {"color": look.text, "width": 5}})
    return shapes
