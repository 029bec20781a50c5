"""What the heatmap says: titles, scales, hover texts, and the whole of it in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from engine.events import Action, Lane
from engine.residency import Place
from engine.units import format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.frames import Grid, counts
from fiddler_viz.theme import ACTIONS, LANES, PLACES, count, percent

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the scale has labels: of its length."""


@dataclass(frozen=True)
class Mode:
    """What one way to colour the heatmap is called, and how its scale reads."""

    name: str
    """In a menu."""
    title: str
    look_for: str
    """One sentence."""
    unit: str
    """Of the scale."""
    says: Callable[[float, float], str]
    """An amount, and what 1 stands for, as a label of the scale."""
    dots: str = ""
    """What a dot means; empty: there are none."""
    nothing: str = ""
    """What a cell without an amount means; empty: there is none, or the title says it."""
    runs: bool = False
    """Whether cells also tell what ran in the step shown."""


def _points(amount: float, most: float) -> str:
    """Percentage points, with a sign."""
    return f"{100 * amount * most:+.3g}".replace("+0", "0").replace("-", "\N{MINUS SIGN}")


def _duration(amount: float, most: float) -> str:
    """A time, all of them in the unit that the longest needs."""
    unit, size = next((u for u in _UNITS if most >= u[1]), ("ns", 1.0))
    return f"{amount * most / size:.3g} {unit}" if amount else "0"


_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))
MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "popularity": Mode(
            "popularity",
            "Experts by popularity",
            "Bright cells serve the most tokens: they deserve the GPU. Are they pinned?",
            "tokens, % of hottest expert",
            lambda amount, _: f"{amount:.0%}",
            runs=True,
        ),
        "token": Mode(
            "this token",
            "Experts this token chose",
            "Bright cells got most of the router's weight. Were they on the GPU?",
            "routing weight",
            lambda amount, _: f"{amount:.2g}",
            runs=True,
        ),
        "residency": Mode(
            "on the GPU",
            "Experts by time on the GPU",
            "Bright cells were in GPU memory all the time, those in between came and went.",
            "share of the time in GPU memory",
            lambda amount, _: f"{amount:.0%}",
        ),
        "hits": Mode(
            "hit rate",
            "Experts by hit rate",
            "Dark cells with a dot are asked for often and hardly ever there: pin them.",
            "calls found on the GPU",
            lambda amount, _: f"{amount:.0%}",
            "called most (a tenth)",
            "never called",
        ),
        "time": Mode(
            "time",
            "Where the time of the lanes went",
            "Bright cells cost the most. With a dot: by copying weights, not by computing.",
            "time of all lanes",
            _duration,
            "mostly copying (costliest tenth)",
            "never called",
        ),
        "difference": Mode(
            "difference",
            "Experts used more, or less",
            "Orange: used more than there, blue: less. Is one placement right for both?",
            "percentage points of tokens",
            _points,
            "more (largest tenth)",
        ),
    }
)
"""By :attr:`Grid.show`."""


def scale(grid: Grid) -> tuple[list[float], list[str]]:
    """Values and labels of the colour scale's ticks."""
    low = -1.0 if grid.show == "difference" else 0.0
    values = [low + at * (1.0 - low) for at in TICKS]
    if grid.is_empty and grid.show in ("time", "difference"):
        return values, ["" for _ in values]
    says = MODES[grid.show].says
    return values, [says(value, grid.coloured.most) for value in values]


def hover_texts(grid: Grid) -> list[str]:
    """What is known of each cell, row by row; short, because there may be thousands."""
    names = {int(place): kind.label for place, kind in PLACES.items()}
    by_hand = dict.fromkeys(grid.by_hand.pinned, " by hand")
    by_hand |= dict.fromkeys(grid.by_hand.unpinned, ", unpinned by hand")
    rows = zip(
        grid.places.ravel().tolist(),
        grid.tokens.ravel().tolist(),
        _amounts(grid),
        grid.ran.ravel().tolist(),
        *(grid.actions[action].ravel().tolist() for action in Action),
        strict=True,
    )
    texts: list[str] = []
    for flat, (place, tokens, amount, ran, *calls) in enumerate(rows):
        text = names[place] + by_hand.get(flat, "")
        if tokens:
            text += f"<br>{count(tokens, 'token')}"
            if grid.show in ("popularity", "token"):
                text += f", {amount}"
        if amount and grid.show not in ("popularity", "token"):
            text += f"<br>{amount}"
        if any(calls):
            text += f"<br>calls: {calls[0]} resident, {calls[1]} streamed, {calls[2]} on the CPU"
        if ran >= 0:
            text += f"<br>ran {ACTIONS[Action(ran)].label} in this step"
        texts.append(text)
    return texts


def _amounts(grid: Grid) -> Iterable[str]:
    """The amount of each cell in words; empty where there is none."""
    amount, parts = grid.amount.ravel().tolist(), grid.coloured.parts
    if grid.show == "popularity":
        return [f"{percent(value)} of the hottest" for value in amount]
    if grid.show == "token":
        return [f"weight {value:.2f}" for value in amount]
    if grid.show == "hits":
        return ["" if math.isnan(value) else f"{percent(value)} found there" for value in amount]
    if parts is None:
        return [""] * len(amount)
    each = parts.reshape(len(parts), -1).T.tolist()
    if grid.show == "residency":
        return [
            ""
            if math.isnan(host)
            else f"{percent(pinned)} of the time pinned, "
            f"{percent(cached)} cached, {percent(host)} on the host only"
            for host, pinned, cached in each
        ]
    if grid.show == "time":
        whole = max(float(parts.sum()), 1.0)
        return [_time(lanes, whole) if any(lanes) else "" for lanes in each]
    return ["" if math.isnan(mine) else _shares(mine, other) for mine, other in each]


def _time(lanes: list[float], whole: float) -> str:
    """``1.2 ms, 3.4% of all: GPU 0.2 ms, h2d 1.0 ms``."""
    spent = ", ".join(
        f"{LANES[Lane(i)][0]} {format_ns(round(ns))}" for i, ns in enumerate(lanes) if ns
    )
    return f"{format_ns(round(sum(lanes)))}, {percent(sum(lanes) / whole)} of all: {spent}"


def _shares(mine: float, other: float) -> str:
    """``12% of the tokens, 30% there``."""
    known = "-" if math.isnan(other) else percent(other)
    return f"{percent(mine)} of the tokens, {known} there"


def describe_heatmap(grid: Grid) -> str:
    """The heatmap in a few plain sentences; raw text."""
    total, found = grid.places.size, counts(grid.places)
    edits = f" ({grid.by_hand})" if grid.by_hand else ""
    here = f"Of {total} experts, {found['pinned']} are pinned{edits} and {found['cached']} cached."
    if grid.is_empty:
        return f"{EMPTY.capitalize()}. {here}"
    resident, stream, cpu = grid.actions.sum(axis=(1, 2)).tolist()
    on_device = grid.places != Place.HOST
    covered = percent(float(grid.tokens[on_device].sum() / grid.tokens.sum()))
    return (
        f"{grid.caption[:1].upper()}{grid.caption[1:]}. {here} They serve {covered} of the tokens "
        f"routed. {_most(grid)} Expert calls: {resident:,} resident, "
        f"{stream:,} streamed, {cpu:,} on the CPU."
    )


def _most(grid: Grid) -> str:
    """Where the colour is strongest."""
    amount = grid.amount
    if np.isnan(amount).all():
        return ""
    words = list(_amounts(grid))
    last = int(np.nanargmax(amount))
    if grid.show in ("popularity", "token"):
        return f"Hottest: {_cell(grid, last)}."
    if grid.show in ("residency", "hits"):
        often = np.where(np.isnan(amount), -1, grid.actions.sum(axis=0))
        asked = int(often.argmax())
        return f"Called most: {_cell(grid, asked)}, {words[asked]}."
    if grid.show == "time":
        return f"Costliest: {_cell(grid, last)}, {words[last]}."
    least = int(np.nanargmin(amount))
    return (
        f"Most more: {_cell(grid, last)}, {words[last]}. "
        f"Most less: {_cell(grid, least)}, {words[least]}."
    )


def _cell(grid: Grid, flat: int) -> str:
    layer, expert = divmod(flat, grid.shape[1])
    return f"layer {layer}, expert {expert}"
