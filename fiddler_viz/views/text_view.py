"""The text as it is generated: every token a cell, coloured by what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from numpy.typing import NDArray

from engine.trace import Trace
from fiddler_viz.frames import Ints, Tokens, readings, token_table
from fiddler_viz.theme import safe, show_token

LIMIT_TOKENS = 600
"""Cells shown; of a longer text, the last ones."""
_CIVIDIS = ("#3a4a6b", "#4c556c", "#63656f", "#7c7b78", "#958f78", "#b0a573", "#cdbb68", "#ead357")
SHADES = tuple(
    f"background:{color};color:{'#fff' if place < 4 else '#111'}"
    for place, color in enumerate(_CIVIDIS)
)
"""CSS of each step of cost, from cheap to dear: cividis, with ink that can be read on it."""
LOOK_FOR = "Bright tokens took longest: were their experts missing? Click one."
EMPTY = '<span class="fv-muted">The text appears here, token by token.</span>'


class TextView(anywidget.AnyWidget):
    """Shows the tokens of a trace; keeps nothing but what it last drew.

    ``on_pick`` is called with the row of a token that the reader clicked, or walked to with the
    arrow keys; with None on Escape.
    """

    _esm = Path(__file__).with_name("text_view.js")
    value = traitlets.Unicode().tag(sync=True)
    """HTML, every token escaped."""

    def __init__(
        self, height_px: int, on_pick: Callable[[int | None], None] = lambda token: None
    ) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))
        self._height_px = height_px
        self._on_pick = on_pick
        self.on_msg(self._heard)
        self._escaped: tuple[tuple[str, ...], list[str]] = ((), [])
        self.show(None, None)

    def __repr__(self) -> str:
        return f"TextView({len(self.value)} characters)"

    def show(self, trace: Trace | None, selected: int | None, *, live: bool = False) -> bool:
        """Draw; True if anything changed. ``selected`` is a row of the tokens table.

        While ``live``, the end of a long text is in view, else its beginning.
        """
        before = self.value
        hint, body = LOOK_FOR, EMPTY
        if trace is not None and len(trace.token_rows):
            tokens = priced(trace)
            hint += _scale(tokens)
            body = self._cells(tokens, readings(trace), selected)
        self.value = (
            f'<div class="fv-hint fv-heading"><b>Text</b> {hint}</div>'
            f'<div class="fv-text{" live" if live else ""}" style="height:{self._height_px}px" '
            f'tabindex="0" aria-label="generated text; arrow keys pick a token">'
            f"<div>{body}</div></div>"
        )
        return self.value != before

    def _heard(self, _: object, content: Any, __: object) -> None:
        token = content.get("token") if isinstance(content, dict) else None
        if isinstance(content, dict) and content.get("event") == "pick":
            self._on_pick(token if type(token) is int else None)

    def _cells(self, tokens: Tokens, texts: tuple[Ints, ...], selected: int | None) -> str:
        order = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
        names = {int(rows[0]): at for at, rows in enumerate(texts, 1) if len(texts) > 1}
        first = max(len(order) - LIMIT_TOKENS, 0)
        last = {int(rows[-1]) for rows in texts[:-1]}
        shown = self._shown(tokens.text)
        shades = token_shades(tokens).tolist()
        columns = (tokens.ns.tolist(), tokens.hit_rate.tolist(), tokens.generated.tolist())
        parts = [f'<span class="fv-muted">{first:,} earlier tokens … </span>'] if first else []
        for row in order[first:].tolist():
            if row in names:
                parts.append(f'<span class="fv-muted">text {names[row]}: </span>')
            ns, hits, generated = (column[row] for column in columns)
            tip = f"token {row}: {ns / 1e6:.3g} ms" if ns == ns else f"token {row}: no whole step"
            if hits == hits:
                tip += f", {hits:.0%} of its experts on the GPU"
            classes = f"{'' if generated else 'p'}{' s' if row == selected else ''}"
            style = f' style="{SHADES[shades[row]]}"' if shades[row] >= 0 else ""
            parts.append(
                f'<i class="{classes}"{style} data-t="{row}" title="{tip}">{shown[row]}</i>'
            )
            if tokens.text[row].endswith("\n"):
                parts.append("\n")
            if row in last:
                parts.append("\n")
        return "".join(parts)

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
    """What the colours stand for, in milliseconds."""
    ns = tokens.ns[tokens.generated & np.isfinite(tokens.ns)]
    if not len(ns):
        return ""
    low, high = (f"{edge / 1e6:.3g} ms" for edge in (ns.min(), ns.max()))
    bar = f'<span class="fv-scale" style="background:linear-gradient(90deg,{",".join(_CIVIDIS)})">'
    return f' <span class="fv-nowrap">{low}{bar}</span>{high}</span>'


def priced(trace: Trace) -> Tokens:
    """The trace's tokens; one whose step was cut short has no price, it would look cheap."""
    tokens, complete = token_table(trace), trace.steps["complete"] == 1
    whole = (tokens.step >= 0) & np.append(complete, False)[tokens.step]
    return replace(tokens, ns=np.where(whole, tokens.ns, np.nan))


def token_shades(tokens: Tokens) -> NDArray[np.int64]:
    """Each generated token's place in :data:`SHADES` by its cost; -1 where it has none."""
    priced = tokens.generated & np.isfinite(tokens.ns)
    shades = np.full(len(tokens), -1, dtype=np.int64)
    if priced.any():
        ns = tokens.ns[priced]
        low, high = float(ns.min()), float(ns.max())
        part = (ns - low) / (high - low) if high > low else np.full(len(ns), 0.5)
        shades[priced] = np.rint(part * (len(SHADES) - 1))
    return shades
