"""Legends in HTML: what the marks, colours and patterns of heatmap, timeline and memory mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import ipywidgets as widgets

from engine.residency import Place
from fiddler_viz.figures.heatmap import FEW_CELLS
from fiddler_viz.figures.heatmap_words import MODES, Mode
from fiddler_viz.theme import (
    ACTIONS,
    BLUE,
    IDLE,
    MEMORY,
    NOTHING,
    ORANGE,
    PATH,
    PLACES,
    SEGMENTS,
    Kind,
    Theme,
    safe,
)

_SHAPES = {
    "square-open": '<rect x="1.5" y="3" width="11" height="8" fill="none" stroke="{ink}"/>',
    "dash": '<path d="M3 7 11 7" stroke="{ink}" stroke-width="2"/>',
    "cross-thin-open": '<path d="M7 2V12M2 7H12" stroke="{ink}" stroke-width="1.6"/>',
    "line-ne-open": '<path d="M3 11 11 3" stroke="{ink}" stroke-width="1.6"/>',
    "dot": '<circle cx="7" cy="7" r="3" fill="{color}"/>',
    "circle-open": '<circle cx="7" cy="7" r="5" fill="none" stroke="{ink}"/>',
    "circle": '<circle cx="7" cy="7" r="5" fill="{color}"/>',
    "triangle-up": '<path d="M7 1.5 12.5 12 1.5 12Z" fill="{color}"/>',
    "x": '<path d="M3 3 11 11M11 3 3 11" stroke="{color}" stroke-width="3"/>',
}
"""plotly's markers as SVG, 14 pixels square."""
_STRIPES = "repeating-linear-gradient({turn}deg,#fff6 0 1.5px,transparent 1.5px 5px)"
_PATTERNS = {
    "": (),
    "/": (_STRIPES.format(turn=-45),),
    "\\": (_STRIPES.format(turn=45),),
    "x": (_STRIPES.format(turn=45), _STRIPES.format(turn=-45)),
    ".": ("radial-gradient(#fff9 1px,transparent 1.5px) 0 0/5px 5px",),
    "|": (_STRIPES.format(turn=90),),
}
"""plotly's patterns as CSS backgrounds."""
_IDLE_STRIPES = (_STRIPES.format(turn=-45).replace("#fff6", f"{IDLE.color}99"),)


class Legend(widgets.HTML):
    """One line of entries."""

    def __init__(self, entries: Iterable[str]) -> None:
        super().__init__(_line(entries), layout=widgets.Layout(width="100%"))

    def __repr__(self) -> str:
        return "Legend()"


class HeatmapLegend(Legend):
    """Where experts are, how they ran, and what there is besides: dots, edits by hand."""

    def __init__(self, theme: Theme, cells: int) -> None:
        self._theme = theme
        self._places = [PLACES[Place.PINNED], PLACES[Place.CACHED]]
        if cells > FEW_CELLS:  # a small cell of many has a dash for its outline
            self._places[0] = replace(self._places[0], marker="dash")
        super().__init__(self._entries(MODES["popularity"], []))

    def show(self, mode: Mode, edits: list[Kind], *, blank: bool) -> bool:
        """Follow what is shown; True if anything changed. ``blank``: some have no amount."""
        before = self.value
        self.value = _line(self._entries(mode, edits, blank=blank))
        return self.value != before

    def _entries(self, mode: Mode, edits: list[Kind], *, blank: bool = False) -> list[str]:
        kinds = [*self._places, *(ACTIONS.values() if mode.runs else ())]
        if mode.dots:
            kinds.append(Kind(mode.dots, self._theme.text, "", "dot", ""))
        marks = [_mark(kind, self._theme) for kind in (*kinds, *edits)]
        if blank and mode.nothing:
            marks.append(_swatch(replace(NOTHING, label=mode.nothing)))
        return marks


def _line(entries: Iterable[str]) -> str:
    return f'<div class="fv-legend">{"".join(entries)}</div>'


def timeline_legend() -> Legend:
    """What lanes are busy with, where they wait, and what everyone waits for."""
    line = f'<span><i style="height:3px;background:{PATH.color}"></i>{safe(PATH.label)}</span>'
    return Legend([*(_swatch(kind) for kind in (*SEGMENTS.values(), IDLE)), line])


def memory_legend(theme: Theme) -> Legend:
    """Parts of the budget, and what comes and goes."""
    parts = [
        replace(kind, color=kind.color or theme.empty, label=_short(kind.label))
        for kind in MEMORY.values()
    ]
    signs = ((ORANGE, "▲", "admitted"), (BLUE, "▼", "evicted"), (theme.text, "┄", "budget"))
    return Legend(
        [
            *(_swatch(kind) for kind in parts),
            *(
                f'<span><b style="color:{color}">{sign}</b>{name}</span>'
                for color, sign, name in signs
            ),
        ]
    )


def _short(label: str) -> str:
    """All parts stand in one line: ``pinned experts`` are just ``pinned``."""
    return label.removesuffix(" weights").removesuffix(" experts")


def _mark(kind: Kind, theme: Theme) -> str:
    shape = _SHAPES[kind.marker].format(ink=theme.text, color=kind.color)
    svg = f'<svg width="14" height="14" stroke-width="1.5" aria-hidden="true">{shape}</svg>'
    return f"<span>{svg}{safe(kind.label)}</span>"


def _swatch(kind: Kind) -> str:
    hollow = kind.letter == IDLE.letter
    ground = "transparent" if hollow else kind.color
    stripes = _IDLE_STRIPES if hollow else _PATTERNS[kind.pattern]
    background = ",".join([*stripes, ground])
    return f'<span><i style="background:{background}"></i>{safe(kind.label)}</span>'
