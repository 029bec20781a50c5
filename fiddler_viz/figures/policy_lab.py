"""The policy lab: every policy on one run, under one budget, beside what nobody can exceed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from engine.budgets import BudgetCurve, BudgetPoint
from engine.errors import InputError
from engine.events import Lane
from engine.policies import POLICIES
from engine.replay import playable
from engine.units import format_bytes, format_ns
from fiddler_viz.figures.base import EMPTY, legend_style, note, sizes
from fiddler_viz.figures.budget_speeds import Now, now, replays_of
from fiddler_viz.figures.lines import axis, titled
from fiddler_viz.figures.policy_lab_words import explanation, headline, ranked
from fiddler_viz.figures.source import as_trace
from fiddler_viz.theme import (
    BLUE,
    GREY,
    LANES,
    ORANGE,
    SEGMENTS,
    Segment,
    Theme,
    percent,
    rate,
    safe,
    theme,
)

ROWS = ("speed", "lanes", "hits", "bytes")
"""Charts of the figure, from top to bottom."""
_SHARES = {"speed": 4.0, "lanes": 3.0, "hits": 1.6, "bytes": 1.6}
"""How tall each is, beside the others."""
_LANES = {
    Lane.GPU: Segment.RESIDENT,
    Lane.CPU: Segment.CPU,
    Lane.H2D: Segment.WEIGHTS,
    Lane.D2H: Segment.ACTIVATIONS,
}
"""Whose colour and pattern each lane has: what it is mostly busy with."""
KINDS = (
    ("a policy", BLUE, ""),
    ("the plan's own", ORANGE, "/"),
    ("knows the future", GREY, "."),
)
"""Name, colour and pattern of each kind of bar."""
_MARGIN = {"l": 66, "r": 20, "b": 136}
_GAP = 0.05
_WIDE = 0.72
"""Of a policy's bars; policies are 1 apart."""


def policy_lab(
    source: Any,
    *,
    policies: Any = None,
    gpu_memory: int | str | None = None,
    progress: Callable[[int, int], object] | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """All policies on one run: predicted speed with its interval, hit rate, bytes, lane times.

    ``source``: a Trace, a run, a replay, an engine, the path of a trace file, or what
    :func:`fiddler_viz.budgets` gave for one budget, which has no mark of a run. ``policies`` (None:
    all that can replay it) and ``gpu_memory`` (None: the run's): as for
    :func:`engine.budgets.budget_curve`, one replay for each policy. Sizes in CSS pixels. Of 2,000
    tokens on a 48 x 128 grid all policies take half a minute: ``progress`` is called after each,
    with how many are done and of how many.
    """
    sizes(width, height, usual=0)  # before what takes long
    if isinstance(source, BudgetCurve):
        if policies is not None or gpu_memory is not None:
            raise InputError(
                "policy_lab: these replays are made already: give the run for other policies or "
                "another budget"
            )
        return policy_lab_figure(source, theme, width=width, height=height)
    trace = as_trace(source)
    budget = trace.plan.gpu_memory if gpu_memory is None else gpu_memory
    names = playable(trace) if policies is None else policies
    found = replays_of(trace, names, budget, progress=progress)
    run = now(trace) if gpu_memory is None else None
    return policy_lab_figure(found, theme, run=run, width=width, height=height)


def policy_lab_figure(
    found: BudgetCurve,
    look: str | Theme = "light",
    *,
    run: Now | None = None,
    rows: Sequence[str] = ROWS,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The charts of some replays. Sizes in CSS pixels; ``rows``: which of :data:`ROWS`."""
    look, points = theme(look), ranked(found)
    width, height = sizes(width, height, usual=640)
    figure = titled(
        look, headline(found), explanation(run), width=width, height=height, margin=_MARGIN
    )
    if not points:
        return figure.update_layout(annotations=[note(look, EMPTY)])
    names = [safe(point.policy) for point in points]
    for number, row in enumerate(rows, 1):
        at = "" if number == 1 else str(number)
        traces, title, ticks = _CHARTS[row](points, names, run, look)
        figure.add_traces([trace.update(yaxis=f"y{at}") for trace in traces])
        figure.update_layout(
            {
                f"yaxis{at}": axis(look, title)
                | {"domain": _domain(rows, number - 1), "rangemode": "tozero", "nticks": 4}
                | {"tickformat": ticks, "fixedrange": True}
            }
        )
    last = "" if len(rows) == 1 else str(len(rows))
    figure.update_xaxes(
        **axis(look, ""),
        type="category",
        categoryarray=names,
        range=[-0.6, len(names) - 0.4],
        anchor=f"y{last}",
        tickangle=-35,
        fixedrange=True,
    )
    figure.update_xaxes(tickfont={"size": 12, "color": look.text}, showgrid=False)
    figure.update_layout(legend=legend_style() | {"itemclick": False}, barmode="overlay")
    return figure.update_layout(dragmode=False)


def _domain(rows: Sequence[str], number: int) -> list[float]:
    """Where one of several charts stands, as shares of the height from below."""
    shares = [_SHARES[row] for row in rows]
    scale = (1 - _GAP * (len(rows) - 1)) / sum(shares)
    top = 1 - sum(shares[:number]) * scale - _GAP * number
    return [max(top - shares[number] * scale, 0.0), top]


_Made = tuple[list[go.Bar | go.Scatter], str, str]
"""Traces, the axis' title, and how its ticks are written."""


def _speeds(points: Sequence[BudgetPoint], names: list[str], run: Now | None, look: Theme) -> _Made:
    made: list[go.Bar | go.Scatter] = []
    kinds = [kind_of(point.policy, run) for point in points]
    for kind, (label, color, pattern) in enumerate(KINDS):
        mine = [i for i, other in enumerate(kinds) if other == kind]
        if not mine:
            continue
        made.append(
            go.Bar(
                x=[names[i] for i in mine],
                y=[points[i].tokens_per_s for i in mine],
                name=label,
                width=_WIDE,
                marker=_paint(color, pattern),
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [points[i].tokens_per_s_high - points[i].tokens_per_s for i in mine],
                    "arrayminus": [
                        points[i].tokens_per_s - points[i].tokens_per_s_low for i in mine
                    ],
                    "color": look.text,
                    "thickness": 1.4,
                    "width": 3,
                },
                customdata=[points[i].policy for i in mine],
                hovertext=[_hover(points[i]) for i in mine],
                hoverinfo="text",
            )
        )
    best = points[0].bound_tokens_per_s
    made.append(
        go.Scatter(
            x=names,
            y=[best] * len(names),
            name=f"nobody is faster: {rate(best)}",
            mode="lines",
            line={"color": look.text, "width": 2.5, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    return made, "predicted, tok/s", ""


def kind_of(policy: str, run: Now | None) -> int:
    """Row of :data:`KINDS` for a policy."""
    if run is not None and policy == run.policy:
        return 1
    return 2 if policy in POLICIES and not POLICIES[policy].live else 0


def _paint(color: str, pattern: str) -> dict[str, Any]:
    return {
        "color": color,
        "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "#fff", "fgopacity": 0.6},
    }


def _hover(point: BudgetPoint) -> str:
    lanes = ", ".join(f"{lane} {format_ns(ns)}" for lane, ns in point.lane_ns.items())
    known = POLICIES.get(point.policy)
    return (
        f"<b>{safe(known.title if known else point.policy)}</b>: {rate(point.tokens_per_s)} "
        f"({rate(point.tokens_per_s_low)} to {rate(point.tokens_per_s_high)})<br>"
        f"{percent(point.hit_rate)} hits, {format_bytes(round(point.bytes_per_token))}/token, "
        f"{point.pinned:,} pinned, {point.cache_slots:,} slots<br>busy: {lanes}"
    )


def _lanes(points: Sequence[BudgetPoint], names: list[str], _: Now | None, __: Theme) -> _Made:
    made: list[go.Bar | go.Scatter] = []
    for number, (lane, segment) in enumerate(_LANES.items()):
        kind, of = SEGMENTS[segment], lane.name.lower()
        made.append(
            go.Bar(
                x=names,
                y=[point.lane_ns[of] * 1e-9 for point in points],
                name=f"{LANES[lane][0]} busy",
                offset=_WIDE * (number / len(_LANES) - 0.5),
                width=_WIDE / len(_LANES),
                marker=_paint(kind.color, kind.pattern),
                hovertext=[
                    f"{name}, {LANES[lane][0]}: {format_ns(point.lane_ns[of])}"
                    for name, point in zip(names, points, strict=True)
                ],
                hoverinfo="text",
            )
        )
    return made, "busy, s", ""


def _hits(points: Sequence[BudgetPoint], names: list[str], _: Now | None, __: Theme) -> _Made:
    values = [point.hit_rate for point in points]
    return [_plain(names, values, [percent(value) for value in values])], "hits", ".0%"


def _bytes(points: Sequence[BudgetPoint], names: list[str], _: Now | None, __: Theme) -> _Made:
    values = [point.bytes_per_token for point in points]
    unit, scale = ("GB", 1e-9) if max(values) >= 1e9 else ("MB", 1e-6)
    words = [f"{format_bytes(round(value))}/token" for value in values]
    return [_plain(names, [value * scale for value in values], words)], f"{unit}/token", ""


def _plain(names: list[str], values: list[float], words: list[str]) -> go.Bar:
    return go.Bar(
        x=names,
        y=values,
        width=_WIDE,
        marker=_paint(GREY, ""),
        hovertext=[f"{name}: {said}" for name, said in zip(names, words, strict=True)],
        hoverinfo="text",
        showlegend=False,
    )


_CHARTS = {"speed": _speeds, "lanes": _lanes, "hits": _hits, "bytes": _bytes}
