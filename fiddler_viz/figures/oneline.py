"""One line, one figure: ``fv.heatmap(run.trace)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.inspection import inspect_call
from engine.profile import Profile, text_of
from engine.strict import check_name
from fiddler_viz.figures.heatmap import heatmap_figure
from fiddler_viz.figures.inspector import inspector_figure
from fiddler_viz.figures.memory import memory_figure
from fiddler_viz.figures.room import room_of
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.strip import TokenStrip
from fiddler_viz.figures.timeline import timeline_figure
from fiddler_viz.figures.window import window
from fiddler_viz.frames import SHOWS, Shares, grid, memory_of, pick_step, pick_token, shares, strip
from fiddler_viz.theme import Theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

STATIC_PIXELS = 3600
"""Nobody recomputes the raster of a static figure when its reader zooms in, so it is finer."""


def heatmap(
    source: Any,
    *,
    show: str | None = None,
    token: int | None = None,
    step: int | None = None,
    against: Any = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Which experts are used, which are on the device, and what ran where.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. ``show``:

    - ``"popularity"``: tokens per expert;
    - ``"token"``: routing weights of one ``token``, or of all tokens of one ``step``;
    - ``"residency"``: share of the time in GPU memory, pinned or cached;
    - ``"hits"``: share of an expert's calls that found it there, with dots where calls are many;
    - ``"time"``: time of all lanes that running it and copying its weights took;
    - ``"difference"``: share of the tokens less that of ``against``: another run (whatever
      ``source`` may be) or a Profile; left out: the profile that the run was planned with.

    All but ``"token"`` count up to ``step`` if one is given. Left out, ``show`` is popularity, or
    the difference where there is something ``against``. Sizes in CSS pixels.
    """
    trace = as_trace(source)
    if show is not None:
        check_name("show", show, SHOWS)
    else:
        show = "popularity" if against is None else "difference"
    other: Shares | None = None
    if against is not None:
        if show != "difference":
            raise InputError(f"against= is for show='difference', got show={show!r}: leave one out")
        known = against if isinstance(against, Profile) else as_trace(against)
        name = None if isinstance(known, Profile) else text_of(known)
        other = shares(known, trace.model.top_k, name)
    shown = grid(trace, show=show, token=token, step=step, against=other)
    return heatmap_figure(shown, theme, width=width, height=height)


def timeline(
    source: Any,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    step: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """What GPU, CPU and both directions of the link did, all the time or in one ``step``.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. Up to 500 pieces
    of work in view are bars with hover texts, more are drawn as how busy each lane was.
    """
    view = window(
        as_trace(source), start_ns=start_ns, end_ns=end_ns, step=step, pixels=STATIC_PIXELS
    )
    return timeline_figure(view, theme, width=width, height=height)


def memory(
    source: Any,
    *,
    step: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """What the GPU's memory holds at the end of ``step`` (left out: at the end).

    Of a run on the host device, which uses no GPU: what host memory holds beside the experts.
    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file.
    """
    trace = as_trace(source)
    return memory_figure(
        memory_of(trace, step),
        theme,
        room=room_of(trace, step),
        expert_bytes=trace.plan.expert_bytes,
        width=width,
        height=height,
    )


def inspect(
    source: Any,
    *,
    token: int | None = None,
    step: int | None = None,
    layer: int | None = None,
    expert: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Why an expert ran where it did: what each way was expected to cost, and what it took.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. ``token`` (or
    ``step``), ``layer`` and ``expert`` name the call; what is left out is filled by the call with
    the most regret, see :func:`engine.inspection.inspect_call`.
    """
    trace = as_trace(source)
    if token is not None:
        token = pick_token(trace, token)
    if step is not None:
        step = pick_step(trace, step)
    call = inspect_call(trace, token=token, step=step, layer=layer, expert=expert)
    text = trace.texts[token] if token is not None and trace.texts else None
    return inspector_figure(call, theme, text=text, width=width, height=height)


def tokens(
    source: Any,
    *,
    color: str = "latency",
    layer: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    theme: str | Theme = "light",
) -> TokenStrip:
    """The text of a run, every token a cell, coloured; shows itself, ``.save(path)`` writes a page.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. ``color``:
    ``"latency"``, ``"hits"`` (of all layers, or of one ``layer``), ``"action"`` or ``"expert"``:
    where its first expert in one ``layer`` ran, or which that was. ``start`` and ``stop``: as in a
    slice of the tokens as they read; left out, the last 600.
    """
    shown = strip(as_trace(source), color=color, layer=layer, start=start, stop=stop)
    return TokenStrip(shown, theme)
