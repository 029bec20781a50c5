"""The page's tables: what the figures draw, as rows of text."""

from __future__ import annotations

import math

import numpy as np

from engine.events import Action, Lane, StepKind
from engine.residency import Memory
from engine.trace import Trace
from engine.units import format_bytes, format_ns
from fiddler_viz.figures import Window
from fiddler_viz.figures.memory import parts
from fiddler_viz.figures.timeline_words import spent
from fiddler_viz.frames import Grid, token_table
from fiddler_viz.theme import ACTIONS, LANES, MEMORY, PLACES, percent

Row = tuple[str, ...]
_MOST = 1000
"""Rows shown of what could be thousands."""


def expert_rows(grid: Grid) -> list[Row]:
    """Experts, those with the most tokens first."""
    names = {int(place): kind.label for place, kind in PLACES.items()}
    order = np.argsort(-grid.tokens.ravel(), kind="stable")[:_MOST]
    rows: list[Row] = []
    for layer, expert in np.stack(np.unravel_index(order, grid.shape), axis=1).tolist():
        calls = [
            f"{grid.actions[action, layer, expert]:,} {ACTIONS[action].label}"
            for action in Action
            if grid.actions[action, layer, expert]
        ]
        place = names[int(grid.places[layer, expert])]
        tokens = f"{grid.tokens[layer, expert]:,}"
        rows.append((str(layer), str(expert), place, tokens, ", ".join(calls) or "-"))
    return rows


def lane_rows(view: Window) -> list[Row]:
    """How busy each lane was, how much of the time all waited for it, and with what it was."""
    return [
        (
            f"{LANES[lane][0]} ({LANES[lane][1]})",
            percent(view.busy(lane)),
            percent(view.times.critical(lane)),
            spent(view, lane),
        )
        for lane in Lane
    ]


def memory_rows(memory: Memory, expert_bytes: int) -> list[Row]:
    """Parts of the budget."""
    rows: list[Row] = []
    for name, size in parts(memory).items():
        experts = f" ({size // expert_bytes:,})" if name in ("pinned", "cached") else ""
        share = percent(size / memory.budget if memory.budget else math.nan)
        rows.append((MEMORY[name].label + experts, format_bytes(size), share))
    return rows


def step_rows(trace: Trace) -> list[Row]:
    """Steps in order; tokens with a batch's padding, which takes its time, too."""
    steps, hits = trace.steps, token_table(trace).hit_rate
    rows: list[Row] = []
    for i in range(min(len(trace.step_rows), _MOST)):
        mine = hits[trace.tokens["step"] == i]
        known = mine[~np.isnan(mine)]
        rows.append(
            (
                str(i),
                StepKind(int(steps["kind"][i])).name.lower(),
                f"{steps['tokens'][i]:,}",
                format_ns(int(steps["end_ns"][i] - steps["start_ns"][i])),
                percent(float(known.mean()) if len(known) else math.nan),
            )
        )
    return rows
