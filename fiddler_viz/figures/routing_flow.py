"""The routing's flow from one layer to the next: bands from expert to expert.

Drawn by hand, not as plotly's Sankey: its bands know no pattern, and colour alone must tell
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from engine.errors import InputError
from engine.strict import plain
from fiddler_viz.figures.base import EMPTY, legend_style, note, sizes
from fiddler_viz.figures.lines import fade, titled
from fiddler_viz.figures.source import as_trace
from fiddler_viz.frames import Flow, Ints, flow
from fiddler_viz.theme import BLUE, GREY, ORANGE, VERMILLION, Theme, count, percent, theme

MOST_FLOWS = 64
"""Bands that can still be told apart: all of an 8 x 8 grid."""
OFTEN = 1.5
"""From so many times chance on a flow is called frequent, and from 1 / so many down rare."""
KINDS = (
    (f"at least {OFTEN:g} times as often as by chance", ORANGE, "/"),
    ("about as often as by chance", GREY, ""),
    (f"at most 1/{OFTEN:g} as often", BLUE, "."),
)
"""Name, colour and pattern of each kind of flow."""
_MARGIN = {"l": 12, "r": 12, "b": 40}
_GAP = 0.25
"""Share of the height between experts."""
_WIDE = 0.03
"""Width of an expert's bar; the two layers are 1 apart."""
_BELOW = 1.01
"""Where the plot ends below the experts, which are 1 high."""
_LABEL_PX = 11
Marked = tuple[int, int]
"""An expert that was picked: of the upper layer (0) or the lower one (1), and its number."""
_CURVE = np.linspace(0, 1, 21)


def routing_flow(
    source: Any,
    *,
    layer: int | None = None,
    expert: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    theme: str | Theme = "light",
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """Which experts of the next layer follow those of ``layer``, for the same tokens.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. ``layer``: None
    for the one that tells most of its next one. ``expert``: of that layer, whose flows stand out.
    The 64 strongest flows are drawn, which is said where there are more. ``progress`` is called
    after each layer looked at, with how many are done and of how many. Sizes in CSS pixels.
    """
    sizes(width, height, usual=0)  # before what takes long
    found = flow(as_trace(source), layer, progress=progress)
    experts = len(found.pairs)
    expert = plain(expert)
    if expert is not None and not (type(expert) is int and 0 <= expert < experts):
        raise InputError(f"routing_flow, expert: expected 0 to {experts - 1}, got {expert!r}")
    marked = None if expert is None else (0, expert)
    return routing_flow_figure(found, theme, marked=marked, width=width, height=height)


def routing_flow_figure(
    found: Flow,
    look: str | Theme = "light",
    *,
    marked: Marked | None = None,
    width: int | None = None,
    height: int | None = None,
    plot_px: int | None = None,
) -> go.Figure:
    """The bands of a flow. Sizes in CSS pixels; without ``width`` it fills its container.

    ``marked``: whose flows stand out. ``plot_px``: the plot's height, where margins are to change.
    """
    look = theme(look)
    width, height = sizes(width, height, usual=560)
    figure = titled(
        look, headline(found), explanation(found), width=width, height=height, margin=_MARGIN
    )
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(**hidden, range=[-0.16, 1.16])
    plot_px = plot_px or height - figure.layout.margin.t - _MARGIN["b"]
    above = _LABEL_PX * 1.6 / max(plot_px - 1.6 * _LABEL_PX, 1)  # for the layers' names
    figure.update_yaxes(**hidden, range=[_BELOW, -above])
    figure.update_layout(legend=legend_style() | {"itemclick": False}, barmode="overlay")
    if not found.tokens:
        figure.update_layout(annotations=[note(look, EMPTY)])
        return figure
    rows, columns = strongest(found)
    amount = found.pairs[rows, columns]
    left, right = (_column(numbers, amount) for numbers in (rows, columns))
    figure.add_traces(_bands(found, rows, columns, left[2], right[2], marked))
    for side, numbers in enumerate((left, right)):
        its = marked[1] if marked is not None and marked[0] == side else None
        figure.add_traces(_experts(found, side, numbers, look, plot_px, above, its))
    figure.add_traces(
        [
            go.Bar(x=[None], y=[None], name=name, marker=_paint(color, pattern))
            for name, color, pattern in KINDS
        ]
    )
    return figure


def strongest(found: Flow, most: int = MOST_FLOWS) -> tuple[Ints, Ints]:
    """Experts above and below of the flows with most tokens, in the order of experts."""
    flat = found.pairs.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    chosen = np.sort(order[flat[order] > 0])
    rows, columns = np.divmod(chosen, found.pairs.shape[1])
    return rows, columns


_Column = tuple[Ints, NDArray[np.float64], NDArray[np.float64]]


def _column(experts: Ints, amount: Ints) -> _Column:
    """Of one layer the experts, where each begins and ends (2 x n), and each flow (2 x flows)."""
    known, which = np.unique(experts, return_inverse=True)
    gap = _GAP / max(len(known) - 1, 1)
    scale = (1 - (_GAP if len(known) > 1 else 0)) / amount.sum()
    size = np.bincount(which, amount) * scale
    start = np.cumsum(size) - size + gap * np.arange(len(known))
    order = np.argsort(which, kind="stable")  # flows side by side, as the other side's experts
    high = amount[order] * scale
    before = np.cumsum(high) - high + gap * which[order]
    ends = np.empty((2, len(experts)))
    ends[:, order] = before, before + high
    return known, np.stack([start, start + size]), ends


def _bands(
    found: Flow,
    rows: Ints,
    columns: Ints,
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    marked: Marked | None,
) -> list[go.Scatter]:
    """One filled band for each flow; those of a marked expert come last, over the others."""
    lift, bend = found.lift, _CURVE**2 * (3 - 2 * _CURVE)
    x = _WIDE / 2 + _CURVE * (1 - _WIDE)
    around = np.concatenate([x, x[::-1]])
    made: list[go.Scatter] = []
    of = rows if marked is None or marked[0] == 0 else columns
    order = np.argsort(of == (-1 if marked is None else marked[1]), kind="stable")
    for i in order.tolist():
        above, below = int(rows[i]), int(columns[i])
        top, bottom = (left[j, i] + (right[j, i] - left[j, i]) * bend for j in (0, 1))
        _, color, pattern = KINDS[kind_of(float(lift[above, below]))]
        tokens = int(found.pairs[above, below])
        share = tokens / int(found.pairs[above].sum())
        aside = marked is not None and of[i] != marked[1]
        made.append(
            go.Scatter(
                x=around,
                y=np.concatenate([top, bottom[::-1]]),
                mode="lines",
                line={"width": 0.5, "color": fade(color, 0.2 if aside else 0.8)},
                fill="toself",
                fillcolor=fade(color, 0.08 if aside else 0.45),
                fillpattern={
                    "shape": pattern,
                    "fgcolor": color,
                    "bgcolor": fade(color, 0.35),
                    "size": 7,
                    "solidity": 0.25,
                }
                if pattern and not aside
                else None,
                hoveron="fills",
                hoverinfo="text",
                text=f"<b>layer {found.layer}, expert {above} to layer {found.layer + 1}, expert "
                f"{below}</b><br>{count(tokens, 'token')}, {percent(share)} of what leaves expert "
                f"{above}<br>{lift[above, below]:.3g} times as often as by chance",
                showlegend=False,
            )
        )
    return made


def kind_of(lift: float) -> int:
    """Row of :data:`KINDS` for a lift."""
    return 0 if lift >= OFTEN else 2 if lift <= 1 / OFTEN else 1


def _paint(color: str, pattern: str) -> dict[str, Any]:
    return {
        "color": fade(color, 0.45),
        "line": {"width": 1, "color": color},
        "pattern": {"shape": pattern, "fgcolor": color, "fillmode": "overlay", "solidity": 0.25},
    }


def _experts(
    found: Flow,
    side: int,
    column: _Column,
    look: Theme,
    plot_px: float,
    above: float,
    marked: int | None,
) -> list[go.Bar | go.Scatter]:
    """The bars of one layer, and their numbers where they fit; that of a marked one always."""
    known, (start, end), _ = column
    total = found.pairs.sum(axis=1 - side)[known]
    layer = found.layer + side
    bars = go.Bar(
        x=[side] * len(known),
        y=end - start,
        base=start,
        width=_WIDE,
        marker={"color": [VERMILLION if n == marked else look.muted for n in known.tolist()]}
        | {"line": {"width": 0}},
        hovertext=[
            f"<b>layer {layer}, expert {expert}</b><br>{count(int(tokens) // found.top_k, 'token')}"
            for expert, tokens in zip(known.tolist(), total.tolist(), strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    name_at, apart = -above / 2, _LABEL_PX * (_BELOW + above) / plot_px
    middle = np.minimum((start + end) / 2, _BELOW - 0.7 * apart)  # nothing of a number is cut
    shown = _labelled(middle.tolist(), apart, name_at, np.flatnonzero(known == marked).tolist())
    words = [
        "" if at not in shown else f"<b>▶ expert {n}</b>" if n == marked else f"expert {n}"
        for at, n in enumerate(known.tolist())
    ]
    labels = go.Scatter(
        x=[-_WIDE / 2 - 0.01 if side == 0 else 1.01 + _WIDE / 2] * (len(known) + 1),
        y=[name_at, *middle],
        text=[f"<b>layer {layer}</b>", *words],
        mode="text",
        textposition="middle left" if side == 0 else "middle right",
        textfont={"size": 11, "color": look.text},
        hoverinfo="skip",
        showlegend=False,
    )
    return [bars, labels]


def _labelled(middle: list[float], apart: float, top: float, always: list[int]) -> set[int]:
    """Which labels fit below one at ``top``, so far ``apart``, beside those that must be there."""
    taken = [top, *(middle[at] for at in always)]
    shown = set(always)
    for at, here in enumerate(middle):
        if at not in shown and all(abs(here - there) >= apart for there in taken):
            shown.add(at)
            taken.append(here)
    return shown


def headline(found: Flow) -> str:
    """What is shown, in a sentence; raw text."""
    if not found.tokens:
        return f"From layer {found.layer} to layer {found.layer + 1}"
    start = (
        f"Layer {found.layer}'s experts tell {percent(found.guessed)} of layer {found.layer + 1}'s"
    )
    if tells_nothing(found):
        return f"{start}, no more than popularity alone"
    return f"{start}; popularity alone {percent(found.shuffled)}"


def tells_nothing(found: Flow) -> bool:
    """Whether the layer before tells no more than popularity, as far as the numbers shown say."""
    return found.guessed <= found.shuffled or percent(found.guessed) == percent(found.shuffled)


def explanation(found: Flow) -> str:
    """How it was counted, and what is left out; raw text."""
    if not found.tokens:
        return "Which experts of one layer follow which of the layer before."
    rows, columns = strongest(found)
    every = int((found.pairs > 0).sum())
    shown = f"All {every:,} flows"
    if len(rows) < every:
        part = found.pairs[rows, columns].sum() / found.pairs.sum()
        shown = f"The {len(rows)} strongest of {every:,} flows ({percent(float(part))} of all)"
    why = " Of all layers this one tells most of its next." if found.picked else ""
    shuffled = "shuffled ones give the second share."
    if tells_nothing(found):
        why = " Nor does any other layer tell noticeably more." if found.picked else ""
        shuffled = "shuffled ones give as much."
    return (
        f"{shown}; a band is as wide as tokens chose both its experts, of "
        f"{count(found.tokens, 'token')}.{why} Counted on these very tokens; {shuffled}"
    )


def follows(found: Flow, marked: Marked) -> str:
    """With whom a marked expert goes most often, or that nobody chose it; raw text."""
    side, expert = marked
    pairs = found.pairs.take(expert, axis=side)
    if not pairs.sum():
        return f"no token chose expert {expert} of layer {found.layer + side}"
    most = int(pairs.argmax())
    return (
        f"expert {expert} of layer {found.layer + side}: {percent(pairs[most] / pairs.sum())} "
        f"{'from' if side else 'to'} expert {most}"
    )


def describe_routing_flow(found: Flow, most: int = 5, marked: Marked | None = None) -> str:
    """The flow in a few plain sentences, with the ``most`` strongest; raw text."""
    if not found.tokens:
        return f"{EMPTY.capitalize()}."
    lift, rows = found.lift, list[str]()
    order = np.argsort(-found.pairs.ravel(), kind="stable")[:most]
    for above, below in np.stack(np.divmod(order, found.pairs.shape[1]), axis=1).tolist():
        if tokens := int(found.pairs[above, below]):
            rows.append(
                f"expert {above} to {below}: {count(tokens, 'token')}, "
                f"{lift[above, below]:.3g} times as often as by chance"
            )
    picked = "" if marked is None else f" Picked: {follows(found, marked)}."
    return f"{headline(found)}. {explanation(found)} Strongest: {'; '.join(rows)}.{picked}"
