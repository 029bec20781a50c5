"""The crossover chart in words: where copying begins to win, and how sure that is."""

from __future__ import annotations

import numpy as np

from engine.cost import TABLE_TOKENS
from engine.crossover import Crossover
from engine.spec import UNCALIBRATED
from engine.units import format_bytes, format_ns
from engine.what_if import words
from fiddler_viz.figures.crossover_calls import Calls, shares
from fiddler_viz.theme import count, percent

_TIMES = ("cpu_ns", "stream_ns", "resident_ns")


def headline(found: Crossover) -> str:
    """What the chart shows, in a sentence; raw text."""
    at = found.break_even
    if not found.accelerator:
        return "Without a GPU every expert runs on the CPU"
    if at is None:
        return f"The CPU always beats copying a missing expert, up to {TABLE_TOKENS:,} tokens"
    if at == 1:
        return "Copying a missing expert always beats the CPU"
    return f"Up to {count(at - 1, 'token')} the CPU is sooner than copying a missing expert"


def uncertainty(found: Crossover) -> str:
    """Of what the chart is and how sure; raw text."""
    parts = [f"{found.model}, {format_bytes(found.expert_bytes)} an expert, on {found.machine}"]
    if found.changed:
        parts.append(f"but with {words(found.changed)}")
    error = percent(found.relative_error)
    source = "calibrated on this machine" if found.calibrated else UNCALIBRATED
    sentence = f"{', '.join(parts)}. Bands: ±{error}, {source}"
    if not found.accelerator or found.break_even is None:
        return f"{sentence}."
    early = count(found.earliest or 1, "token")
    late = "or never" if found.latest is None else f"or only from {found.latest:,}"
    return f"{sentence}; so copying may win from {early} on, {late} (shaded)."


def describe_crossover(found: Crossover, calls: Calls | None = None) -> str:
    """The chart in a few plain sentences; raw text."""
    shown = [1]
    if found.break_even is not None and 1 < found.break_even <= found.largest:
        shown.append(found.break_even)
    rows: list[str] = []
    for tokens in (*shown, found.largest):
        at = int(np.searchsorted(found.tokens, tokens))
        cpu, copied, there = (format_ns(int(getattr(found, field)[at])) for field in _TIMES)
        others = f", copied {copied}, resident {there}" if found.accelerator else ""
        rows.append(f"{count(tokens, 'token')}: CPU {cpu}{others}")
    points = ""
    if found.measured:
        worst = max(point.residual for point in found.measured)
        points = f" Calibrated at {count(len(found.measured), 'token count')}"
        points += f", residuals up to {percent(worst)}." if worst else "."
    if calls is not None and len(calls[0]):
        on_cpu, copied = (percent(share) for share in shares(found, calls))
        points += f" Were all missing, {on_cpu} of this run's calls would be sooner on the CPU"
        points += f", {copied} by a copy."
    return f"{headline(found)}. {uncertainty(found)} {'; '.join(rows)}.{points}"
