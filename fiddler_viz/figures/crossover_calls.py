"""A run's own calls in the crossover chart: which would be sooner on the CPU, which by a copy."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from engine.crossover import Crossover, Ints
from engine.events import Action
from engine.trace import Trace
from fiddler_viz.theme import ACTIONS, percent

Calls = tuple[Ints, Ints]
"""Token counts, ascending, and how many calls of an expert were for so many."""
STEMS_AXIS = {"overlaying": "y", "visible": False, "range": [0, 3.2], "fixedrange": True}
"""The second y axis: all calls at one token count reach a third of the height."""


def calls_of(trace: Trace) -> Calls:
    """How often a run called one expert for so many tokens."""
    calls = np.bincount(trace.batch.count)
    tokens = np.flatnonzero(calls)
    return tokens, calls[tokens]


def stems(found: Crossover, calls: Calls) -> list[go.Scatter]:
    """Of the run's calls: how many were for so many tokens, in two kinds."""
    tokens, many = calls
    shown = tokens <= found.largest
    tokens, share = tokens[shown], many[shown] / many.sum()
    copied = _copy_wins(found, tokens)
    made: list[go.Scatter] = []
    for action, mine in ((Action.CPU, ~copied), (Action.STREAM, copied)):
        kind, way = ACTIONS[action], "the CPU" if action == Action.CPU else "a copy"
        x, y = tokens[mine], share[mine]
        made.append(
            go.Scatter(
                x=x,
                y=y,
                yaxis="y2",
                name=f"calls: {percent(float(y.sum()))} sooner by {way}",
                mode="markers",
                cliponaxis=False,  # most stand on the axis
                marker={"symbol": kind.marker, "size": 7, "color": kind.color},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": np.zeros(len(y)),
                    "arrayminus": y,
                    "color": kind.color,
                    "thickness": 3,
                    "width": 0,
                },
                text=[f"{percent(float(part))} of the run's calls" for part in y],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return made


def _copy_wins(found: Crossover, tokens: Ints) -> NDArray[np.bool_]:
    if not found.accelerator or found.break_even is None:
        return np.zeros(len(tokens), dtype=np.bool_)
    return tokens >= found.break_even


def shares(found: Crossover, calls: Calls) -> tuple[float, float]:
    """Which shares of a run's calls are sooner on the CPU, and by a copy; of those missing."""
    tokens, many = calls
    copied = float(many[_copy_wins(found, tokens)].sum() / max(many.sum(), 1))
    return 1 - copied, copied
