"""Hit rate by cache size, for every policy at once: where an LRU falls off, and where a run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.curves import Curve, Curves, hit_curves, within
from engine.errors import InputError
from engine.trace import Trace
from engine.units import format_bytes
from fiddler_viz.figures.base import EMPTY, legend_style, note, optional, sizes
from fiddler_viz.figures.lines import axis, edge_label, style, titled
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.standing import standing
from fiddler_viz.theme import Theme, count, percent, theme

POLICIES = ("opt", "lru", "static", "lfu", "lrfu")
NAMES = {
    "opt": "best possible (OPT)",
    "lru": "LRU",
    "static": "static (profile)",
    "oracle": "static (this run)",
    "random": "random",
    "belady": "OPT, from empty",
    "lfu": "LFU",
    "lrfu": "LRFU",
}
SIMULATED_SIZES = 13
"""Sizes at which LFU and LRFU are simulated for a figure."""
_MOST_POINTS = 400
_LABEL = 0.4
"""Of the plot's width, what the words beside the cliff take where it is small."""
_FALL = 0.05
"""A tenth fewer slots that cost an LRU more of its hit rate than this are a cliff."""
_MARGIN = {"l": 58, "r": 20, "b": 84}


@dataclass(frozen=True)
class Here:
    """Where a run stood: what it kept on the device, and how often that was what it needed."""

    on_device: int
    """Experts pinned and cache slots."""
    hit_rate: float
    policy: str
    expert_bytes: int
    words: str
    """Whose figures these are."""


def here(trace: Trace) -> Here | None:
    """Where a run stood, see :func:`fiddler_viz.figures.standing.standing`."""
    of = standing(trace)
    if of is None:
        return None
    plan = of.plan
    held = len(plan.pinned) + plan.cache_slots
    return Here(held, of.summary.hit_rate, plan.policy, plan.expert_bytes, of.words)


def hit_rates(
    source: Any,
    *,
    policies: Any = POLICIES,
    pinned: Any = (),
    half_life: float = 32.0,
    progress: Callable[[int, int], object] | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Hit rate over the number of experts on the device, for several policies.

    ``source``: a Trace, a run, a replay, an engine, the path of a trace file, or what
    :func:`fiddler_viz.curves` gave, which has no mark of a run. ``policies``, ``pinned``,
    ``half_life``, ``progress``: as :func:`engine.curves.hit_curves`. Sizes in CSS pixels. With
    ``lfu`` and ``lrfu`` 2,000 tokens of a 48 x 128 grid take about two seconds, without them half a
    one.
    """
    sizes(width, height, usual=0)  # before what takes long
    if isinstance(source, Curves):
        given, usual = (policies, pinned, half_life), (POLICIES, (), 32.0)
        if repr(given) != repr(usual):  # arrays are equal to nothing as a whole
            raise InputError(
                "hit_rates: these curves are made already: give the run for other policies, "
                "pinned or half_life"
            )
        return hit_rates_figure(source, theme, width=width, height=height)
    trace = as_trace(source)
    found = curves_of(trace, policies, pinned=pinned, half_life=half_life, progress=progress)
    return hit_rates_figure(found, theme, run=here(trace), width=width, height=height)


def curves_of(
    trace: Trace, policies: Any = POLICIES, *, pinned: Any = (), **options: Any
) -> Curves:
    """What :func:`hit_rates` draws. Options are those of :func:`engine.curves.hit_curves`."""
    held = within("pinned", pinned, trace.model.experts_total - 1)
    sizes = np.linspace(0, trace.model.experts_total - len(set(held)), SIMULATED_SIZES)
    simulated = sizes.round().astype(int).clip(min=0).tolist()
    return hit_curves(trace, policies, pinned=held, sizes=simulated, **options)


def hit_rates_figure(
    found: Curves,
    look: str | Theme = "light",
    *,
    run: Here | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The chart of some curves. Sizes in CSS pixels; without ``width`` it fills its container."""
    look = theme(look)
    width, height = sizes(width, height, usual=440)
    figure = titled(
        look,
        headline(found),
        explanation(found),
        width=width,
        height=height,
        margin=_MARGIN,
    )
    for index, (name, curve) in enumerate(found.curves.items()):
        figure.add_trace(_line(found, curve, index, run, NAMES.get(name, name)))
    if run is not None:
        figure.add_trace(_mark(run, look))
    each = optional(f" ({format_bytes(run.expert_bytes)} each)") if run else ""
    figure.update_xaxes(
        **axis(look, ""),
        title_text=f"experts on the device, of {found.experts:,}{each}",
        range=[0, found.experts],
        tickformat=",",
    )
    figure.update_yaxes(**axis(look, "hit rate, % of calls"), range=[0, 1.02], tickformat=".0%")
    figure.update_layout(legend=legend_style(), dragmode="pan", **_cliff(found, run, look))
    return figure


def _line(found: Curves, curve: Curve, index: int, run: Here | None, name: str) -> go.Scatter:
    kind, many = style(index), len(curve.slots)
    at = np.unique(np.linspace(0, many - 1, min(many, _MOST_POINTS)).round().astype(np.int64))
    held = curve.slots[at] + found.pinned
    sizes = [f", {format_bytes(int(n) * run.expert_bytes)}" if run else "" for n in held]
    return go.Scatter(
        x=held,
        y=curve.hit_rate[at],
        name=name,
        mode="lines+markers",
        line={"color": kind.color, "width": 2, "dash": kind.dash},
        marker={"symbol": kind.marker, "size": 8, "maxdisplayed": 13},
        text=[
            f"{count(int(n), 'expert')}{size}: {percent(float(rate))}"
            for n, size, rate in zip(held, sizes, curve.hit_rate[at], strict=True)
        ],
        hovertemplate=f"<b>{name}</b><br>%{{text}}<extra></extra>",
    )


def _mark(run: Here, look: Theme) -> go.Scatter:
    words = f"{run.words}: {percent(run.hit_rate)} with {count(run.on_device, 'expert')}"
    return go.Scatter(
        x=[run.on_device],
        y=[run.hit_rate],
        name=words,
        mode="markers",
        cliponaxis=False,
        marker={
            "symbol": "star",
            "size": 16,
            "color": look.text,
            "line": {"width": 1.5, "color": look.paper},
        },
        hovertemplate=f"<b>{words}</b><extra></extra>",
    )


def _cliff(found: Curves, run: Here | None, look: Theme) -> dict[str, Any]:
    """The sizes at which an LRU forgets what comes next."""
    if not found.calls:
        return {"annotations": [note(look, EMPTY)]}
    edge = found.pinned + found.cliff
    right = edge > 0.6 * found.experts
    words = f"one step: {edge:,}"
    upright = {"x1": edge, "y0": 0, "y1": 1, "yref": "paper"}
    shade = {"type": "rect", "x0": found.pinned, "layer": "below", "line": {"width": 0}}
    line = {"color": look.text, "width": 1.5, "dash": "dash"}
    label = edge_label(look, edge, words, left=right) | {"bgcolor": "rgba(0,0,0,0)"}
    if _room_below(found, run, edge, left=right):
        label |= {"y": 0, "yanchor": "bottom"}
    return {
        "shapes": [
            upright | shade | {"fillcolor": look.empty},
            upright | {"type": "line", "x0": edge, "line": line},
        ],
        "annotations": [label],
    }


def _room_below(found: Curves, run: Here | None, edge: int, *, left: bool) -> bool:
    """Whether curves and mark leave more room beside the line at its foot than at its top."""
    reach = _LABEL * found.experts
    first, last = (edge - reach, edge) if left else (edge, edge + reach)
    rates = [
        rate
        for curve in found.curves.values()
        for held, rate in zip(
            (curve.slots + found.pinned).tolist(), curve.hit_rate.tolist(), strict=True
        )
        if first <= held <= last
    ]
    if run is not None and first <= run.on_device <= last:
        rates.append(run.hit_rate)
    return bool(rates) and min(rates) > 1 - max(rates)


def headline(found: Curves) -> str:
    """What the chart shows, in a sentence; raw text."""
    if not found.calls:
        return "Hit rate by cache size"
    edge = found.pinned + found.cliff
    if "lru" in found.curves:
        lru = found["lru"]
        below, just, room = (_at(lru, found.cliff * n // 10) for n in (9, 10, 20))
        if just - below > _FALL:
            return (
                f"Below one step's {count(edge, 'expert')} an LRU's hit rate falls from "
                f"{percent(just)} to {percent(below)}"
            )
        return (
            f"An LRU hits {percent(just)} of calls with one step's {count(edge, 'expert')} on the "
            f"device, {percent(room)} with twice the slots"
        )
    best = {name: _at(curve, found.cliff) for name, curve in found.curves.items()}
    name = max(best, key=best.__getitem__)
    return f"With {count(edge, 'expert')} on the device {NAMES[name]} hits {percent(best[name])}"


def explanation(found: Curves) -> str:
    """What to look for; raw text."""
    if not found.calls:
        return "Which share of calls finds its expert on the device."
    return (
        f"Left of the line (the cliff) a cache is smaller than what one decode step uses, "
        f"{count(found.cliff, 'slot')}: an LRU drops each expert before it is asked for again. "
        "No policy without prefetching is above OPT."
    )


def _at(curve: Curve, slots: int) -> float:
    """Hit rate at the largest size of at most so many slots."""
    at = int(np.searchsorted(curve.slots, slots, side="right")) - 1
    return float(curve.hit_rate[max(at, 0)])


def describe_hit_rates(found: Curves, run: Here | None = None) -> str:
    """The chart in a few plain sentences; raw text."""
    if not found.calls:
        return f"{EMPTY.capitalize()}."
    sizes = sorted({found.cliff, len_free(found) // 4, len_free(found) // 2})
    rows = [
        f"{count(found.pinned + size, 'expert')}: "
        + ", ".join(
            f"{NAMES.get(name, name)} {percent(_at(curve, size))}"
            for name, curve in found.curves.items()
        )
        for size in sizes
    ]
    mark = ""
    if run is not None:
        mark = (
            f" {run.words.capitalize()} ({run.policy}): {percent(run.hit_rate)} with "
            f"{count(run.on_device, 'expert')}."
        )
    return f"{headline(found)}. {explanation(found)} {'; '.join(rows)}.{mark}"


def len_free(found: Curves) -> int:
    """Experts that are not pinned: the largest cache."""
    return found.experts - found.pinned
