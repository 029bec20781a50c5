"""What line charts share: styles that differ in colour, dash and marker, axes, long titles."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fiddler_viz.figures.base import axis_style, new_figure, title_of
from fiddler_viz.theme import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, Theme, safe

COLORS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "triangle-up", "x", "diamond", "cross", "star")
_USUAL_WIDTH = 760
"""Of a figure that fills its container, whose width nobody knows here."""
_LETTER_PX, _BOLD_PX = 6.3, 8.6
_BUTTONS_PX = 290
"""Of plotly's own buttons, which stand beside the title while the mouse is there."""


@dataclass(frozen=True)
class Style:
    """How one line is told from the others, thrice."""

    color: str
    dash: str
    marker: str


def style(index: int) -> Style:
    """The style of the line of that number; 210 lines go by before one comes again."""
    return Style(
        COLORS[index % len(COLORS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
    )


def wrap(text: str, width: int | None) -> list[str]:
    """Raw text in lines that fit a figure of that many CSS pixels, each escaped."""
    most = int(((width or _USUAL_WIDTH) - 24) / _LETTER_PX)
    return [safe(line) for line in textwrap.wrap(text, max(most, 20))]


def titled(
    look: Theme,
    title: str,
    sentence: str,
    *,
    width: int | None,
    height: int,
    margin: dict[str, int],
) -> go.Figure:
    """An empty figure under a title and a sentence, both raw, with the room that they take."""
    room = (width or _USUAL_WIDTH) - 24 - _BUTTONS_PX
    most = max(int(room / _BOLD_PX), 24)
    head = [safe(line) for line in textwrap.wrap(title, most)]
    body = wrap(sentence, width)
    top = 20 + 19 * (len(head) + len(body))
    return new_figure(
        look,
        width=width,
        height=height,
        margin=margin | {"t": top},
        title=title_of(look, "<br>".join(head), "", "<br>".join(body)),
    )


def axis(look: Theme, title: str) -> dict[str, Any]:
    """An axis with a title that names its unit; raw text."""
    return axis_style(look) | {
        "title": {"text": safe(title), "standoff": 6, "font": {"size": 12}},
        "showgrid": True,
        "ticks": "outside",
    }


def edge_label(look: Theme, x: float, text: str, *, left: bool) -> dict[str, Any]:
    """Safe words at the top of an upright line at ``x``; of a log axis its logarithm."""
    return {
        "x": x,
        "y": 1,
        "yref": "paper",
        "yanchor": "top",
        "xanchor": "right" if left else "left",
        "xshift": -6 if left else 6,
        "text": f"<b>{text}</b>",
        "showarrow": False,
        "align": "right" if left else "left",
        "font": {"size": 12, "color": look.text},
        "bgcolor": look.panel,
    }


def fade(color: str, share: float) -> str:
    """``#rrggbb`` as a CSS colour that lets through what is behind it."""
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red},{green},{blue},{share})"
