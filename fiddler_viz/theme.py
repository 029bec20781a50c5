"""How things look: colours (colour-blind safe, light and dark), second cues, fonts, formats.

Kinds (actions, lane work, parts of memory) take Okabe and Ito's palette and each a second cue, so
that nothing is told by colour alone. Amounts take cividis over a fixed range. Nothing here draws.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from engine.events import Action, Lane
from engine.residency import Place
from engine.strict import check_name

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
"""Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), with a grey for what is plain."""

CIVIDIS: Final = "Cividis"
"""For amounts: even in lightness, and the same to colour-blind readers."""


@dataclass(frozen=True)
class Kind:
    """How one kind of thing is told from the others: a colour and a second cue, thrice."""

    label: str
    color: str
    letter: str
    """For text: tables, narrow legends."""
    marker: str
    """plotly's name of a marker."""
    pattern: str
    """plotly's name of a bar pattern; empty = solid."""


class Segment(IntEnum):
    """What a stretch of a lane was spent on: the work's kind, and an expert's action."""

    DENSE = 0
    RESIDENT = 1
    STREAM = 2
    CPU = 3
    WEIGHTS = 4
    ACTIVATIONS = 5


SEGMENTS: Final[Mapping[Segment, Kind]] = MappingProxyType(
    {
        Segment.DENSE: Kind("dense", GREY, "d", "square", ""),
        Segment.RESIDENT: Kind("resident", GREEN, "o", "circle", ""),
        Segment.STREAM: Kind("streamed", ORANGE, "^", "triangle-up", "/"),
        Segment.CPU: Kind("on CPU", BLUE, "x", "x", "x"),
        Segment.WEIGHTS: Kind("weights", VERMILLION, "w", "diamond", "\\"),
        Segment.ACTIVATIONS: Kind("activations", SKY, "a", "line-ns", "."),
    }
)
PATH: Final = Kind("critical path", PURPLE, "_", "line-ew", "")
"""Drawn as a line under what everyone waits for."""
IDLE: Final = Kind("idle", GREY, " ", "", "/")
"""Hatching alone, without a ground."""
NOTHING: Final = Kind("nothing", GREY, " ", "", "/")
"""Of an amount: hatched like idle time, for on a light page a blank cell is the brightest."""
ACTIONS: Final[Mapping[Action, Kind]] = MappingProxyType(
    {
        Action.RESIDENT: Kind("resident", GREEN, "o", "circle", ""),
        Action.STREAM: Kind("streamed", ORANGE, "^", "triangle-up", "/"),
        Action.CPU: Kind("on CPU", BLUE, "x", "x", "x"),
    }
)
PLACES: Final[Mapping[Place, Kind]] = MappingProxyType(
    {
        Place.HOST: Kind("host memory only", GREY, ".", "line-ew", "."),
        Place.PINNED: Kind("pinned", GREEN, "P", "square-open", ""),
        Place.CACHED: Kind("cached", PURPLE, "C", "circle-open", "/"),
    }
)
BY_HAND: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "pinned": Kind("pinned by hand", BLACK, "+", "cross-thin-open", ""),
        "unpinned": Kind("unpinned by hand", BLACK, "/", "line-ne-open", ""),
    }
)
"""What of the placement is the reader's own."""
MEMORY: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "dense": Kind("dense weights", GREY, "D", "square", ""),
        "kv": Kind("KV cache", SKY, "K", "square", "."),
        "workspace": Kind("workspace", YELLOW, "W", "square", "|"),
        "pinned": Kind("pinned experts", GREEN, "P", "square", ""),
        "cached": Kind("cached experts", PURPLE, "C", "square", "/"),
        "free": Kind("free", "", "F", "square", ""),
    }
)
"""Parts of the device's budget, in the order drawn; free takes the theme's ``empty``."""
LANES: Final[Mapping[Lane, tuple[str, str]]] = MappingProxyType(
    {
        Lane.GPU: ("GPU", "computes on the device"),
        Lane.CPU: ("CPU", "computes on the host"),
        Lane.H2D: ("h2d", "copies host to device"),
        Lane.D2H: ("d2h", "copies device to host"),
    }
)
"""Short and long name of each lane."""


@dataclass(frozen=True)
class Theme:
    """Colours of everything that is neither an amount nor a kind. CSS colours."""

    name: str
    paper: str
    """Behind all."""
    panel: str
    """Behind data, where nothing is."""
    empty: str
    """Room that nothing fills: free memory, idle time."""
    text: str
    muted: str
    """Text that comes second; at least 4.5:1 on ``paper``."""
    rule: str
    """Axis lines, borders, grids."""
    font: str = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
    mono: str = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


_THEMES: Final[Mapping[str, Theme]] = MappingProxyType(
    {
        "light": Theme(
            name="light",
            paper="#ffffff",
            panel="#f3f4f6",
            empty="#e3e5e9",
            text="#1b1f24",
            muted="#59606a",
            rule="#c9ced6",
        ),
        "dark": Theme(
            name="dark",
            paper="#14171c",
            panel="#20252d",
            empty="#2d343e",
            text="#eceff3",
            muted="#a3adba",
            rule="#454d59",
        ),
        "auto": Theme(
            name="auto",
            paper="rgba(0,0,0,0)",
            panel="rgba(128,128,128,0.12)",
            empty="rgba(128,128,128,0.20)",
            text="#767676",
            muted="#767676",
            rule="rgba(128,128,128,0.45)",
        ),
    }
)
"""``auto`` has no background of its own and greys that can be read on white and on black."""

THEMES: Final = tuple(_THEMES)


def theme(name: str | Theme) -> Theme:
    """The theme called ``light``, ``dark`` or ``auto``, or the theme itself; else an error."""
    if isinstance(name, Theme):
        return name
    check_name("theme", name, _THEMES)
    return _THEMES[name]


def diverging(look: Theme) -> list[list[float | str]]:
    """For differences: blue below zero, orange above, and in the middle next to nothing."""
    middle = look.panel if look.panel.startswith("#") else "#e3e5e9"
    less, more = (SKY, ORANGE) if look.name == "dark" else (BLUE, VERMILLION)
    return [[0.0, less], [0.5, middle], [1.0, more]]


# Numbers are written to three significant digits, with their unit; see also engine.units.


def count(n: int, noun: str) -> str:
    """``1 token``, ``12,345 tokens``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


@lru_cache(maxsize=8192)
def percent(share: float) -> str:
    """A share of 0..1 as whole percents, one digit more below 10: ``25%``, ``2.5%``, ``-``."""
    if not math.isfinite(share):
        return "-"
    return f"{100 * share:.{1 if 0 < abs(share) < 0.0995 else 0}f}%"


def rate(per_second: float) -> str:
    """Tokens per second to three digits, ``-`` where there is none."""
    if not math.isfinite(per_second):
        return "-"
    size = abs(float(f"{per_second:.3g}"))
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{per_second:,.{digits}f} tok/s"


_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"}


@lru_cache(maxsize=4096)
def show_token(text: str, limit: int = 24) -> str:
    """A token's text in one line, raw: white space made visible, control characters replaced.

    A single leading space stays a space, because most tokens have one.
    """
    head = " " if text.startswith(" ") and text.strip(" ") else ""
    body = text[len(head) :]
    if body.strip(" "):
        marked = "".join(_MARKS.get(c, c) if c != " " else c for c in body)
    else:
        marked = "".join(_MARKS.get(c, c) for c in body)
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in head + marked)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def safe(text: str) -> str:
    """Escape text that came from outside for HTML and for plotly's labels.

    plotly reads tags, and where MathJax is on the page also ``$...$``; an entity is neither. Half
    a surrogate pair, which no page can hold, becomes ``?``.
    """
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape(text).replace("$", "&#36;")


_SHADES = "#00224e#123570#3b496c#575d6d#707173#8a8678#a59c74#c3b369#e1cc55#fee838"
"""Cividis at ten even steps, as plotly has it."""


def shade(share: float) -> tuple[str, str]:
    """Cividis at a share of 0..1 in ten steps, and the colour of text that can be read on it."""
    step = round(min(max(share, 0.0), 1.0) * 9)
    return _SHADES[7 * step : 7 * step + 7], "#ffffff" if step < 5 else "#000000"
