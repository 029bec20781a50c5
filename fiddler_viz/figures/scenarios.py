"""Ways to use a model, side by side: experts needed per step, where they run, how fast it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.demand import BINS, Phase, Scenario, Scenarios
from engine.demand import scenarios as side_by_side
from engine.errors import InputError
from engine.events import Action, StepKind
from engine.scenario import run_scenarios
from fiddler_viz.figures.base import EMPTY, legend_style, note
from fiddler_viz.figures.lines import axis, titled
from fiddler_viz.figures.scenarios_words import explanation, headline, hover, short
from fiddler_viz.figures.source import as_trace
from fiddler_viz.theme import ACTIONS, PURPLE, Theme, safe, theme

MOST = 6
"""Runs that fit side by side."""
_MARGIN = {"l": 66, "r": 16, "b": 62}
_ROWS = ((0.74, 1.0), (0.35, 0.64), (0.0, 0.23))
"""From where to where each row of panels stands, as shares of the height."""
_UNION, _CALLS, _SPEED = range(3)
_GAP = 0.022
_TICKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 3)]
"""Of the speeds."""
_PHASES = ((StepKind.PREFILL, "prefill", "square-open"), (StepKind.DECODE, "decode", "circle"))


def scenarios(
    sources: Any,
    *,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
    **options: Any,
) -> go.Figure:
    """Ways to use a model side by side: experts needed per step, where they run, tokens/s.

    ``sources``: a mapping of names to Traces, runs, replays, engines or paths of trace files, such
    as ``{"one request": run, "batch of 8": other}``; or an engine, which then runs one request, a
    long prompt, a batch and a beam search (options: ``prompt``, ``new_tokens``, ``long_tokens``,
    ``beams``, see :func:`engine.scenario.run_scenarios`). Sizes in CSS pixels.
    """
    return scenarios_figure(scenarios_of(sources, **options), theme, width=width, height=height)


def scenarios_of(sources: Any, **options: Any) -> Scenarios:
    """What :func:`scenarios` draws: arrays, ``.to_pandas()`` for a table. The arguments are its."""
    if hasattr(sources, "generate") and hasattr(sources, "last_run"):
        sources = run_scenarios(sources, **options)
    elif options:
        raise InputError(f"scenarios: {', '.join(options)}: only for an engine that is to run.")
    if not isinstance(sources, Mapping):
        raise InputError(
            'scenarios: expected runs by name, such as {"one request": run, "batch of 8": other}, '
            f"or an engine; got {type(sources).__name__}."
        )
    return side_by_side({str(name): as_trace(source) for name, source in sources.items()})


def scenarios_figure(
    found: Scenarios,
    look: str | Theme = "light",
    *,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Small multiples with common axes, a column for each scenario. Sizes in CSS pixels."""
    look = theme(look)
    many = len(found.each)
    if many > MOST:
        raise InputError(f"scenarios: expected at most {MOST} runs side by side, got {many}.")
    figure = titled(
        look,
        headline(found),
        explanation(found),
        width=width,
        height=height or 660,
        margin=_MARGIN,
    )
    figure.update_layout(margin_t=figure.layout.margin.t + 56)  # for the columns' names
    most_bin = max((_last(scenario) for scenario in found.each), default=0)
    speeds = _speed_range(found)
    for column, scenario in enumerate(found.each):
        _axes(figure, look, column, many, most_bin, speeds)
        figure.add_traces(_boxes(scenario, look, column))
        figure.add_traces(_bars(found, column))
        figure.add_traces(_points(scenario, look, column, many))
        _name(figure, scenario, look, column, many, width)
        _break_even(figure, scenario, look, column, many, most_bin)
    figure.update_layout(
        barmode="stack",
        bargap=0.15,
        boxmode="overlay",
        legend=legend_style() | {"itemclick": False},
    )
    return figure


def _axis(row: int, column: int, many: int) -> str:
    """What plotly calls the axes of a panel: empty for the first, else its number."""
    number = row * many + column + 1
    return "" if number == 1 else str(number)


def _at(row: int, column: int, many: int) -> dict[str, str]:
    name = _axis(row, column, many)
    return {"xaxis": f"x{name}", "yaxis": f"y{name}"}


def _span(column: int, many: int) -> tuple[float, float]:
    wide = (1 - _GAP * (many - 1)) / many
    return column * (wide + _GAP), column * (wide + _GAP) + wide


def _axes(
    figure: go.Figure,
    look: Theme,
    column: int,
    many: int,
    most_bin: int,
    speeds: tuple[float, float],
) -> None:
    phases: dict[str, Any] = {
        "range": [-0.6, 1.6],
        "tickvals": [0, 1],
        "ticktext": ["prefill", "decode"],
        "showgrid": False,
    }
    across = (
        ("", phases),
        (
            "tokens that an expert serves at once, up to" if column == (many - 1) // 2 else "",
            {
                "range": [-0.6, most_bin + 0.6],
                "tickvals": list(range(0, most_bin + 1, 2)),
                "ticktext": [str(1 << at) for at in range(0, most_bin + 1, 2)],
                "tickangle": 0,
                "showgrid": False,
            },
        ),
        ("", phases),
    )
    up = (
        ("experts of a layer, %", {"range": [0, 104], "nticks": 5}),
        ("expert calls, %", {"range": [0, 104], "nticks": 5}),
        ("tokens/s", {"type": "log", "range": list(speeds), "tickvals": _TICKS}),
    )
    for row in (_UNION, _CALLS, _SPEED):
        name, beside = _axis(row, column, many), _axis(row, column, many)
        (title_x, x), (title_y, y) = across[row], up[row]
        figure.update_layout(
            {
                f"xaxis{name}": axis(look, title_x)
                | x
                | {"domain": list(_span(column, many)), "anchor": f"y{beside}"},
                f"yaxis{name}": axis(look, title_y if not column else "")
                | y
                | {"domain": list(_ROWS[row]), "anchor": f"x{beside}"}
                | {"showticklabels": not column},
            }
        )


def _last(scenario: Scenario) -> int:
    """The last bin that has calls."""
    return int(np.flatnonzero(scenario.calls.any(axis=1)).max(initial=0))


def _color(kind: StepKind, look: Theme) -> str:
    return look.text if kind == StepKind.DECODE else PURPLE


def _boxes(scenario: Scenario, look: Theme, column: int) -> list[go.Box]:
    found: list[go.Box] = []
    for place, (kind, name, _) in enumerate(_PHASES):
        phase = scenario.phase(kind)
        if phase is None or not len(phase.active):
            continue
        low, first, middle, third, high = (
            [100 * share] for share in phase.quantiles(0.05, 0.25, 0.5, 0.75, 0.95)
        )
        found.append(
            go.Box(
                x=[place], lowerfence=low, q1=first, median=middle, q3=third, upperfence=high,
                mean=[100 * phase.union], boxmean=True, width=0.5,
                line={"color": _color(kind, look), "width": 1.5},
                hoverinfo="skip", showlegend=False,
                xaxis=f"x{column + 1 if column else ''}", yaxis=f"y{column + 1 if column else ''}",
                name=name,
            )
        )  # fmt: skip
        found.append(_hidden(place, 100 * phase.union, hover(scenario, phase), column))
    return found


def _hidden(x: float, y: float, text: str, column: int) -> Any:
    """What says more where the mouse is: boxes of given quantiles can only list them."""
    name = column + 1 if column else ""
    return go.Scatter(
        x=[x], y=[y], mode="markers", marker={"size": 26, "opacity": 0}, hovertext=[text],
        hoverinfo="text", showlegend=False, xaxis=f"x{name}", yaxis=f"y{name}",
    )  # fmt: skip


def _bars(found: Scenarios, column: int) -> list[go.Bar]:
    scenario, many = found.each[column], len(found.each)
    total = max(int(scenario.calls.sum()), 1)
    bars: list[go.Bar] = []
    for action in Action:
        kind, counted = ACTIONS[action], scenario.calls[:, action]
        chosen = np.flatnonzero(counted)
        named = any(each.calls[:, action].any() for each in found.each[:column])
        bars.append(
            go.Bar(
                x=chosen,
                y=100 * counted[chosen] / total,
                name=kind.label,
                legendgroup=kind.label,
                showlegend=bool(len(chosen)) and not named,
                legendrank=int(action) + 1,
                marker={
                    "color": kind.color,
                    "line": {"width": 0},
                    "pattern": {
                        "shape": kind.pattern,
                        "fillmode": "overlay",
                        "fgcolor": "#fff",
                        "fgopacity": 0.4,
                        "size": 8,
                        "solidity": 0.2,
                    },
                },
                hovertext=[
                    f"<b>{kind.label}, {BINS[at]} tokens an expert</b><br>"
                    f"{counted[at] / total:.1%} of the run's {total:,} calls"
                    for at in chosen.tolist()
                ],
                hoverinfo="text",
                textposition="none",
                **_at(_CALLS, column, many),
            )
        )
    return bars


def _points(scenario: Scenario, look: Theme, column: int, many: int) -> list[go.Scatter]:
    points: list[go.Scatter] = []
    for place, (kind, name, symbol) in enumerate(_PHASES):
        phase = scenario.phase(kind)
        drawn = phase is not None and phase.tokens_per_s > 0  # false for nan
        ends = _ends(phase) if phase is not None and drawn else (0.0, 0.0)
        points.append(
            go.Scatter(
                x=[place] if drawn else [None],
                y=[phase.tokens_per_s] if phase is not None and drawn else [None],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [ends[1]],
                    "arrayminus": [ends[0]],
                    "visible": any(ends),
                    "thickness": 1.5,
                    "width": 6,
                },
                mode="markers+text",
                marker={"symbol": symbol, "size": 7, "color": _color(kind, look)},
                text=[f"  {short(phase.tokens_per_s)}  "] if phase is not None and drawn else [""],
                textposition="middle right" if place == 0 else "middle left",
                textfont={"size": 12, "color": look.text},
                hovertext=[hover(scenario, phase)] if phase is not None else [""],
                hoverinfo="text",
                name=f"{name} steps",
                legendgroup=name,
                showlegend=not column,
                legendrank=10 + place,
                cliponaxis=False,
                **_at(_SPEED, column, many),
            )
        )
    return points


def _ends(phase: Phase) -> tuple[float, float]:
    """How far the interval goes below and above; 0 where the speed was measured."""
    high = phase.tokens_per_s_high if np.isfinite(phase.tokens_per_s_high) else phase.tokens_per_s
    return phase.tokens_per_s - phase.tokens_per_s_low, high - phase.tokens_per_s


def _speed_range(found: Scenarios) -> tuple[float, float]:
    """Of the axis, a logarithm: around all speeds and their intervals."""
    ends = [
        end
        for scenario in found.each
        for phase in scenario.phases
        for end in (phase.tokens_per_s_low, phase.tokens_per_s_high)
        if np.isfinite(end) and end > 0
    ] or [1.0, 10.0]
    return float(np.log10(min(ends))) - 0.15, float(np.log10(max(ends))) + 0.15


def _name(
    figure: go.Figure, scenario: Scenario, look: Theme, column: int, many: int, width: int | None
) -> None:
    start, end = _span(column, many)
    room = int(((width or 760) - 82) * (end - start) / 6.4)
    figure.add_annotation(
        x=(start + end) / 2,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="center",
        yanchor="bottom",
        yshift=4,
        showarrow=False,
        text=f"<b>{safe(scenario.name[:room])}</b><br>"
        f'<span style="font-size:11px;color:{look.muted}">'
        + "<br>".join(safe(part[: room + 4]) for part in scenario.words.split("; "))
        + "</span>",
        font={"size": 13, "color": look.text},
    )
    if not scenario.calls.any():
        at = _at(_UNION, column, many)
        figure.add_annotation(
            note(look, EMPTY)
            | {
                "xref": f"{at['xaxis']} domain",
                "yref": f"{at['yaxis']} domain",
                "font": {"size": 11},
            }
        )


def _break_even(
    figure: go.Figure, scenario: Scenario, look: Theme, column: int, many: int, most_bin: int
) -> None:
    """A line where copying an expert begins to pay."""
    if scenario.break_even is None:
        return
    at = float(np.log2(max(scenario.break_even - 0.5, 0.5))) + 0.5  # a bin ends at a power of two
    if at > most_bin + 0.6:
        return
    axes = _at(_CALLS, column, many)
    figure.add_shape(
        type="line",
        xref=axes["xaxis"],
        yref=f"{axes['yaxis']} domain",
        x0=at,
        x1=at,
        y0=0,
        y1=1,
        line={"color": look.text, "width": 1.5, "dash": "dot"},
    )
