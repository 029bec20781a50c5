"""The page's sliders, menus and predicted numbers: empty places that the script fills and moves."""

from __future__ import annotations

import math
from typing import Any

from engine.events import Lane
from engine.trace import Trace
from engine.units import format_bytes
from fiddler_viz.theme import LANES, percent, rate, safe

TILES = {
    "decode": "decode",
    "prefill": "prefill",
    "hits": "hit rate",
    "link": "over the link",
    "cpu": "on the CPU",
    "busy": "GPU busy",
}
_RANGES = {
    "budget": ("GPU memory", "Everything on the device; each step pins one more expert."),
    "slots": ("cache", "Experts' worth of the memory in which experts come and go."),
}


def controls(sent: dict[str, Any]) -> str:
    """The panel of what-ifs; where it cannot be live, why not. ``sent``: what the script gets."""
    head = '<section class="panel" id="whatif"><h2>What if? <span class="muted">'
    if "why" in sent:
        return (
            f"{head}not in this page</span></h2><p>{safe(sent['why'][:1].upper())}"
            f"{safe(sent['why'][1:])}. In a notebook, fv.Explorer(trace) has the sliders.</p>"
            "</section>"
        )
    ranges = "".join(
        f'<label title="{tip}">{label} <input type="range" name="{name}" min="0" '
        f'max="{sent["layers"] * sent["columns"]}" step="1"><output></output></label>'
        for name, (label, tip) in _RANGES.items()
    )
    tiles = "".join(
        f'<div class="tile predicted" data-tile="{name}"><span class="muted">{label}</span>'
        '<b></b><span class="muted note"></span><span class="muted run"></span></div>'
        for name, label in TILES.items()
    )
    return (
        f"{head}the same text under another plan, replayed in this page: predicted on the modelled "
        f'clock</span></h2><div class="controls">{ranges}'
        f'<label>policy <select name="policy">{_policies(sent)}</select></label>'
        f'<label>hardware <select name="machine">{_machines(sent)}</select></label>'
        '<button type="button" name="back">Back to this run</button></div>'
        f'<p role="status" aria-live="polite"></p><div class="tiles">{tiles}</div></section>'
    )


def _policies(sent: dict[str, Any]) -> str:
    """Those that the script repeats, and those that need a notebook, which cannot be chosen."""
    here = "".join(
        f'<option value="{name}" title="{safe(policy["summary"])}">{safe(policy["title"])}</option>'
        for name, policy in sent["policies"].items()
    )
    there = "".join(
        f"<option disabled>{safe(title)} (in a notebook)</option>" for title in sent["elsewhere"]
    )
    return here + there


def _machines(sent: dict[str, Any]) -> str:
    return "".join(
        f'<option value="{i}">{safe(machine["title"])}</option>'
        for i, machine in enumerate(sent["machines"])
    )


def of_run(trace: Trace) -> dict[str, str]:
    """What the run itself gave, by name of the tile, for beside the prediction."""
    s = trace.summary
    calls = sum(s.calls.values())
    link = "-" if not math.isfinite(s.bytes_per_token) else format_bytes(round(s.bytes_per_token))
    lanes = [f"{LANES[lane][0]} {percent(s.busy[lane.name.lower()])}" for lane in Lane]
    return {
        "decode": f"{rate(s.tokens_per_s)} ({s.clock})",
        "prefill": f"{rate(s.prefill_tokens_per_s)} ({s.clock})",
        "hits": percent(s.hit_rate),
        "link": link,
        "cpu": percent(s.calls["cpu"] / calls if calls else math.nan),
        "busy": ", ".join(lanes),
    }
