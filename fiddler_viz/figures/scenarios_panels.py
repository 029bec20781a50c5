"""The panels of the scenarios' figure: boxes of experts needed, bars of calls, points of speeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.demand import BINS, Phase, Scenario, Scenarios
from engine.events import Action, StepKind
from fiddler_viz.figures.scenarios_words import hover, short
from fiddler_viz.theme import ACTIONS, PURPLE, Theme

UNION, CALLS, SPEED = range(3)
"""Rows of panels."""
_PHASES = ((StepKind.PREFILL, "prefill", "square-open"), (StepKind.DECODE, "decode", "circle"))


def axis_number(row: int, column: int, many: int) -> str:
    """What plotly calls the axes of a panel: empty for the first, else its number."""
    number = row * many + column + 1
    return "" if number == 1 else str(number)


def axes_of(row: int, column: int, many: int) -> dict[str, str]:
    """The axes of a panel, as a trace names them."""
    name = axis_number(row, column, many)
    return {"xaxis": f"x{name}", "yaxis": f"y{name}"}


def _color(kind: StepKind, look: Theme) -> str:
    return look.text if kind == StepKind.DECODE else PURPLE


def boxes(scenario: Scenario, look: Theme, column: int) -> list[Any]:
    """Experts of a layer that a step needs: a box for prefill and one for decode steps."""
    found: list[Any] = []
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


def bars(found: Scenarios, column: int) -> list[go.Bar]:
    """Expert calls by tokens served, stacked by action; the legend has each action once."""
    scenario, many = found.each[column], len(found.each)
    total = max(int(scenario.calls.sum()), 1)
    made: list[go.Bar] = []
    for action in Action:
        kind, counted = ACTIONS[action], scenario.calls[:, action]
        chosen = np.flatnonzero(counted)
        named = any(each.calls[:, action].any() for each in found.each[:column])
        made.append(
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
                **axes_of(CALLS, column, many),
            )
        )
    return made


def points(scenario: Scenario, look: Theme, column: int, many: int) -> list[go.Scatter]:
    """Tokens/s of prefill and decode steps, with their intervals."""
    found: list[go.Scatter] = []
    for place, (kind, name, symbol) in enumerate(_PHASES):
        phase = scenario.phase(kind)
        drawn = phase is not None and phase.tokens_per_s > 0  # false for nan
        ends = _ends(phase) if phase is not None and drawn else (0.0, 0.0)
        found.append(
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
                **axes_of(SPEED, column, many),
            )
        )
    return found


def _ends(phase: Phase) -> tuple[float, float]:
    """How far the interval goes below and above; 0 where the speed was measured."""
    high = phase.tokens_per_s_high if np.isfinite(phase.tokens_per_s_high) else phase.tokens_per_s
    return phase.tokens_per_s - phase.tokens_per_s_low, high - phase.tokens_per_s
