"""The crossover chart: one expert on the CPU, copied, and resident, by token count.

:func:`crossover` is the one line; :func:`crossover_figure` draws an
:class:`engine.crossover.Crossover`, of which a slider can make a new one at each move.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine import crossover as data
from engine.cost import TABLE_TOKENS, CostModel
from engine.crossover import Crossover
from engine.errors import InputError
from engine.events import Action
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware, resolve_model
from engine.units import format_ns
from fiddler_viz import demo
from fiddler_viz.figures.base import legend_style, optional, sizes
from fiddler_viz.figures.crossover_calls import STEMS_AXIS, Calls, calls_of, stems
from fiddler_viz.figures.crossover_words import headline, uncertainty
from fiddler_viz.figures.lines import axis, edge_label, fade, titled
from fiddler_viz.figures.source import as_trace
from fiddler_viz.theme import ACTIONS, Theme, percent, theme

USUAL_HARDWARE = "rtx-4090"
WAYS = {
    Action.CPU: ("cpu_ns", "on the CPU", "solid"),
    Action.STREAM: ("stream_ns", "copied, then run on the GPU", "dash"),
    Action.RESIDENT: ("resident_ns", "on the GPU already", "dot"),
}
"""Field, name and dash of each line, in the order drawn."""
_MARGIN = {"l": 66, "r": 20, "b": 84}
_S = 1e-9


def crossover(
    source: Any = None,
    *,
    hardware: str | Path | HardwareSpec | None = None,
    model: str | ModelSpec | None = None,
    link_gbps: float | None = None,
    cpu_gbps: float | None = None,
    cpu_cores: int | None = None,
    most_tokens: int = TABLE_TOKENS,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """From how many tokens on copying a missing expert to the GPU beats running it on the CPU.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file, whose costs are
    drawn, with its calls; without it those of ``model`` on ``hardware`` (names of presets, or
    specs). With it, ``hardware`` is another machine for the same model. ``link_gbps``,
    ``cpu_gbps``, ``cpu_cores``: what if, see :mod:`engine.what_if`. Sizes in CSS pixels.
    """
    found = crossing(
        source,
        hardware=hardware,
        model=model,
        link_gbps=link_gbps,
        cpu_gbps=cpu_gbps,
        cpu_cores=cpu_cores,
        most_tokens=most_tokens,
    )
    calls = None if source is None else calls_of(as_trace(source))
    return crossover_figure(found, theme, calls=calls, width=width, height=height)


def crossing(
    source: Any = None,
    *,
    hardware: str | Path | HardwareSpec | None = None,
    model: str | ModelSpec | None = None,
    link_gbps: float | None = None,
    cpu_gbps: float | None = None,
    cpu_cores: int | None = None,
    most_tokens: int = TABLE_TOKENS,
) -> Crossover:
    """What :func:`crossover` draws, as arrays. The arguments are its."""
    asked = {"link_gbps": link_gbps, "cpu_gbps": cpu_gbps, "cpu_cores": cpu_cores}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    trace = None if source is None else as_trace(source)
    if trace is not None and model is not None:
        raise InputError(
            "crossover: expected a run, whose model is known, or model=; got both: leave one out"
        )
    if trace is not None and hardware is None and not changes:
        plan = trace.plan
        return data.crossover(
            plan.costs, model=trace.model.name, machine=plan.hardware_title, most_tokens=most_tokens
        )
    if trace is None:
        spec = resolve_model(demo.COSTED_AS if model is None else model)
        machine = resolve_hardware(USUAL_HARDWARE if hardware is None else hardware)
    else:
        spec = trace.model
        known = trace.plan.basis_of(spec).hardware if hardware is None else hardware
        machine = resolve_hardware(known)
    machine = machine.what_if(model=spec, **changes)
    return data.crossover(
        CostModel.of(spec, machine),
        model=spec.name,
        machine=(machine.original or machine).title,
        changed=machine.changed,
        measured=data.measured_points(machine, spec),
        most_tokens=most_tokens,
    )


def crossover_figure(
    found: Crossover,
    look: str | Theme = "light",
    *,
    calls: Calls | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The chart of a crossover. Sizes in CSS pixels; without ``width`` it fills its container.

    ``calls``: of :func:`calls_of`, drawn as stems along the axis, in the colour of the sooner way.
    """
    look = theme(look)
    width, height = sizes(width, height, usual=440)
    figure = titled(
        look, headline(found), uncertainty(found), width=width, height=height, margin=_MARGIN
    )
    ways = WAYS if found.accelerator else {Action.CPU: WAYS[Action.CPU]}
    for action, (field, name, dash) in ways.items():
        figure.add_traces(_line(found, action, getattr(found, field), name, dash))
    if found.measured:
        figure.add_trace(_points(found, look))
    if calls is not None and len(calls[0]):
        figure.add_traces(stems(found, calls))
    ticks = [4**power for power in range(11) if 4**power <= found.largest]
    figure.update_xaxes(
        **axis(look, ""),
        title_text=f"tokens that one expert serves{optional(' at once')}",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        range=[-0.02 * (most := float(np.log10(found.largest))), 1.02 * most],
        unifiedhovertitle={"text": "tokens: %{x:,}"},
    )
    figure.update_yaxes(
        **axis(look, ""),
        title_text=f"time{optional(' of one expert')}",
        type="log",
        dtick=1,
        ticksuffix="s",
        tickformat=".3~s",
    )
    figure.update_layout(
        legend=legend_style(), hovermode="x unified", **_marks(found, look), dragmode="pan"
    )
    if calls is not None:
        figure.update_layout(yaxis2=STEMS_AXIS)
    return figure


def _line(
    found: Crossover, action: Action, ns: data.Ints, name: str, dash: str
) -> list[go.Scatter]:
    """The band of a line, and the line itself."""
    kind, error = ACTIONS[action], found.relative_error
    low, high = ns * max(1 - error, 0.01), ns * (1 + error)
    band = go.Scatter(
        x=np.concatenate([found.tokens, found.tokens[::-1]]),
        y=np.concatenate([low, high[::-1]]) * _S,
        fill="toself",
        fillcolor=fade(kind.color, 0.16),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=kind.label,
        showlegend=False,
    )
    line = go.Scatter(
        x=found.tokens,
        y=ns * _S,
        name=name,
        legendgroup=kind.label,
        mode="lines+markers",
        line={"color": kind.color, "width": 2.5, "dash": dash},
        marker={"symbol": kind.marker, "size": 8, "maxdisplayed": 9},
        text=[
            f"{format_ns(int(at))} ({format_ns(float(a))} to {format_ns(float(b))})"
            for at, a, b in zip(ns, low, high, strict=True)
        ],
        hovertemplate="%{text}",
    )
    return [band, line]


def _points(found: Crossover, look: Theme) -> go.Scatter:
    """What a calibration's fit says, with how far single measurements were off."""
    ns = np.array([point.ns for point in found.measured])
    return go.Scatter(
        x=[point.tokens for point in found.measured],
        y=ns * _S,
        error_y={
            "array": ns * [point.residual for point in found.measured] * _S,
            "color": look.text,
            "thickness": 1.5,
        },
        name="calibration ± residual",
        mode="markers",
        marker={"symbol": "diamond-open", "size": 10, "color": look.text, "line": {"width": 2}},
        text=[
            format_ns(point.ns)
            + (f" ± {percent(point.residual)}, {point.samples:,} times" if point.samples else "")
            for point in found.measured
        ],
        hovertemplate="%{text}",
    )


def _marks(found: Crossover, look: Theme) -> dict[str, Any]:
    """Where copying begins to win, and where it may."""
    at = found.break_even
    if not found.accelerator or at is None or at > found.largest:
        return {}
    line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    first, last = found.earliest or at, min(found.latest or found.largest, found.largest)
    maybe = {"type": "rect", "x0": first, "x1": last, "y0": 0, "y1": 1, "yref": "paper"}
    right = bool(np.log10(at) > 0.6 * np.log10(found.largest))
    more = optional(" token on" if at == 1 else " tokens on")
    words = f"copy from {at:,}{more}"
    return {
        "shapes": [
            maybe | {"fillcolor": look.empty, "line": {"width": 0}, "layer": "below"},
            line | {"line": {"color": look.text, "width": 1.5, "dash": "dash"}},
        ],
        "annotations": [edge_label(look, float(np.log10(at)), words, left=right)],
    }
