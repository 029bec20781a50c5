"""Which experts serve which kind of text: where two differ, or all of them in one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from engine.errors import InputError, unknown_name
from engine.strict import check_name, plain
from fiddler_viz.figures.base import EMPTY, legend_style, note, sizes
from fiddler_viz.figures.lines import axis, titled
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.specialisation_words import explanation, headline, short_name
from fiddler_viz.frames import Specialisation, labelled
from fiddler_viz.frames import specialisation as compare
from fiddler_viz.theme import BLUE, CIVIDIS, ORANGE, Theme, percent, safe, theme

SHOWS = ("difference", "domains")
"""Two domains against each other in all layers; or all domains in one layer."""
MOST_MARKS = 24
"""Cells with the largest differences that also bear a marker."""
_TEXT_UP_TO = 16
"""Experts across up to which shares are also written into the cells."""
_MARGIN = {"l": 58, "r": 16, "b": 84}


def specialisation(
    sources: Any,
    *,
    labels: Sequence[str] | None = None,
    show: str | None = None,
    pair: tuple[str, str] | None = None,
    layer: int | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Which experts serve which kind of text.

    ``sources``: a mapping of names to Traces, runs, replays, engines or paths of trace files, such
    as ``{"code": run, "prose": other}``; or one of these with ``labels``, one for each row of its
    tokens table. ``show``: ``"difference"`` (of a ``pair`` of names, in all layers; what two get)
    or ``"domains"`` (all names, in one ``layer``, None: where they differ most; what more than two
    get). Sizes in CSS pixels.
    """
    found = domains_of(sources, labels)
    return specialisation_figure(
        found, theme, show=show, pair=pair, layer=layer, width=width, height=height
    )


def domains_of(sources: Any, labels: Sequence[str] | None = None) -> Specialisation:
    """What :func:`specialisation` draws, as arrays. The arguments are its."""
    if labels is not None:
        return labelled(as_trace(sources), labels)
    if not isinstance(sources, Mapping):
        raise InputError(
            'specialisation: expected runs by name, such as {"code": run, "prose": other}, or one '
            f"run and labels=, one for each token; got {type(sources).__name__}."
        )
    return compare({str(name): as_trace(source) for name, source in sources.items()})


def specialisation_figure(
    found: Specialisation,
    look: str | Theme = "light",
    *,
    show: str | None = None,
    pair: tuple[str, str] | None = None,
    layer: int | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The heatmap of some domains. Sizes in CSS pixels; without ``width`` it fills its box."""
    look = theme(look)
    if show is None:
        show = "difference" if len(found.labels) == 2 or pair is not None else "domains"
    check_name("show", show, SHOWS)
    if show == "difference":
        if layer is not None:
            raise InputError('specialisation: a layer is only for show="domains".')
        return _difference(found, look, _pair(found, pair), width=width, height=height)
    if pair is not None:
        raise InputError('specialisation: a pair is only for show="difference".')
    return _domains(found, look, _layer(found, layer), width=width, height=height)


def _pair(found: Specialisation, pair: tuple[str, str] | None) -> tuple[int, int]:
    """Numbers of two domains; the first two where none are named."""
    if pair is None:
        return 0, 1
    if not isinstance(pair, tuple | list) or len(pair) != 2 or pair[0] == pair[1]:
        raise InputError(f"specialisation, pair: expected two different names, got {pair!r}.")
    for name in pair:
        if name not in found.labels:
            raise unknown_name("domain", name, found.labels)
    return found.labels.index(pair[0]), found.labels.index(pair[1])


def _layer(found: Specialisation, layer: int | None) -> int:
    """A layer's number; where none is given the one in which domains differ most."""
    layers = found.share.shape[1]
    if layer is None:
        return int(np.argmax(found.apart() - found.by_chance()))
    layer = plain(layer)
    if type(layer) is not int or not -layers <= layer < layers:
        raise InputError(f"specialisation, layer: expected 0 to {layers - 1}, got {layer!r}.")
    return layer % layers


def _difference(
    found: Specialisation,
    look: Theme,
    pair: tuple[int, int],
    *,
    width: int | None,
    height: int | None,
) -> go.Figure:
    first, second = (short_name(found, at) for at in pair)
    apart = found.difference(*pair)
    layers, experts = apart.shape
    usual = int(np.clip(200 + 15 * layers, 420, 800))
    width, height = sizes(width, height, usual=usual)
    figure = titled(
        look,
        headline(found, pair),
        explanation(found, pair),
        width=width,
        height=height,
        margin=_MARGIN,
    )
    most = float(np.abs(apart).max()) or 1.0
    figure.add_trace(
        go.Heatmap(
            z=100 * apart,
            zmin=-100 * most,
            zmax=100 * most,
            colorscale=[[0, ORANGE], [0.5, _middle(look)], [1, BLUE]],
            xgap=1 if experts <= 32 else 0,
            ygap=1 if experts <= 32 else 0,
            text=_texts(found, pair),
            hovertemplate="<b>layer %{y}, expert %{x}</b><br>%{text}<extra></extra>",
            colorbar={
                "orientation": "v",
                "thickness": 10,
                "outlinewidth": 0,
                "title": {
                    "text": f"{safe(first)} less {safe(second)}, % points",
                    "side": "right",
                    "font": {"size": 11},
                },
                "tickfont": {"size": 11, "color": look.muted},
            },
        )
    )
    order = np.argsort(-np.abs(apart).ravel(), kind="stable")[: min(MOST_MARKS, apart.size // 8)]
    for at, name, symbol in ((1, first, "triangle-up"), (-1, second, "triangle-down")):
        chosen = order[np.sign(apart.ravel()[order]) == at]
        figure.add_trace(_marks(chosen, experts, name, symbol, look))
    figure.add_traces(_by_layer(found, look, pair))
    figure.update_layout(
        xaxis=axis(look, "expert")
        | {"range": [-0.5, experts - 0.5], "showgrid": False, "domain": [0, 0.76]}
        | _ticks(experts),
        xaxis2=axis(look, "to other experts, %")
        | {"domain": [0.8, 1], "anchor": "y", "rangemode": "tozero", "nticks": 4},
        yaxis=axis(look, "layer") | {"range": [layers - 0.5, -0.5], "showgrid": False},
        legend=legend_style() | {"itemclick": False},
        bargap=0.25,
    )
    if not all(found.tokens):
        figure.update_layout(annotations=[note(look, EMPTY)])
    return figure


def _ticks(experts: int) -> dict[str, int]:
    """A tick for each expert, where there are few."""
    return {"dtick": 1} if experts <= _TEXT_UP_TO else {}


def _middle(look: Theme) -> str:
    """What neither domain leans to: near the panel, but opaque in every theme."""
    return "#2a3039" if look.name == "dark" else "#f1f2f4"


def _marks(
    chosen: np.ndarray[Any, Any], experts: int, name: str, symbol: str, look: Theme
) -> go.Scatter:
    rows, columns = np.divmod(chosen, experts)
    return go.Scatter(
        x=columns,
        y=rows,
        name=f"much more in {safe(name)}",
        mode="markers",
        marker={
            "symbol": symbol,
            "size": 9 if experts <= 32 else 7,
            "color": BLUE if symbol.endswith("up") else ORANGE,
            "line": {"width": 1.2, "color": look.text},
        },
        hoverinfo="skip",
    )


def _by_layer(
    found: Specialisation, look: Theme, pair: tuple[int, int]
) -> list[go.Bar | go.Scatter]:
    """How much of each layer's routing goes to other experts, beside what chance gives."""
    apart, chance = 100 * found.apart(*pair), 100 * found.by_chance(*pair)
    bars = go.Bar(
        x=apart,
        y=np.arange(len(apart)),
        orientation="h",
        xaxis="x2",
        name="to other experts",
        marker={"color": look.muted, "line": {"width": 0}},
        hovertemplate="<b>layer %{y}</b>: %{x:.3g}% to other experts<extra></extra>",
    )
    line = go.Scatter(
        x=chance,
        y=np.arange(len(chance)),
        xaxis="x2",
        mode="lines",
        line={"color": look.text, "width": 1.5, "dash": "dot"},
        name="by chance (tokens shuffled)",
        hovertemplate="layer %{y}, by chance: %{x:.3g}%<extra></extra>",
    )
    return [bars, line]


def _domains(
    found: Specialisation, look: Theme, layer: int, *, width: int | None, height: int | None
) -> go.Figure:
    share = found.share[:, layer]  # (domains, experts)
    domains, experts = share.shape
    usual = int(np.clip(240 + 34 * domains, 320, 800))
    width, height = sizes(width, height, usual=usual)
    figure = titled(
        look,
        headline(found, layer=layer),
        explanation(found),
        width=width,
        height=height,
        margin=_MARGIN | {"b": 52},
    )
    figure.add_trace(
        go.Heatmap(
            z=100 * share,
            zmin=0,
            zmax=100 * float(share.max()) or 1,
            colorscale=CIVIDIS,
            xgap=1 if experts <= 32 else 0,
            ygap=1,
            text=[[percent(float(value)) for value in row] for row in share],
            texttemplate="%{text}" if experts <= _TEXT_UP_TO else "",
            hovertemplate="<b>%{customdata}, expert %{x}</b><br>%{text} of its choices in layer "
            f"{layer}<extra></extra>",
            customdata=[[safe(short_name(found, at))] * experts for at in range(domains)],
            colorbar={
                "thickness": 10,
                "outlinewidth": 0,
                "title": {"text": "share, %", "side": "right", "font": {"size": 11}},
                "tickfont": {"size": 11, "color": look.muted},
            },
        )
    )
    figure.update_xaxes(
        **axis(look, f"expert of layer {layer}") | {"showgrid": False} | _ticks(experts),
        range=[-0.5, experts - 0.5],
    )
    figure.update_yaxes(
        **axis(look, "domain") | {"showgrid": False},
        tickvals=list(range(domains)),
        ticktext=[safe(short_name(found, at)) for at in range(domains)],
        range=[domains - 0.5, -0.5],
        automargin=True,
    )
    if not all(found.tokens):
        figure.update_layout(annotations=[note(look, EMPTY)])
    return figure


def _texts(found: Specialisation, pair: tuple[int, int]) -> list[list[str]]:
    """Both shares of each cell."""
    names = [safe(short_name(found, at)) for at in pair]
    one, other = (found.share[at] for at in pair)
    return [
        [f"{names[0]} {percent(a)}, {names[1]} {percent(b)}" for a, b in zip(*rows, strict=True)]
        for rows in zip(one.tolist(), other.tolist(), strict=True)
    ]
