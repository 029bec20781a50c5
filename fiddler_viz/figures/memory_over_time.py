"""The device's memory over time: stacked parts of the budget, and what came and went."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.history import Ledger
from engine.units import format_bytes, format_ns
from fiddler_viz.figures.base import (
    EMPTY,
    axis_style,
    legend_style,
    new_figure,
    note,
    sizes,
    title_of,
)
from fiddler_viz.figures.room import Room, room_of
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.window import between
from fiddler_viz.frames import MemoryTrack, memory_track
from fiddler_viz.theme import BLUE, MEMORY, ORANGE, Kind, Theme, count, percent, safe, theme

_MARGIN = {"l": 78, "r": 16, "t": 54, "b": 84}
_S = 1e-9
_PARTS = len(MEMORY)
BUDGET, ADMITTED, EVICTED, PLANS = range(_PARTS, _PARTS + 4)
"""Where each trace is in ``figure.data``, after those of the parts."""
_CAME_AT, _WENT_AT, _TOP = 1.21, 1.09, 1.3
"""Heights over the budget, in budgets."""
_GPU = Room()
_ROWS = 1000


def memory_over_time(
    source: Any,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """What filled the GPU's memory, all the time or between two times.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. Parts of the
    budget are stacked; admissions and evictions of the cache and new plans are marked. Sizes in
    CSS pixels. Raises InputError for what is no time.
    """
    trace = as_trace(source)
    shown = memory_track(Ledger.of(trace), *between(trace, start_ns, end_ns))
    return memory_over_time_figure(shown, theme, room=room_of(trace), width=width, height=height)


def memory_over_time_figure(
    track: MemoryTrack,
    look: str | Theme = "light",
    *,
    room: Room = _GPU,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The chart of a track. Without ``width`` it fills its container."""
    look = theme(look)
    width, height = sizes(width, height, usual=340)
    seconds = {"ticksuffix": "s", "tickformat": ".6~s", "nticks": 9, "ticks": "outside"}
    figures = {"ticksuffix": "B", "tickformat": ".3~s", "nticks": 5, "fixedrange": True}
    figure = new_figure(
        look,
        width=width,
        height=height,
        margin=_MARGIN,
        xaxis=axis_style(look) | seconds,
        yaxis=axis_style(look) | figures,
        dragmode="pan",
        annotations=[note(look, EMPTY)],
        legend=legend_style(),
        hovermode="closest",
    )
    figure.add_traces([_area(name, kind, look) for name, kind in MEMORY.items()])
    figure.add_traces(
        [
            _line("budget", look.text, "dash"),
            _marks("admitted", "triangle-up", ORANGE),
            _marks("evicted", "triangle-down", BLUE),
            _line("new plan", look.text, "dot"),
        ]
    )
    update_memory_over_time(figure, track, look, room=room)
    return figure


def _area(name: str, kind: Kind, look: Theme) -> go.Scatter:
    color = kind.color or look.empty
    return go.Scatter(
        name=kind.label,
        mode="lines",
        stackgroup="budget",
        line={"width": 0.5, "color": color, "shape": "hv"},
        fillcolor=color,
        fillpattern={
            "shape": kind.pattern,
            "fillmode": "overlay",
            "fgcolor": "#fff",
            "fgopacity": 0.45,
            "size": 7,
            "solidity": 0.25,
        },
        hoveron="points",
        hovertemplate="%{x}: %{text}<extra></extra>",
        meta=name,
    )


def _line(name: str, color: str, dash: str) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode="lines",
        line={
            "color": color,
            "width": 1.5,
            "dash": dash,
            "shape": "hv" if dash == "dash" else None,
        },
        hovertemplate="%{text}<extra></extra>",
    )


def _marks(name: str, symbol: str, color: str) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode="markers",
        marker={"symbol": symbol, "color": color, "size": []},
        hovertemplate="%{text}<extra></extra>",
    )


def update_memory_over_time(
    figure: go.Figure, track: MemoryTrack, look: str | Theme = "light", *, room: Room = _GPU
) -> None:
    """Show another track in a figure of :func:`memory_over_time_figure`, in place."""
    look = theme(look)
    x, budget = track.time_ns * _S, track.parts["budget"]
    most = float(budget.max(initial=0)) or 1.0
    with figure.batch_update():
        for trace, (name, kind) in zip(list(figure.data)[:_PARTS], MEMORY.items(), strict=True):
            size = track.parts[name].clip(min=0)
            trace.update(x=x, y=size, text=_texts(track, name, kind.label))
        figure.data[BUDGET].update(
            x=x, y=budget, text=[f"budget {format_bytes(n)}" for n in budget.tolist()]
        )
        for index, counts, at, word in (
            (ADMITTED, track.admitted, _CAME_AT, "admitted"),
            (EVICTED, track.evicted, _WENT_AT, "evicted"),
        ):
            some = np.flatnonzero(counts)
            many = max(int(counts.max(initial=0)), 1)
            figure.data[index].update(
                x=track.bin_ns[some] * _S,
                y=np.full(len(some), at * most),
                text=[f"{count(n, 'expert')} {word}" for n in counts[some].tolist()],
            )
            figure.data[index].marker.size = 4 + 4 * np.sqrt(counts[some] / many)
        figure.data[PLANS].update(
            x=np.repeat(track.plan_ns * _S, 3),
            y=np.tile([0, _TOP * most, np.nan], len(track.plan_ns)),
            text=[f"plan {n + 1} takes effect" for n in np.repeat(track.plan_number, 3).tolist()],
        )
        figure.layout.xaxis.range = [track.start_ns * _S, track.end_ns * _S]
        figure.layout.yaxis.range = [0, _TOP * most]
        figure.layout.title = title_of(look, f"{room.name} over time", "", safe(changes(track)))
        figure.layout.annotations[0].visible = track.is_empty


def _texts(track: MemoryTrack, name: str, label: str) -> list[str]:
    sizes = track.parts[name].tolist()
    if name not in ("pinned", "cached"):
        return [f"{label} {format_bytes(size)}" for size in sizes]
    return [
        f"{name} {format_bytes(size)} ({count(size // track.expert_bytes, 'expert')})"
        for size in sizes
    ]


def changes(track: MemoryTrack, *, brief: bool = False) -> str:
    """What came and went, and what to look for; raw text."""
    came, went = int(track.admitted.sum()), int(track.evicted.sum())
    said = f"{count(came, 'expert')} admitted{'' if brief else ' to the cache'}, {went:,} evicted"
    if len(track.plan_ns):
        said += f", {count(len(track.plan_ns), 'new plan')}"
    if brief:
        return f"{said}. Never above the budget (dashed)."
    return f"{said}. What is resident never exceeds the budget (dashed)."


def describe_memory_over_time(track: MemoryTrack, room: Room = _GPU) -> str:
    """The chart in a few plain sentences; raw text."""
    if track.is_empty:
        return f"{EMPTY.capitalize()}."
    first, last = (
        ", ".join(
            f"{kind.label} {format_bytes(int(track.parts[name][at]))}"
            for name, kind in MEMORY.items()
        )
        for at in (0, -1)
    )
    used = track.parts["budget"] - track.parts["free"]
    most = int(used.argmax())
    share = used[most] / max(int(track.parts["budget"][most]), 1)
    return (
        f"{room.name} from {format_ns(track.start_ns)} to {format_ns(track.end_ns)}: at first "
        f"{first}; at the end {last}. At most {format_bytes(int(used[most]))} in use, "
        f"{percent(float(share))} of the budget. {changes(track)}"
    )


def memory_track_rows(track: MemoryTrack) -> list[tuple[str, ...]]:
    """The chart as a table: the time, then the size of each part and of the budget."""
    names = (*MEMORY, "budget")
    return [
        (
            format_ns(int(track.time_ns[at])),
            *(format_bytes(int(track.parts[name][at])) for name in names),
        )
        for at in range(min(len(track.time_ns), _ROWS))
    ]
