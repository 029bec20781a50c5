"""Ways to use a model, side by side: experts needed per step, where they run, how fast it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.demand import Scenario, Scenarios
from engine.demand import scenarios as side_by_side
from engine.errors import InputError
from engine.scenario import run_scenarios
from fiddler_viz.figures.base import EMPTY, legend_style, note, sizes
from fiddler_viz.figures.lines import axis, titled
from fiddler_viz.figures.scenarios_panels import (
    CALLS,
    SPEED,
    UNION,
    axes_of,
    axis_number,
    bars,
    boxes,
    points,
)
from fiddler_viz.figures.scenarios_words import explanation, headline
from fiddler_viz.figures.source import as_trace
from fiddler_viz.theme import Theme, safe, theme

MOST = 6
"""Runs that fit side by side."""
_MARGIN = {"l": 66, "r": 16, "b": 62}
_ROWS = ((0.74, 1.0), (0.35, 0.64), (0.0, 0.23))
"""From where to where each row of panels stands, as shares of the height."""
_GAP = 0.022
_TICKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 3)]
"""Of the speeds."""


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
    sizes(width, height, usual=0)  # before what takes long
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
    width, height = sizes(width, height, usual=660)
    many = len(found.each)
    if many > MOST:
        raise InputError(f"scenarios: expected at most {MOST} runs side by side, got {many}.")
    figure = titled(
        look,
        headline(found),
        explanation(found),
        width=width,
        height=height,
        margin=_MARGIN,
    )
    figure.update_layout(margin_t=figure.layout.margin.t + 56)  # for the columns' names
    most_bin = max((_last(scenario) for scenario in found.each), default=0)
    speeds = _speed_range(found)
    for column, scenario in enumerate(found.each):
        _axes(figure, look, column, many, most_bin, speeds)
        figure.add_traces(boxes(scenario, look, column))
        figure.add_traces(bars(found, column))
        figure.add_traces(points(scenario, look, column, many))
        _name(figure, scenario, look, column, many, width)
        _break_even(figure, scenario, look, column, many, most_bin)
    figure.update_layout(
        barmode="stack",
        bargap=0.15,
        boxmode="overlay",
        legend=legend_style() | {"itemclick": False},
    )
    return figure


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
    for row in (UNION, CALLS, SPEED):
        name, beside = axis_number(row, column, many), axis_number(row, column, many)
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
        at = axes_of(UNION, column, many)
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
    axes = axes_of(CALLS, column, many)
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
