"""A token strip in words: what to look for, tooltips, a table, and all of it in a few sentences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.events import Action
from engine.units import format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.frames import Strip
from fiddler_viz.theme import ACTIONS, count, percent, show_token

LOOK_FOR = {
    "latency": "Bright tokens took longest: were their experts missing?",
    "hits": "Dark tokens found few of their experts on the GPU: do they come in groups?",
    "action": "Where did the expert with most weight run? Letters: the first two by weight.",
    "expert": "Do like tokens share the expert that has most weight? Numbers say which.",
}
_TITLES = {
    "latency": "Tokens by latency",
    "hits": "Tokens by hit rate",
    "action": "Tokens by where their expert ran",
    "expert": "Tokens by their expert",
}


def title(strip: Strip) -> str:
    """``Tokens by hit rate, layer 3``."""
    return _TITLES[strip.color] + ("" if strip.layer is None else f", layer {strip.layer}")


def clock_of(strip: Strip) -> str:
    """``modelled`` or ``measured``."""
    return strip.clock.name.lower()


def chosen(strip: Strip, row: int) -> str:
    """A token's experts in the layer told of: ``expert 3 (0.62) on CPU, expert 5 (0.38) ...``."""
    told: list[str] = []
    for expert, weight, action in zip(
        strip.expert[row].tolist(),
        strip.weight[row].tolist(),
        strip.action[row].tolist(),
        strict=True,
    ):
        if expert >= 0:
            ran = ACTIONS[Action(action)].label if action >= 0 else "not run"
            told.append(f"expert {expert} ({weight:.2f}) {ran}")
    return ", ".join(told)


def tips(strip: Strip) -> Callable[[int], str]:
    """What is known of a token, in a line."""
    tokens = strip.tokens
    columns = (tokens.ns.tolist(), strip.hit_rate.tolist(), tokens.step.tolist())
    clock = clock_of(strip)
    where = "" if strip.layer is None else f" in layer {strip.layer}"

    def tip(row: int) -> str:
        ns, hits, step = (column[row] for column in columns)
        if step < 0:
            return f"token {row}: sampled last, never processed"
        time = f"{format_ns(ns)} ({clock})" if ns == ns else "its step was cut short"
        text = f"token {row}, step {step}: {time}"
        if hits == hits:
            text += f"; {percent(hits)} of its experts{where} on the GPU"
        if strip.layer is not None and (experts := chosen(strip, row)):
            text += f"; {experts}"
        return text

    return tip


def table_of(strip: Strip) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row of raw texts for each token shown."""
    names = ["token", "text", "step", f"latency ({clock_of(strip)})", "experts on the GPU"]
    if strip.layer is not None:
        names.append(f"experts of layer {strip.layer} (weight)")
    tokens, rows = strip.tokens, list[list[str]]()
    for row in strip.rows.tolist():
        ns, step = float(tokens.ns[row]), int(tokens.step[row])
        cells = [
            str(row),
            show_token(tokens.text[row]),
            str(step) if step >= 0 else "-",
            format_ns(ns) if ns == ns else "-",
            percent(float(strip.hit_rate[row])),
        ]
        rows.append([*cells, chosen(strip, row)] if strip.layer is not None else cells)
    return names, rows


def describe_strip(strip: Strip) -> str:
    """The strip in a few plain sentences; raw text."""
    rows = strip.rows
    if not len(rows):
        return f"{EMPTY.capitalize()}."
    prompt = int((~strip.tokens.generated[rows]).sum())
    head = f"{title(strip)}. {count(len(rows), 'token')}, {prompt:,} of them prompt"
    out = strip.before + strip.after
    head += f"; {out:,} more not shown." if out else "."
    amount, kind = strip.amount[rows], strip.kind[rows]
    if strip.color in ("latency", "hits"):
        if np.isnan(amount).all():
            return f"{head} None has a value yet."
        low, high = (
            f"{_amount(strip, row)} (token {row} “{show_token(strip.tokens.text[row])}”)"
            for row in (rows[np.nanargmin(amount)], rows[np.nanargmax(amount)])
        )
        return f"{head} Least: {low}; most: {high}."
    return f"{head} {'; '.join(f'{name}: {n:,}' for _, name, n in tally(strip, kind))}."


def _amount(strip: Strip, row: int) -> str:
    value = float(strip.amount[row])
    return f"{format_ns(value)} ({clock_of(strip)})" if strip.by_time else percent(value)


def tally(strip: Strip, kind: np.ndarray) -> list[tuple[int, str, int]]:
    """Code, name and tokens of each kind; actions in their order, experts the most used first."""
    if strip.color == "action":
        return [(int(a), ACTIONS[a].label, int((kind == a).sum())) for a in Action]
    found = np.bincount(kind[kind >= 0])
    order = np.argsort(-found, kind="stable").tolist()
    return [(e, f"expert {e}", int(found[e])) for e in order if found[e]]
