"""The text as it is generated: every token a cell, coloured by what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from engine.trace import Trace
from engine.units import format_ns
from fiddler_viz.figures.token_cells import (
    GRADIENT,
    SHADES,
    cost_range,
    in_order,
    left_out,
    token_shades,
)
from fiddler_viz.frames import LIMIT_TOKENS, Ints, Tokens, excerpt, priced, readings
from fiddler_viz.theme import safe, show_token
from fiddler_viz.views.heard import Heard
from fiddler_viz.views.live_frame import LiveFrame

_SCRIPTS = tuple(map(Path(__file__).with_name, ("frames.js", "text_view.js")))
LOOK_FOR = "Bright tokens took longest: were their experts missing? Click one."
LIVE_TOKENS = 200
"""Of a text that grows at least so many of the last tokens are shown, and less than twice as many:
a browser lays all of them out again for each that comes. Left out are whole multiples, so that
lines do not begin elsewhere each time. (Of several texts each grows: they are shown as ever.)"""
EMPTY = '<span class="fv-muted">The text appears here, token by token.</span>'


class TextView(anywidget.AnyWidget):
    """Shows the tokens of a trace; keeps nothing but what it last drew.

    ``on_pick`` is called with the row of a token that the reader clicked, or walked to with the
    arrow keys; with None on Escape. A page numbers its picks, and leaves its own mark alone until a
    drawing comes that knows of the last one: who walks faster than frames come is not set back.
    """

    # As text: anywidget watches a file for changes, and the watch keeps every widget alive.
    _esm = "\n".join(path.read_text(encoding="utf-8") for path in _SCRIPTS)
    value = traitlets.Unicode().tag(sync=True)
    """HTML, every token escaped."""
    knows = traitlets.Dict().tag(sync=True)
    """By page, the number of the last of its picks that ``value`` knows of."""

    beat = traitlets.Unicode().tag(sync=True)
    """The model that frames of a run under way come through."""

    def __init__(
        self,
        height_px: int,
        on_pick: Callable[[int | None], None] = lambda token: None,
        *,
        beat: str = "",
    ) -> None:
        super().__init__(layout=widgets.Layout(width="100%"), beat=beat)
        self.height_px = height_px
        """Of the box, from its next drawing on."""
        self._on_pick = on_pick
        self.on_msg(self._heard)
        self._escaped: tuple[tuple[str, ...], list[str]] = ((), [])
        self._picks = Heard()
        self._drawn_rows = self._first = self._total = 0
        self.texts = 0
        """How many texts there are: of a batch one for each prompt."""
        self.show(None, None)

    def __repr__(self) -> str:
        return f"TextView({len(self.value)} characters)"

    @property
    def picks(self) -> dict[str, int]:
        """By page, the number of its last pick: to be read before the selection is."""
        return self._picks.last

    def show(
        self,
        trace: Trace | None,
        selected: int | None,
        *,
        live: bool = False,
        growing: bool = False,
        picks: Mapping[str, int] | None = None,
        only: int | None = None,
    ) -> bool:
        """Draw; True if anything changed. ``selected`` is a row of the tokens table.

        ``picks``: what :attr:`picks` was when ``selected`` was found out. While ``live``, the end
        of a long text is in view, else its beginning; ``growing``: it is of a run under way.
        ``only``: the one text shown, of several.
        """
        before = self.value
        hint, body = LOOK_FOR, EMPTY
        self.texts = self._drawn_rows = 0
        if trace is not None and len(trace.token_rows):
            texts = readings(trace)
            self.texts = len(texts)
            if only is not None and only < len(texts):
                texts = tuple(rows if at == only else rows[:0] for at, rows in enumerate(texts))
            order = np.concatenate(texts)
            part = self._part(order, selected, growing=growing)
            texts = excerpt(texts, part)
            tokens = priced(trace, np.concatenate(texts))
            self._drawn_rows = len(tokens)
            if growing and selected is not None:
                hint = f"Token {selected} is picked: its experts come when this run ends."
            hint += _scale(tokens)
            ends = (int(order[part.start - 1]), int(order[part.stop % len(order)]))
            body = left_out(
                part.start,
                self._cells(tokens, texts, selected),
                len(order) - part.stop,
                to=(-1, -1) if growing else ends,
            )
        value = (
            f'<div class="fv-hint fv-heading"><b>Text</b> {hint}</div>'
            f'<div class="fv-text{" live" if live else ""}" style="height:{self.height_px}px" '
            f'tabindex="0" aria-label="generated text; arrow keys pick a token">'
            f"<div>{body}</div></div>"
        )
        with self.hold_sync():  # a page hears of both at once
            self.knows = dict(picks or {})
            self.value = value
        return self.value != before

    def frame(self, trace: Trace) -> LiveFrame | None:
        """Tokens of a run under way that came after the last drawing, yet without their price.

        None where there is none of them to add: of several texts only a drawing can say which.
        """
        tokens, texts = trace.tokens, trace.texts[self._drawn_rows :]
        if self.texts != 1 or not texts:
            return None
        if tokens["beam"].any() or tokens["sequence"].any():  # a search has one text of many beams
            return None
        cells = [show_token(text) + ("\n" if text.endswith("\n") else "") for text in texts]
        return LiveFrame({"cells": cells})

    def _heard(self, _: object, content: Any, __: object) -> None:
        if not isinstance(content, dict) or content.get("event") != "pick":
            return
        token = content.get("token")
        self._on_pick(token if type(token) is int else None)
        self._picks.note(content.get("page"), content.get("number"))  # after it: see `picks`

    def _part(self, order: Ints, selected: int | None, *, growing: bool) -> range:
        """Which of all tokens, as they read, are shown: where the reader went, stays."""
        total = len(order)
        last = max(total - LIMIT_TOKENS, 0)
        if growing:
            self._total = 0
            cut = max(total - LIVE_TOKENS, 0) // LIVE_TOKENS * LIVE_TOKENS
            return range(cut if self.texts == 1 else last, total)
        if total != self._total:
            self._total, self._first = total, last
        at = np.flatnonzero(order == selected) if selected is not None else ()
        if len(at) and not self._first <= at[0] < self._first + LIMIT_TOKENS:
            first = max(int(at[0]) - LIMIT_TOKENS // 2, 0)
            # a last part of a few tokens more is shown at once: the very last cannot be picked
            self._first = first if first + LIMIT_TOKENS // 2 < last else last
        return range(self._first, min(self._first + LIMIT_TOKENS, total))

    def _cells(self, tokens: Tokens, texts: tuple[Ints, ...], selected: int | None) -> str:
        shown = self._shown(tokens.text)
        shades = token_shades(tokens).tolist()
        columns = (tokens.ns.tolist(), tokens.hit_rate.tolist(), tokens.generated.tolist())
        steps = tokens.step.tolist()

        def cell(row: int) -> str:
            ns, hits, generated = (column[row] for column in columns)
            tip = f"token {row}: {format_ns(round(ns)) if ns == ns else 'no whole step'}"
            if hits == hits:
                tip += f", {hits:.0%} of its experts on the GPU"
            classes = f"{'' if generated else 'p'}{' s' if row == selected else ''}"
            style = f' style="{SHADES[shades[row]]}"' if shades[row] >= 0 else ""
            if steps[row] >= 0:  # one that was never processed cannot be looked at
                style += f' data-t="{row}"'
            return f'<i class="{classes}"{style} title="{tip}">{shown[row]}</i>'

        return in_order(texts, cell, tokens.text)

    def _shown(self, texts: tuple[str, ...]) -> list[str]:
        """Escaped texts; a growing run's are escaped once."""
        known, escaped = self._escaped
        if texts[: len(known)] != known:
            escaped = []
        for text in texts[len(escaped) :]:
            escaped.append(safe(show_token(text)))
        self._escaped = (texts, escaped)
        return escaped


def _scale(tokens: Tokens) -> str:
    """What the colours stand for."""
    found = cost_range(tokens)
    if found is None:
        return ""
    low, high = (format_ns(round(edge)) for edge in found)
    bar = f'<span class="fv-scale" style="background:{GRADIENT}">'
    return f' <span class="fv-nowrap">{low}{bar}</span>{high}</span>'
