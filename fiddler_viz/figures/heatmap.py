"""Layers down, experts across: who is used, who is on the device, what ran where.

:func:`heatmap_figure` builds the figure once; :func:`update_heatmap` changes a built one in place
(a ``FigureWidget`` then sends one message), from a new :class:`fiddler_viz.frames.Grid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import get_colorscale

from engine.events import Action
from engine.residency import Place
from fiddler_viz.figures.base import (
    EMPTY,
    axis_style,
    legend_style,
    new_figure,
    note,
    sizes,
    title_of,
    trace,
)
from fiddler_viz.figures.heatmap_words import MODES, hover_texts, scale
from fiddler_viz.figures.outline import cell_dashes, cell_outlines
from fiddler_viz.frames import Grid
from fiddler_viz.theme import (
    ACTIONS,
    BY_HAND,
    CIVIDIS,
    NOTHING,
    PLACES,
    Kind,
    Theme,
    diverging,
    safe,
    theme,
)

_MARGIN = {"l": 50, "r": 10, "t": 56, "b": 62}
FEW_CELLS = 1024
"""Up to here a pinned cell is outlined; beyond, it has a dash in its middle."""
_CELLS, _PINNED, _CACHED, _RAN, _DOTS, _BY_HAND = 0, 1, 4, 7, 10, 11
"""Where each trace is in ``figure.data``; pinned and cached take one per :func:`_inks`, ran one
per action, what was done by hand a halo and its ink."""
TRACES = {
    "places": {
        int(Place.PINNED): list(range(_PINNED, _CACHED)),
        int(Place.CACHED): list(range(_CACHED, _RAN)),
    },
    "ran": list(range(_RAN, _DOTS)),
    "dots": _DOTS,
    "by_hand": [_BY_HAND, _BY_HAND + 1],
}
"""Which traces are what, for who paints cells without plotly: by place and ink, by action."""
_AMOUNTS = tuple([at, color] for at, color in get_colorscale(CIVIDIS))
"""In plotly's own form: what is there already is then not sent again."""
_HOVER_SHORT = "<b>layer %{y}, expert %{x}</b><extra></extra>"
_HOVER = "<b>layer %{y}, expert %{x}</b><br>%{text}<extra></extra>"
_BRIGHT = 0.5
"""From this amount on cividis is closer to white than to black."""
_HATCHED = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="100%"><pattern id="h" width="5" '
    'height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M2.5 0V5" '
    f'stroke="{NOTHING.color}" stroke-opacity=".7" stroke-width="2.2"/></pattern>'
    '<g fill="url(#h)">{}</g></svg>'
)
"""Under cells without an amount. Colour would not do: grey is the middle of cividis."""
_ASIDE = 0.3
"""How far from the middle of their cells dots, and marks of edits in large ones, stand."""


def heatmap_figure(
    grid: Grid,
    look: str | Theme = "light",
    *,
    width: int | None = None,
    height: int | None = None,
    legend: bool = True,
) -> go.Figure:
    """The heatmap of a grid. Sizes in CSS pixels; without ``width`` it fills its container.

    ``legend=False`` where it is updated often: plotly lays a legend out anew at every update, which
    takes a third of the browser's time.
    """
    look = theme(look)
    layers, experts = grid.shape
    usual = int(np.clip(150 + 15 * layers, 380, 760))
    width, height = sizes(width, height, usual=usual)
    axis = axis_style(look) | {"tick0": 0, "showgrid": False, "ticks": ""}
    across = {
        "title": {"text": "expert", "standoff": 2, "font": {"size": 12}},
        "range": [-0.5, experts - 0.5],
        "dtick": _tick(experts, 16),
    }
    down = {
        "title": {"text": "layer", "standoff": 4, "font": {"size": 12}},
        "range": [layers - 0.5, -0.5],
        "dtick": _tick(layers, 9),
    }
    room_y = height - _MARGIN["t"] - _MARGIN["b"]
    room_x = (width or 760) - 150  # its container is not known: a usual one
    size = float(np.clip(0.78 * min(room_y / layers, room_x / experts), 4, 11))
    traces = _traces(grid, look, size, legend=legend)
    names = [made["name"] for made in traces if "name" in made]
    figure = new_figure(
        look,
        width=width,
        height=height,
        margin=_MARGIN | {"b": _MARGIN["b"] + 19 * (_rows(names, room_x) - 1)},
        xaxis=axis | across,
        yaxis=axis | down,
        annotations=[note(look, EMPTY)],
        images=[_behind()],
        legend=legend_style() | {"itemsizing": "constant"},
        showlegend=None if legend else False,
    )
    figure.add_traces(traces)
    update_heatmap(figure, grid, look)
    return figure


def _rows(names: Sequence[str], room: float) -> int:
    """Rows of a legend in so many pixels: plotly gives each entry the longest one's width."""
    widths = [40 + 6 * len(name) for name in names] or [1]  # the mark, letters of 11 pixels
    across = max(1, int(room // max(widths)))
    return 1 if sum(widths) <= room else -(-len(names) // across)


def _behind() -> dict[str, object]:
    """What lies under all cells: see :func:`_hatching`."""
    whole = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1}
    return whole | {"sizing": "stretch", "layer": "below"}


def _hatching(blank: NDArray[np.bool_]) -> str:
    """An image with hatching in ``blank`` cells; of small ones, which have no gaps, everywhere."""
    blank = blank if blank.size <= FEW_CELLS else np.ones((1, 1), np.bool_)
    high, wide = (100 / many for many in blank.shape)
    rects = "".join(
        f'<rect x="{column * wide:.4g}%" y="{row * high:.4g}%" width="{wide:.4g}%" '
        f'height="{high:.4g}%"/>'
        for row, column in np.argwhere(blank).tolist()
    )
    return f"data:image/svg+xml,{quote(_HATCHED.format(rects))}"


def _traces(grid: Grid, look: Theme, size: float, *, legend: bool) -> list[dict[str, Any]]:
    layers, experts = grid.shape
    few = layers * experts <= FEW_CELLS
    rows, columns = np.divmod(np.arange(layers * experts), experts)
    cells = trace(
        "heatmap",
        x=columns.astype(np.int16),
        y=rows.astype(np.int16),
        zmax=1,
        xgap=1 if few else 0,
        ygap=1 if few else 0,
        hovertemplate=_HOVER,
        colorbar={
            "thickness": 10,
            "outlinewidth": 0,
            "title": {"text": "", "side": "right", "font": {"size": 11}},
            "tickfont": {"size": 11, "color": look.muted},
        },
    )
    inks = _inks(look, few)
    pinned = [
        trace(
            "scatter",
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
    dots = _markers(
        "dots", "circle", "#000", max(0.6 * size, 4) if few else 3, edge=1 if few else 0
    )
    for marks in ran:
        marks["marker"]["line"]["color"] = "#fff"
    edge = 0.75 * size if few else max(size, 5.0)
    by_hand = [_markers("by hand", [], color, edge, edge=w) for color, w in _edit_inks(few)]
    made = [cells, *pinned, *cached, *ran, dots, *by_hand]
    return [*made, *_legend(grid, look, few)] if legend else made


def _edit_inks(few: bool) -> tuple[tuple[str, float], tuple[str, float]]:
    """Colours and widths of what marks an edit by hand, on any amount: a halo, and a line."""
    return ("#fff", 3.6 if few else 3.0), ("#000", 1.6 if few else 1.2)


def _inks(look: Theme, few: bool) -> list[tuple[str, float]]:
    """Colours and widths of marks: on blank cells, then two that go with any amount.

    In large cells a black line on a white halo; small ones only have room for one of them.
    """
    blank, white, black = look.muted, "#fff", "#000"
    return (
        [(blank, 1.2), (white, 3.2), (black, 1.4)] if few else [(blank, 2), (white, 2), (black, 2)]
    )


def _by_ink(grid: Grid, place: Place, look: Theme) -> list[NDArray[np.bool_]]:
    """Where each of the inks marks a place."""
    here, blank = grid.places == place, np.isnan(grid.amount)
    if grid.amount.size <= FEW_CELLS:
        return [here & blank, here & ~blank, here & ~blank]
    dark = is_dark(grid, look)
    return [here & blank, here & dark & ~blank, here & ~dark & ~blank]


def is_dark(grid: Grid, look: Theme) -> NDArray[np.bool_]:
    """Where an amount's colour is closer to black than to white."""
    if grid.show == "difference":
        return np.abs(grid.amount) < _BRIGHT if look.name == "dark" else np.abs(grid.amount) > 0.8
    return grid.amount < _BRIGHT


def _markers(
    name: str, symbol: str | list[str], color: str, size: float, edge: float
) -> dict[str, Any]:
    return trace(
        "scatter",
        mode="markers",
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
        marker={"symbol": symbol, "size": size, "color": color, "line": {"width": edge}},
    )


def _legend(grid: Grid, look: Theme, few: bool) -> list[dict[str, Any]]:
    """Entries that stay although nothing may be pinned, cached or run just now."""
    places = [PLACES[Place.PINNED], PLACES[Place.CACHED]]
    entries = [(kind, look.text, kind.label) for kind in places]
    mode = MODES[grid.show]
    if mode.runs:
        entries += [(kind, kind.color, kind.label) for kind in ACTIONS.values()]
    if mode.dots:
        entries.append((Kind(mode.dots, "", "", "circle", ""), look.text, "dots"))
    entries += [(kind, look.text, "by hand") for kind in edits(grid)]
    made = [
        trace(
            "scatter",
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
        made[0]["marker"] = {"symbol": "line-ew-open", "color": look.text, "line": {"width": 3}}
    for entry in made[len(entries) - len(edits(grid)) :]:
        entry["marker"]["line"] = {"width": 1.6}
    if _has_nothing(grid):
        pattern = {"shape": NOTHING.pattern, "fgcolor": NOTHING.color, "size": 5}
        ground = {"color": look.panel, "pattern": pattern | {"fillmode": "replace"}}
        made.append(trace("bar", x=[None], y=[None], name=mode.nothing, marker=ground))
    return made


def _has_nothing(grid: Grid) -> bool:
    """Whether there are cells without an amount, and that is said of them."""
    return bool(MODES[grid.show].nothing) and bool(np.isnan(grid.amount).any())


def edits(grid: Grid) -> list[Kind]:
    """What kinds of edits by hand there are."""
    return [kind for name, kind in BY_HAND.items() if getattr(grid.by_hand, name)]


def update_heatmap(
    figure: go.Figure, grid: Grid, look: str | Theme = "light", *, hover: bool = True
) -> None:
    """Show another grid of the same shape in a figure of :func:`heatmap_figure`, in place.

    A legend stays that of the grid it was built for. ``hover=False``: only which expert it is shows
    under the mouse. Texts of all experts are most of what is sent, and old with the next step.
    """
    look, mode, few = theme(look), MODES[grid.show], grid.amount.size <= FEW_CELLS
    with figure.batch_update():
        cells = figure.data[_CELLS]
        cells.z = np.ascontiguousarray(grid.amount, np.float32).ravel()
        cells.hovertemplate = _HOVER if hover else _HOVER_SHORT
        if hover:
            cells.text = hover_texts(grid)
        apart = grid.show == "difference"
        cells.zmin = -1 if apart else 0
        cells.colorscale = diverging(look) if apart else _AMOUNTS
        cells.colorbar.title.text = mode.unit
        values, labels = scale(grid)
        cells.colorbar.update(tickvals=values, ticktext=labels)
        marks = cell_outlines if few else cell_dashes
        for index, where in enumerate(_by_ink(grid, Place.PINNED, look)):
            x, y = marks(where)
            figure.data[_PINNED + index].update(x=x, y=y)
        for index, where in enumerate(_by_ink(grid, Place.CACHED, look)):
            _put(figure.data[_CACHED + index], where)
        for action in Action:
            _put(figure.data[_RAN + action], grid.ran == action)
        dots = grid.coloured.dots
        rows, columns = np.nonzero(np.zeros(grid.shape, np.bool_) if dots is None else dots)
        across, down = aside(grid.amount.size)
        figure.data[_DOTS].update(x=columns + across, y=rows + down)
        # Filled with what shows: black with a white edge looks like a ring on dark cells.
        dark = is_dark(grid, look)[rows, columns]
        figure.data[_DOTS].marker.color = np.where(dark, "#fff", "#000").tolist()
        figure.data[_DOTS].marker.line.color = np.where(dark, "#000", "#fff").tolist()
        _mark_edits(figure, grid, -_ASIDE if few else 0.0)
        figure.layout.title = title_of(look, mode.title, safe(grid.caption), safe(mode.look_for))
        figure.layout.annotations[0].visible = grid.is_empty
        hatched = _has_nothing(grid)
        figure.layout.images[0].visible = hatched
        if hatched:
            figure.layout.images[0].source = _hatching(np.isnan(grid.amount))


def aside(cells: int) -> tuple[float, float]:
    """How far from the middle of its cell a dot stands: experts and layers."""
    return (_ASIDE, 0) if cells <= FEW_CELLS else (0, _ASIDE)


def _mark_edits(figure: go.Figure, grid: Grid, aside: float) -> None:
    """A cross where an expert was pinned by hand, a stroke where it was unpinned."""
    flat = np.array([*grid.by_hand.pinned, *grid.by_hand.unpinned], np.int64)
    symbols = [BY_HAND["pinned"].marker] * len(grid.by_hand.pinned)
    symbols += [BY_HAND["unpinned"].marker] * len(grid.by_hand.unpinned)
    rows, columns = np.divmod(flat, grid.shape[1])
    for marks in (figure.data[_BY_HAND], figure.data[_BY_HAND + 1]):
        marks.update(x=columns + aside, y=rows, marker={"symbol": symbols})


def _put(marks: go.Scatter, where: NDArray[np.bool_]) -> None:
    rows, columns = np.nonzero(where)
    marks.update(x=columns.astype(np.int16), y=rows.astype(np.int16))


def _tick(n: int, most: int) -> int:
    """Distance of ticks, a power of two, for at most ``most`` labels."""
    return 1 << max(0, int(np.ceil(np.log2(n / most)))) if n > most else 1
