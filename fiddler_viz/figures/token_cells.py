"""Tokens as cells of HTML, one after the other as they read: of the live text and of strips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fiddler_viz.frames import Ints, Tokens

_CIVIDIS = ("#3a4a6b", "#4c556c", "#63656f", "#7c7b78", "#958f78", "#b0a573", "#cdbb68", "#ead357")
SHADES = tuple(
    f"background:{color};color:{'#fff' if place < 4 else '#111'}"
    for place, color in enumerate(_CIVIDIS)
)
"""CSS of each step of an amount, from least to most: cividis, with ink that can be read on it."""
GRADIENT = f"linear-gradient(90deg,{','.join(_CIVIDIS)})"


def shades(amount: NDArray[np.float64], low: float, high: float) -> Ints:
    """The place in :data:`SHADES` of each amount, the ends for those beyond; -1: there is none."""
    part = (amount - low) / (high - low) if high > low else np.where(np.isnan(amount), np.nan, 0.5)
    return np.nan_to_num(np.rint(part.clip(0, 1) * (len(SHADES) - 1)), nan=-1).astype(np.int64)


def cost_range(tokens: Tokens) -> tuple[float, float] | None:
    """Least and most ns of a generated token; None where none has a price."""
    ns = tokens.ns[tokens.generated & np.isfinite(tokens.ns)]
    return (float(ns.min()), float(ns.max())) if len(ns) else None


def token_shades(tokens: Tokens) -> Ints:
    """Each generated token's place in :data:`SHADES` by its cost; -1 where it has none."""
    found = cost_range(tokens)
    if found is None:
        return np.full(len(tokens), -1, dtype=np.int64)
    return shades(np.where(tokens.generated, tokens.ns, np.nan), *found)


def left_out(before: int, cells: str, after: int, *, to: tuple[int, int] = (-1, -1)) -> str:
    """Cells, and how many tokens before and after them are left out.

    ``to``: the rows next to them, which a click on those words leads to; -1: to none.
    """
    words = (f"{before:,} earlier tokens … ", f" … {after:,} later tokens")
    shown = [
        f'<i class="more" data-t="{row}" title="show them">{text}</i>'
        if row >= 0
        else f'<span class="fv-muted">{text}</span>'
        for text, row in zip(words, to, strict=True)
    ]
    return (shown[0] if before else "") + cells + (shown[1] if after else "")


def in_order(texts: Sequence[Ints], cell: Callable[[int], str], raw: Sequence[str]) -> str:
    """Cells of each text's rows, with a line's end where the token has one.

    Several texts are numbered, each in its own line.
    """
    parts = list[str]()
    shown = [(number, rows) for number, rows in enumerate(texts, 1) if len(rows)]
    for at, (number, rows) in enumerate(shown):
        if at:
            parts.append("\n")
        if len(texts) > 1:
            parts.append(f'<span class="fv-muted">text {number}: </span>')
        for row in rows.tolist():
            parts.append(cell(row))
            if raw[row].endswith("\n"):
                parts.append("\n")
    return "".join(parts)
