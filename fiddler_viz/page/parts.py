"""The page's parts that are plain HTML: header, numbers, text, tables. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from engine.events import Clock
from engine.trace import Trace
from engine.units import format_bytes, format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.figures.timeline import CLOCKS
from fiddler_viz.frames import Tokens, readings, token_table
from fiddler_viz.page.linked import LIMIT_TOKENS
from fiddler_viz.theme import count, percent, rate, safe, shade, show_token

LIMIT_CELLS = 4000
NO_SCRIPT = (
    "Scripts are off here, so that charts and sliders stay empty: open this file in a browser, or "
    "trust it in JupyterLab. Numbers, text and tables below are complete."
)


def header(trace: Trace) -> str:
    """What ran, as what it is costed, on what, under which policy, by which clock."""
    model, plan, meta = trace.model, trace.plan, trace.meta
    loaded = str(meta.get("loaded") or model.name)
    name = safe(loaded)
    if loaded != model.name:
        name += f' <span class="muted">costed as</span> {safe(model.name)}'
    facts = [
        f"{model.layers} layers × {model.experts} experts, top-{model.top_k}",
        trace.machine,
    ]
    if not trace.on_host:
        beyond = f", {plan.beyond_card}" if plan.beyond_card else ""
        facts += [
            f"GPU memory {format_bytes(plan.gpu_memory)}{beyond}",
            f"policy {plan.policy}",
            f"{len(plan.pinned)} experts pinned, {count(plan.cache_slots, 'cache slot')}",
        ]
    if len(trace.plan_list) > 1:
        facts.append(f"{len(trace.plan_list)} plans, the last one shown")
    if meta.get("ended"):
        facts.append(f"ended: {meta['ended']}")
    items = "".join(f"<li>{safe(fact)}</li>" for fact in facts)
    clock = trace.clock.name.lower()
    return (
        f'<header><p class="muted">fiddler-viz: a run</p><h1>{name} '
        f'<span class="clock {clock}" title="{safe(CLOCKS[trace.clock])}">{clock} clock</span></h1>'
        f'<ul class="facts">{items}</ul>'
        f"<noscript><p><b>{NO_SCRIPT}</b></p></noscript></header>"
    )


def tiles(trace: Trace) -> str:
    """The run's numbers, each with its clock; modelled ones carry their interval."""
    if not len(trace.step_rows):
        return f'<p class="muted">{EMPTY}</p>'
    s = trace.summary
    modelled = trace.clock == Clock.MODELLED
    low, high = s.tokens_per_s_low, s.tokens_per_s_high
    speed = s.clock
    if modelled and math.isfinite(low):
        speed += f", {rate(low).split()[0]} to {rate(high)}"
    calls = sum(s.calls.values())
    link = "-" if not math.isfinite(s.bytes_per_token) else format_bytes(round(s.bytes_per_token))
    shown = [
        ("decode", rate(s.tokens_per_s), speed),
        ("prefill", rate(s.prefill_tokens_per_s), f"{count(s.prompt_tokens, 'token')}, {s.clock}"),
        ("hit rate", percent(s.hit_rate), "expert calls found on the GPU"),
        ("over the link", link, "per token, both directions"),
        (
            "on the CPU",
            percent(s.calls["cpu"] / calls if calls else math.nan),
            f"{s.calls['cpu']:,} of {count(calls, 'expert call')}",
        ),
        ("time", format_ns(trace.duration_ns), f"{count(s.steps, 'step')}, {s.clock}"),
    ]
    cells = "".join(
        f'<div class="tile"><span class="muted">{safe(name)}</span><b>{safe(value)}</b>'
        f'<span class="muted">{safe(note)}</span></div>'
        for name, value, note in shown
    )
    return f'<h2 class="above">This run</h2><div class="tiles">{cells}</div>'


def text(trace: Trace) -> str:
    """Every token a cell, coloured by what it cost; the script makes a click show its experts."""
    tokens = token_table(trace)
    if not len(tokens):
        return f'<section class="panel"><h2>Text</h2><p class="muted">{EMPTY}</p></section>'
    priced = tokens.ns[tokens.generated & np.isfinite(tokens.ns)]
    low, high = (float(priced.min()), float(priced.max())) if len(priced) else (0.0, 0.0)
    scale = "".join(f'<i style="background:{shade(i / 9)[0]}"></i>' for i in range(10))
    key = f"{format_ns(round(low))} to {format_ns(round(high))} a token" if len(priced) else ""
    cells: list[str] = []
    texts = readings(trace)
    for number, rows in enumerate(texts, 1):
        if len(texts) > 1:
            cells.append(f'<p class="muted">text {number}</p>')
        cells += [_cell(tokens, i, low, high) for i in rows[:LIMIT_CELLS].tolist()]
        if len(rows) > LIMIT_CELLS:
            cells.append(f'<p class="muted">… and {len(rows) - LIMIT_CELLS:,} more tokens</p>')
    return (
        '<section class="panel"><h2>Text <span class="muted key">'
        f"prompt uncoloured, generated from cheap {scale} to dear: "
        f'<span id="token-key" data-run="{key}">{key}</span></span></h2>'
        '<p class="muted">Click a token, or walk with the arrow keys: below are the experts '
        "it used and the timeline of its step. Which tokens are dear, and why?</p>"
        f'<div id="tokens" role="group" aria-label="tokens">{"".join(cells)}</div></section>'
    )


def _cell(tokens: Tokens, i: int, low: float, high: float) -> str:
    ns, hits, text = float(tokens.ns[i]), float(tokens.hit_rate[i]), tokens.text[i]
    processed = math.isfinite(ns)
    tip = f"token {i}: {format_ns(round(ns)) if processed else 'sampled last, never processed'}"
    if math.isfinite(hits):
        tip += f", {percent(hits)} of its expert calls on the GPU"
    style = ""
    if tokens.generated[i] and processed:
        background, ink = shade((ns - low) / (high - low) if high > low else 0.5)
        style = f' style="background:{background};color:{ink}"'
    link = f' data-token="{i}" tabindex="-1"' if processed and i < LIMIT_TOKENS else " disabled"
    kind = "generated" if tokens.generated[i] else "prompt"
    line = "<br>" if text.endswith("\n") else ""
    return (
        f'<button type="button" class="{kind}"{style}{link} title="{safe(tip)}">'
        f"{safe(show_token(text, 80))}</button>{line}"
    )


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of texts."""
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{safe(value)}</td>' for value in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
