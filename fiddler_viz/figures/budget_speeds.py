"""Speed, and bytes over the link, by budget and policy; with the speed that nobody can exceed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.budgets import BudgetCurve, BudgetPoint, budget_curve
from engine.errors import InputError
from engine.replay import playable
from engine.spec import UNCALIBRATED
from engine.trace import Trace
from engine.units import format_bytes
from fiddler_viz.figures.base import EMPTY, legend_style, note, sizes
from fiddler_viz.figures.lines import axis, style, titled
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.standing import standing
from fiddler_viz.theme import Theme, percent, rate, safe, theme

POLICIES = ("fiddler", "makespan", "lru", "stream", "cpu")
BUDGETS = tuple(f"{share}%" for share in range(0, 101, 20))
_MARGIN = {"l": 66, "r": 20, "b": 84}
_GB = 1e-9


@dataclass(frozen=True)
class Now:
    """What a run had: its budget, its policy, its speed and how far that can be trusted."""

    gpu_memory: int
    policy: str
    tokens_per_s: float
    bytes_per_token: float
    clock: str
    words: str
    """Whose figures these are."""
    trust: str
    """Of replayed speeds: ``±30%, uncalibrated``."""


def now(trace: Trace) -> Now | None:
    """What a run had, see :func:`fiddler_viz.figures.standing.standing`."""
    of = standing(trace)
    if of is None:
        return None
    plan, summary = of.plan, of.summary
    trust = f"±{percent(plan.costs.relative_error)}"
    trust += "" if plan.costs.calibrated else f", {UNCALIBRATED}"
    return Now(
        plan.gpu_memory,
        plan.policy,
        summary.tokens_per_s,
        summary.bytes_per_token,
        summary.clock,
        of.words,
        trust,
    )


def budget_speeds(
    source: Any,
    *,
    policies: Any = None,
    budgets: Any = None,
    progress: Callable[[int, int], object] | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Decode speed, and bytes over the link per token, at every budget, for several policies.

    ``source``: a Trace, a run, a replay, an engine, the path of a trace file, or what
    :func:`fiddler_viz.budgets` gave, which has no mark of a run. ``policies`` (None: a few, and
    the run's own), ``budgets`` (None: six, and the run's own) as
    :func:`engine.budgets.budget_curve`: one replay for each pair, of 2,000 tokens on a 48 x 128
    grid a third to a whole second; ``progress`` is called after each, with how many are done and of
    how many. Sizes in CSS pixels.
    """
    sizes(width, height, usual=0)  # before what takes long
    if isinstance(source, BudgetCurve):
        if policies is not None or budgets is not None:
            raise InputError(
                "budget_speeds: these replays are made already: give the run for other policies "
                "or budgets"
            )
        return budget_speeds_figure(source, theme, width=width, height=height)
    trace = as_trace(source)
    run = now(trace)
    if budgets is None:
        budgets = BUDGETS if run is None else (*BUDGETS, run.gpu_memory)
    found = replays_of(trace, policies, budgets, progress=progress)
    return budget_speeds_figure(found, theme, run=run, width=width, height=height)


def replays_of(
    trace: Trace, policies: Any = None, budgets: Any = BUDGETS, **options: Any
) -> BudgetCurve:
    """What :func:`budget_speeds` draws. Options: :func:`engine.budgets.budget_curve`."""
    if not len(trace.step_rows):
        return BudgetCurve(())
    if policies is None:
        can = set(playable(trace))
        own = (trace.plan.policy,) if trace.plan.policy in can else ()
        policies = dict.fromkeys([*own, *(name for name in POLICIES if name in can)])
    return budget_curve(trace, policies, budgets, **options)


def budget_speeds_figure(
    found: BudgetCurve,
    look: str | Theme = "light",
    *,
    run: Now | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The two charts of some replays. Sizes in CSS pixels; without ``width`` it fills its box."""
    look = theme(look)
    width, height = sizes(width, height, usual=560)
    figure = titled(
        look,
        headline(found),
        explanation(run),
        width=width,
        height=height,
        margin=_MARGIN,
    )
    most = max((point.bytes_per_token for point in found.points), default=0.0)
    unit, scale = ("GB", _GB) if most >= 1e9 else ("MB", 1e-6)
    for index, (name, points) in enumerate(_by_policy(found).items()):
        figure.add_traces(_lines(name, points, index, scale))
    if found.points:
        figure.add_trace(_bound(found, look))
    else:
        figure.update_layout(annotations=[note(look, EMPTY)])
    if run is not None:
        figure.add_traces(_stars(run, look, scale))
        line = {"color": look.text, "width": 1.5, "dash": "dash"}
        at = run.gpu_memory * _GB
        upright = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
        figure.update_layout(shapes=[upright | {"line": line, "layer": "below"}])
    figure.update_layout(
        xaxis=axis(look, "budget of GPU memory, GB")
        | {"anchor": "y2", "unifiedhovertitle": {"text": "GPU memory"}},
        yaxis=axis(look, "decode speed, tok/s") | {"domain": [0.44, 1], "rangemode": "tozero"},
        yaxis2=axis(look, f"over the link, {unit}/token")
        | {"domain": [0, 0.36], "rangemode": "tozero"},
        legend=legend_style(),
        hovermode="x unified",
        dragmode="pan",
    )
    return figure


def _by_policy(found: BudgetCurve) -> dict[str, list[BudgetPoint]]:
    """The points of each policy, budgets ascending."""
    grouped: dict[str, list[BudgetPoint]] = {}
    for point in sorted(found.points, key=lambda point: point.gpu_memory):
        grouped.setdefault(point.policy, []).append(point)
    order = dict.fromkeys(point.policy for point in found.points)
    return {name: grouped[name] for name in order}


def _lines(name: str, points: list[BudgetPoint], index: int, scale: float) -> list[go.Scatter]:
    """Speed above, bytes below."""
    kind = style(index)
    same: dict[str, Any] = {
        "x": np.array([point.gpu_memory for point in points]) * _GB,
        "name": safe(name),
        "legendgroup": name,
        "mode": "lines+markers",
        "line": {"color": kind.color, "width": 2, "dash": kind.dash},
        "marker": {"symbol": kind.marker, "size": 8},
        "text": [
            f"{format_bytes(point.gpu_memory)}: {rate(point.tokens_per_s)}, "
            f"{format_bytes(round(point.bytes_per_token))}/token, "
            f"{percent(point.hit_rate)} hits, {point.pinned:,} pinned, {point.cache_slots:,} slots"
            for point in points
        ],
        "hovertemplate": f"<b>{safe(name)}</b>, %{{text}}<extra></extra>",
    }
    return [
        go.Scatter(**same, y=[point.tokens_per_s for point in points]),
        go.Scatter(
            **same,
            y=[point.bytes_per_token * scale for point in points],
            yaxis="y2",
            showlegend=False,
        ),
    ]


def _bound(found: BudgetCurve, look: Theme) -> go.Scatter:
    """What no policy can exceed."""
    bounds = sorted({point.gpu_memory: point.bound_tokens_per_s for point in found.points}.items())
    return go.Scatter(
        x=[size * _GB for size, _ in bounds],
        y=[speed for _, speed in bounds],
        name="nobody is faster",
        mode="lines",
        line={"color": look.text, "width": 3, "dash": "dot"},
        text=[f"{format_bytes(size)}: at most {rate(speed)}" for size, speed in bounds],
        hovertemplate="<b>bound</b>, %{text}<extra></extra>",
    )


def _stars(run: Now, look: Theme, scale: float) -> list[go.Scatter]:
    words = f"{run.words} ({run.clock})"
    edge = {"width": 1.5, "color": look.paper}
    same: dict[str, Any] = {
        "x": [run.gpu_memory * _GB],
        "name": words,
        "legendgroup": "run",
        "mode": "markers",
        "cliponaxis": False,
        "marker": {"symbol": "star", "size": 15, "color": look.text, "line": edge},
        "hovertemplate": f"<b>{words}</b>: {safe(run.policy)}, {format_bytes(run.gpu_memory)}, "
        f"{rate(run.tokens_per_s)}<extra></extra>",
    }
    return [
        go.Scatter(**same, y=[run.tokens_per_s]),
        go.Scatter(**same, y=[run.bytes_per_token * scale], yaxis="y2", showlegend=False),
    ]


def headline(found: BudgetCurve) -> str:
    """What the chart shows, in a sentence; raw text."""
    if not found.points:
        return "Speed by budget"
    least, most = (pick(point.gpu_memory for point in found.points) for pick in (min, max))
    ends = [
        max((p for p in found.points if p.gpu_memory == size), key=lambda point: point.tokens_per_s)
        for size in (least, most)
    ]
    if not all(math.isfinite(end.tokens_per_s) for end in ends):
        return "Without a decode step there is no speed, only bytes over the link"
    said = [f"{rate(end.tokens_per_s)} in {format_bytes(end.gpu_memory)}" for end in ends]
    both = " and ".join(said if most > least else said[:1])
    return f"The fastest policy reaches {both} of GPU memory"


def explanation(run: Now | None) -> str:
    """What to look for, and how sure it is; raw text."""
    trust = f" ({run.trust})" if run is not None else ""
    return (
        f"Every policy and budget replayed on the modelled clock{trust}. Below the dotted line "
        "there is room for a better policy; only budget or hardware go beyond it."
    )


def describe_budget_speeds(found: BudgetCurve, run: Now | None = None) -> str:
    """The charts in a few plain sentences; raw text."""
    if not found.points:
        return f"{EMPTY.capitalize()}."
    rows = [
        f"{name}: "
        + ", ".join(
            f"{format_bytes(point.gpu_memory)} {rate(point.tokens_per_s)} "
            f"(at most {rate(point.bound_tokens_per_s)}; "
            f"{format_bytes(round(point.bytes_per_token))} per token)"
            for point in points
        )
        for name, points in _by_policy(found).items()
    ]
    mark = ""
    if run is not None:
        mark = (
            f" {run.words.capitalize()} ({run.policy}, {run.clock} clock): "
            f"{rate(run.tokens_per_s)} in "
            f"{format_bytes(run.gpu_memory)}."
        )
    return f"{headline(found)}. {explanation(run)} {'. '.join(rows)}.{mark}"
