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
from fiddler_viz.figures.base import EMPTY, axis_style, legend_style, new_figure, note, title_of
from fiddler_viz.figures.outline import cell_dashes, cell_outlines
from fiddler_viz.frames import Grid, counts
from fiddler_viz.theme import ACTIONS, CIVIDIS, PLACES, Theme, count, percent, safe, theme

TITLES = {"popularity": "Experts by popularity", "token": "Experts this token chose"}
LOOK_FOR = {
    "popularity": "Bright cells serve the most tokens: they deserve the GPU. Are they pinned?",
    "token": "Bright cells got most of the router's weight. Were they on the GPU?",
}
AMOUNTS = {"popularity": "tokens, % of hottest expert", "token": "routing weight"}
_MARGIN = {"l": 50, "r": 10, "t": 56, "b": 62}
FEW_CELLS = 1024
"""Up to here a pinned cell is outlined; beyond, it has a dash in its middle."""
_CELLS, _PINNED, _CACHED, _RAN = 0, 1, 4, 7
"""Where each trace is in ``figure.data``; pinned and cached take one per :func:`_inks`, ran one
per action."""
_BRIGHT = 0.5
"""From this amount on cividis is closer to white than to black."""


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
    figure = new_figure(look, width=width, height=height, margin=_MARGIN)
    axis = axis_style(look) | {"tick0": 0, "showgrid": False, "ticks": ""}
    figure.update_xaxes(
        **axis,
        title={"text": "expert", "standoff": 2, "font": {"size": 12}},
        range=[-0.5, experts - 0.5],
        dtick=_tick(experts, 16),
    )
    figure.update_yaxes(
        **axis,
        title={"text": "layer", "standoff": 4, "font": {"size": 12}},
        range=[layers - 0.5, -0.5],
        dtick=_tick(layers, 9),
    )
    room_y = height - _MARGIN["t"] - _MARGIN["b"]
    room_x = (width or 760) - 150  # its container is not known: a usual one
    size = float(np.clip(0.78 * min(room_y / layers, room_x / experts), 4, 11))
    figure.add_traces(_traces(grid, look, size))
    figure.update_layout(
        annotations=[note(look, EMPTY)], legend=legend_style() | {"itemsizing": "constant"}
    )
    update_heatmap(figure, grid, look)
    return figure


def _traces(grid: Grid, look: Theme, size: float) -> list[go.Heatmap | go.Scatter]:
    layers, experts = grid.shape
    few = layers * experts <= FEW_CELLS
    rows, columns = np.divmod(np.arange(layers * experts), experts)
    cells = go.Heatmap(
        x=columns.astype(np.int16),
        y=rows.astype(np.int16),
        zmin=0,
        zmax=1,
        colorscale=CIVIDIS,
        xgap=1 if few else 0,
        ygap=1 if few else 0,
        hovertemplate="<b>layer %{y}, expert %{x}</b><br>%{text}<extra></extra>",
        colorbar={
            "thickness": 10,
            "outlinewidth": 0,
            "title": {"text": "", "side": "right", "font": {"size": 11}},
            "tickfont": {"size": 11, "color": look.muted},
        },
    )
    inks = _inks(look, few)
    pinned = [
        go.Scatter(
            mode="lines",
            line={"color": color, "width": width},
            hoverinfo="skip",
            legendgroup="pinned",
            showlegend=False,
        )
        for color, width in inks
    ]
    ring = size + 2 if few else size
    cached = [_markers("cached", "circle-open", color, ring, edge=width) for color, width in inks]
    ran = [
        _markers(kind.label, kind.marker, kind.color, size, edge=1 if size > 5 else 0.5)
        for kind in (ACTIONS[action] for action in Action)
    ]
    for trace in ran:
        trace.marker.line.color = "#fff"
    return [cells, *pinned, *cached, *ran, *_legend(look, few)]


def _inks(look: Theme, few: bool) -> list[tuple[str, float]]:
    """Colours and widths of marks: on blank cells, then two that go with any amount.

    In large cells a black line on a white halo; small ones only have room for one of them.
    """
    blank, white, black = look.muted, "#fff", "#000"
    return (
        [(blank, 1.2), (white, 3.2), (black, 1.4)] if few else [(blank, 2), (white, 2), (black, 2)]
    )


def _by_ink(grid: Grid, place: Place) -> list[NDArray[np.bool_]]:
    """Where each of the inks marks a place."""
    here, blank = grid.places == place, np.isnan(grid.amount)
    if grid.amount.size <= FEW_CELLS:
        return [here & blank, here & ~blank, here & ~blank]
    return [here & blank, here & (grid.amount < _BRIGHT), here & (grid.amount >= _BRIGHT)]


def _markers(name: str, symbol: str, color: str, size: float, edge: float) -> go.Scatter:
    return go.Scatter(
        mode="markers",
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
        marker={"symbol": symbol, "size": size, "color": color, "line": {"width": edge}},
    )


def _legend(look: Theme, few: bool) -> list[go.Scatter]:
    """Entries that stay although nothing may be pinned, cached or run just now."""
    places = [PLACES[Place.PINNED], PLACES[Place.CACHED]]
    entries = [(kind, look.text, kind.label) for kind in places]
    entries += [(kind, kind.color, kind.label) for kind in ACTIONS.values()]
    made = [
        go.Scatter(
            x=[None],
            y=[None],
            name=kind.label,
            legendgroup=group,
            mode="markers",
            marker={"symbol": kind.marker, "color": color, "size": 9},
        )
        for kind, color, group in entries
    ]
    if not few:
        made[0].marker = {"symbol": "line-ew-open", "color": look.text, "line": {"width": 3}}
    return made


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
            cells.text = hover_texts(grid)
        cells.colorbar.title.text = AMOUNTS[grid.show]
        cells.colorbar.tickformat = ".0%" if grid.show == "popularity" else ".1f"
        marks = cell_outlines if grid.amount.size <= FEW_CELLS else cell_dashes
        for index, where in enumerate(_by_ink(grid, Place.PINNED)):
            x, y = marks(where)
            figure.data[_PINNED + index].update(x=x, y=y)
        for index, where in enumerate(_by_ink(grid, Place.CACHED)):
            _put(figure.data[_CACHED + index], where)
        for action in Action:
            _put(figure.data[_RAN + action], grid.ran == action)
        figure.layout.title = title_of(
            look, TITLES[grid.show], safe(grid.caption), LOOK_FOR[grid.show]
        )
        figure.layout.annotations[0].visible = grid.is_empty


def _put(trace: go.Scatter, where: NDArray[np.bool_]) -> None:
    rows, columns = np.nonzero(where)
    trace.update(x=columns.astype(np.int16), y=rows.astype(np.int16))


def hover_texts(grid: Grid) -> list[str]:
    """What is known of each cell, row by row; short, because there may be thousands."""
    names = {int(place): kind.label for place, kind in PLACES.items()}
    popular = grid.show == "popularity"
    rows = zip(
        grid.places.ravel().tolist(),
        grid.tokens.ravel().tolist(),
        grid.amount.ravel().tolist(),
        grid.ran.ravel().tolist(),
        *(grid.actions[action].ravel().tolist() for action in Action),
        strict=True,
    )
    texts: list[str] = []
    for place, tokens, amount, ran, *calls in rows:
        text = names[place]
        if tokens:
            share = f"{percent(amount)} of the hottest" if popular else f"weight {amount:.2f}"
            text += f"<br>{count(tokens, 'token')}, {share}"
        if any(calls):
            text += f"<br>calls: {calls[0]} resident, {calls[1]} streamed, {calls[2]} on the CPU"
        if ran >= 0:
            text += f"<br>ran {ACTIONS[Action(ran)].label} in this step"
        texts.append(text)
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
