"""Layers down, experts across: who is used, who is on the device, what ran where.

:func:`heatmap_figure` builds the figure once; :func:`update_heatmap` changes a built one in place
(a ``FigureWidget`` then sends one message), from a new :class:`fiddler_viz.frames.Grid`.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from engine.events import Action
from engine.residency import Place
from fiddler_viz.figures.base import EMPTY, axis_style, new_figure, note, title_of
from fiddler_viz.figures.outline import cell_outlines, region_outlines
from fiddler_viz.frames import Grid, counts
from fiddler_viz.theme import ACTIONS, CIVIDIS, PLACES, Theme, count, percent, safe, theme

TITLES = {"popularity": "Experts: how popular", "token": "Experts: this token's choice"}
LOOK_FOR = {
    "popularity": "Bright cells serve the most tokens: they deserve the GPU. Are they pinned?",
    "token": "Bright cells got most of the router's weight. Were they on the GPU?",
}
AMOUNTS = {"popularity": "tokens, of the hottest expert's", "token": "routing weight"}
_MARGIN = {"l": 52, "r": 12, "t": 58, "b": 66}
_FEW_CELLS = 1024
"""Up to here every pinned cell is outlined; beyond, the borders of pinned regions."""
_CELLS, _HALO, _LINES, _CACHED, _RAN = 0, 1, 2, 3, 4
"""Where each trace is in ``figure.data``; the three actions follow ``_RAN``."""


def heatmap_figure(
    grid: Grid,
    look: str | Theme = "light",
    *,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The heatmap of a grid. Sizes in CSS pixels; without ``width`` it fills its container."""
    look = theme(look)
    layers, experts = grid.shape
    height = height or int(np.clip(150 + 15 * layers, 380, 760))
    figure = new_figure(look, title="", subtitle="", width=width, height=height, margin=_MARGIN)
    figure.update_xaxes(
        **axis_style(look),
        title={"text": "expert", "standoff": 4, "font": {"size": 12}},
        range=[-0.5, experts - 0.5],
        dtick=_tick(experts, 16),
        tick0=0,
        showgrid=False,
        ticks="",
    )
    figure.update_yaxes(
        **axis_style(look),
        title={"text": "layer", "standoff": 6, "font": {"size": 12}},
        range=[layers - 0.5, -0.5],
        dtick=_tick(layers, 9),
        tick0=0,
        showgrid=False,
        ticks="",
    )
    inner = height - _MARGIN["t"] - _MARGIN["b"], (width or 760) - 150
    cell = min(inner[0] / layers, inner[1] / experts)
    figure.add_traces(_traces(grid, look, float(np.clip(0.62 * cell, 3, 12))))
    figure.update_layout(
        annotations=[note(look, EMPTY)],
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 11},
            "itemsizing": "constant",
        },
    )
    update_heatmap(figure, grid, look)
    return figure


def _traces(grid: Grid, look: Theme, size: float) -> list[go.Heatmap | go.Scatter]:
    layers, experts = grid.shape
    few = layers * experts <= _FEW_CELLS
    rows, columns = np.divmod(np.arange(layers * experts), experts)
    cells = go.Heatmap(
        x=columns.astype(np.int16),
        y=rows.astype(np.int16),
        zmin=0,
        zmax=1,
        colorscale=CIVIDIS,
        xgap=1 if few else 0,
        ygap=1 if few else 0,
        hoverinfo="text",
        colorbar={
            "thickness": 10,
            "outlinewidth": 0,
            "title": {"text": "", "side": "right", "font": {"size": 11}},
            "tickfont": {"size": 11, "color": look.muted},
        },
    )
    bold = 1.6 if few else 1.0
    line = {"mode": "lines", "hoverinfo": "skip", "connectgaps": False, "showlegend": False}
    pinned = {"legendgroup": "pinned", **line}
    halo = go.Scatter(line={"color": "#ffffff", "width": bold + 1.8}, **pinned)
    lines = go.Scatter(line={"color": "#000000", "width": bold}, **pinned)
    cached = _markers(Place.CACHED.name.lower(), PLACES[Place.CACHED].marker, "#ffffff", 1.5 * size)
    cached.marker.line = {"width": bold, "color": "#ffffff"}
    cached.marker.symbol = "circle-open"
    ran = [
        _markers(kind.label, kind.marker, kind.color, size, outline="#ffffff")
        for kind in (ACTIONS[action] for action in Action)
    ]
    return [cells, halo, lines, cached, *ran, *_legend(look)]


def _markers(name: str, symbol: str, color: str, size: float, outline: str = "") -> go.Scatter:
    return go.Scatter(
        name=name,
        legendgroup=name,
        mode="markers",
        hoverinfo="skip",
        showlegend=False,
        marker={
            "symbol": symbol,
            "size": size,
            "color": color,
            "line": {"width": 1 if outline and size > 5 else 0, "color": outline or color},
        },
    )


def _legend(look: Theme) -> list[go.Scatter]:
    """Entries that stay although nothing may be pinned, cached or run just now."""
    entries = [
        (PLACES[Place.PINNED], look.text, "pinned"),
        (PLACES[Place.CACHED], look.text, "cached"),
    ]
    entries += [
        (ACTIONS[action], ACTIONS[action].color, ACTIONS[action].label) for action in Action
    ]
    return [
        go.Scatter(
            x=[None],
            y=[None],
            name=kind.label,
            legendgroup=group,
            mode="markers",
            marker={"symbol": kind.marker, "color": color, "size": 10},
        )
        for kind, color, group in entries
    ]


def update_heatmap(
    figure: go.Figure, grid: Grid, look: str | Theme = "light", *, hover: bool = True
) -> None:
    """Show another grid of the same shape in a figure of :func:`heatmap_figure`, in place.

    ``hover=False`` leaves the hover texts as they are: they are most of what is sent, and nobody
    reads them while a run is live.
    """
    look = theme(look)
    with figure.batch_update():
        cells = figure.data[_CELLS]
        cells.z = np.ascontiguousarray(grid.amount, np.float32).ravel()
        if hover:
            cells.hovertext = hover_texts(grid)
        ratio = "%" if grid.show == "popularity" else ""
        cells.colorbar.title.text = AMOUNTS[grid.show]
        cells.colorbar.tickformat = ".0%" if ratio else ".1f"
        few = grid.amount.size <= _FEW_CELLS
        x, y = (cell_outlines if few else region_outlines)(grid.places == Place.PINNED)
        for index in (_HALO, _LINES):
            figure.data[index].update(x=x, y=y)
        _place(figure.data[_CACHED], grid.places == Place.CACHED)
        for action in Action:
            _place(figure.data[_RAN + action], grid.ran == action)
        figure.layout.title = title_of(look, TITLES[grid.show], subtitle(grid))
        figure.layout.annotations[0].visible = grid.is_empty


def _place(trace: go.Scatter, where: NDArray[np.bool_]) -> None:
    rows, columns = np.nonzero(where)
    trace.update(x=columns.astype(np.int16), y=rows.astype(np.int16))


def subtitle(grid: Grid) -> str:
    """What to look for, and what is shown; safe."""
    return f"{LOOK_FOR[grid.show]} <i>{safe(grid.caption)}</i>"


def hover_texts(grid: Grid) -> list[str]:
    """One text per cell, row by row."""
    names = {int(place): kind.label for place, kind in PLACES.items()}
    rows = zip(
        grid.places.ravel().tolist(),
        grid.tokens.ravel().tolist(),
        grid.amount.ravel().tolist(),
        grid.ran.ravel().tolist(),
        *(grid.actions[action].ravel().tolist() for action in Action),
        strict=True,
    )
    experts = grid.shape[1]
    texts: list[str] = []
    for index, (place, tokens, amount, ran, resident, stream, cpu) in enumerate(rows):
        layer, expert = divmod(index, experts)
        lines = [f"<b>layer {layer}, expert {expert}</b>: {names[place]}"]
        if tokens:
            share = percent(amount) if grid.show == "popularity" else f"weight {amount:.2f}"
            lines.append(f"{count(tokens, 'token')} ({share})")
            lines.append(f"calls: {resident} resident, {stream} streamed, {cpu} on the CPU")
        else:
            lines.append("no token came here")
        if ran >= 0:
            lines.append(f"this step: {ACTIONS[Action(ran)].label}")
        texts.append("<br>".join(lines))
    return texts


def describe_heatmap(grid: Grid) -> str:
    """The heatmap in a few plain sentences; raw text."""
    total, found = grid.places.size, counts(grid.places)
    here = f"Of {total} experts, {found['pinned']} are pinned and {found['cached']} cached."
    if grid.is_empty:
        return f"{EMPTY.capitalize()}. {here}"
    layer, expert = divmod(int(np.nanargmax(grid.amount)), grid.shape[1])
    resident, stream, cpu = grid.actions.sum(axis=(1, 2)).tolist()
    on_device = grid.places != Place.HOST
    covered = percent(float(grid.tokens[on_device].sum() / grid.tokens.sum()))
    return (
        f"{grid.caption[:1].upper()}{grid.caption[1:]}. {here} They serve {covered} of the tokens "
        f"routed. Hottest: layer {layer}, expert {expert}. Expert calls: {resident:,} resident, "
        f"{stream:,} streamed, {cpu:,} on the CPU."
    )


def _tick(n: int, most: int) -> int:
    """Distance of ticks, a power of two, for at most ``most`` labels."""
    return 1 << max(0, int(np.ceil(np.log2(n / most)))) if n > most else 1
