"""A run's text as a strip of cells, coloured by what its tokens cost or where their experts ran.

A fragment of HTML without script: it shows in a notebook and can be saved as a page. Amounts have a
shade and a bar as long as they are large, kinds a colour and a letter or number.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.destination import writing
from engine.events import Action
from engine.units import format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.figures.strip_words import (
    LOOK_FOR,
    clock_of,
    describe_strip,
    table_of,
    tally,
    tips,
    title,
)
from fiddler_viz.figures.token_cells import GRADIENT, SHADES, in_order, left_out, shades
from fiddler_viz.frames import Strip
from fiddler_viz.theme import (
    ACTIONS,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Theme,
    count,
    safe,
    show_token,
    theme,
)

if TYPE_CHECKING:
    import pandas as pd

_SHEET = Path(__file__).with_name("strip.css")
_EXPERTS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, GREY)
"""Colours of experts, again from the first after the last: their numbers tell them apart."""
_LEGEND_EXPERTS = 12
_LETTERS = 2
"""Experts of a token whose actions have room below it; its tooltip has all."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class TokenStrip:
    """The coloured text of a run: shows itself in a notebook; :meth:`save` makes a page of it."""

    def __init__(self, strip: Strip, look: str | Theme = "light") -> None:
        self.strip = strip
        """What it shows, as arrays."""
        self.theme = theme(look)

    def __repr__(self) -> str:
        strip = self.strip
        return f"TokenStrip({title(strip)}: {len(strip.rows)} tokens)"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """A fragment of HTML, all texts escaped."""
        return strip_html(self.strip, self.theme)

    def describe(self) -> str:
        """The strip in a few plain sentences; raw text."""
        return describe_strip(self.strip)

    def to_pandas(self) -> pd.DataFrame:
        """One row per token shown."""
        return self.strip.to_pandas()

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page and return its path; makes its folder.

        Raises InputError where it cannot be written.
        """
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{safe(title(self.strip))}</title></head>"
            f'<body style="margin:0;background:{self.theme.paper}">{self.to_html()}</body></html>\n'
        )
        with writing(path) as path:
            path.write_text(page, encoding="utf-8")
        return path


def strip_html(strip: Strip, look: str | Theme = "light") -> str:
    """A strip as a fragment of HTML, with its legend and its table."""
    look = theme(look)
    names = ("paper", "panel", "text", "muted", "rule", "font", "mono")
    variables = "".join(f"--{name}:{getattr(look, name)};" for name in names)
    scheme = look.name if look.name in ("light", "dark") else "normal"
    sheet = _SHEET.read_text(encoding="utf-8")
    head = (
        f'<div class="head"><b>{title(strip)}</b>'
        f'<span class="note">{LOOK_FOR[strip.color]}</span></div>'
    )
    body = f'<div class="note">{EMPTY}</div>'
    if len(strip.rows):
        cells = left_out(strip.before, _cells(strip), strip.after)
        body = (
            f'<div class="key">{_legend(strip)}</div>'
            f'<div class="cells" tabindex="0">{cells}</div>'
            f"<details><summary>as a table</summary>{_table(strip)}</details>"
        )
    return (
        f"<style>{sheet}</style>"
        f'<div class="fv-strip" role="group" aria-label="{safe(describe_strip(strip))}" '
        f'style="{safe(variables)}--scheme:{scheme}">{head}{body}</div>'
    )


def _cells(strip: Strip) -> str:
    tokens, tip = strip.tokens, tips(strip)
    styles, cues = _amounts(strip) if strip.color in ("latency", "hits") else _kinds(strip)
    generated = tokens.generated.tolist()

    def cell(row: int) -> str:
        style = f' style="{styles[row]}"' if styles[row] else ""
        shown = safe(show_token(tokens.text[row]))
        prompt = "" if generated[row] else ' class="p"'
        return f'<i{prompt}{style} title="{safe(tip(row))}">{shown}{cues[row]}</i>'

    return in_order(strip.texts, cell, tokens.text)


def _amounts(strip: Strip) -> tuple[list[str], list[str]]:
    """Of every token: the shade of its amount, and a bar as long as it is large."""
    amount, (low, high) = strip.amount, _range(strip)
    share = amount if not strip.by_time else amount / high if high else np.zeros(len(amount))
    places = shades(amount, low, high).tolist()
    styles = [SHADES[place] if place >= 0 else "" for place in places]
    cues = [f'<b style="width:{100 * s:.0f}%"></b>' if s == s else "" for s in share.tolist()]
    return styles, cues


def _range(strip: Strip) -> tuple[float, float]:
    """Amounts with the darkest and the brightest shade: of shares all, of times those shown."""
    if not strip.by_time:
        return 0.0, 1.0
    shown = strip.amount[strip.rows]
    shown = shown[~np.isnan(shown)]
    return (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)


def _kinds(strip: Strip) -> tuple[list[str], list[str]]:
    """Of every token: the colour of its kind, and its letters or number."""
    styles, cues = list[str](), list[str]()
    for kind, actions in zip(strip.kind.tolist(), strip.action.tolist(), strict=True):
        if kind < 0:
            styles.append("")
            cues.append("")
            continue
        styles.append(_colors(strip, kind))
        cue = str(kind)
        if strip.color == "action":
            letters = [ACTIONS[Action(action)].letter for action in actions if action >= 0]
            cue = "".join(letters[:_LETTERS])
        cues.append(f"<u>{cue}</u>")
    return styles, cues


def _colors(strip: Strip, kind: int) -> str:
    color = ACTIONS[Action(kind)].color if strip.color == "action" else _EXPERTS[kind % 8]
    return f"background:{color};color:{'#fff' if color == BLUE else '#000'}"


def _legend(strip: Strip) -> str:
    prompt = '<span><span class="dashed">prompt</span></span>'
    if strip.by_time:
        low, high = _range(strip)
        if not high:
            return f"{prompt}<span>no token has a time yet</span>"
        return (
            f"{prompt}<span>{format_ns(low)}{_scale()}{format_ns(high)} a generated token, "
            f"{clock_of(strip)}</span><span>longer bar: more time</span>"
        )
    prompt = '<span class="note">prompt: with a line above</span>'
    if strip.color == "hits":
        return (
            f"<span>0%{_scale()}100% of its experts on the GPU</span>"
            f"<span>longer bar: more of them</span>{prompt}"
        )
    every = tally(strip, strip.kind[strip.rows])
    shown = [
        f'<span><span class="swatch" style="{_colors(strip, code)}">'
        f"{ACTIONS[Action(code)].letter if strip.color == 'action' else code}</span>"
        f"{name} ({count(number, 'token')})</span>"
        for code, name, number in every[:_LEGEND_EXPERTS]
    ]
    if len(every) > _LEGEND_EXPERTS:
        shown.append(f'<span class="note">{len(every) - _LEGEND_EXPERTS} more experts</span>')
    return "".join(shown) + prompt


def _scale() -> str:
    return f'<span class="scale" style="background:{GRADIENT}"></span>'


def _table(strip: Strip) -> str:
    names, rows = table_of(strip)
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{safe(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
