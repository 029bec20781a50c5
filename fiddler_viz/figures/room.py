"""What the bar of memory is of: the GPU's, within its card or beyond it, or the host's."""

from __future__ import annotations

from dataclasses import dataclass

from engine.history import plan_at
from engine.trace import Trace
from engine.units import format_bytes
from fiddler_viz.frames import pick_step


@dataclass(frozen=True)
class Room:
    """A memory in words."""

    name: str = "GPU memory"
    note: str = ""
    """What is to be said of its size: ``more than the card's 24.0 GB``."""
    plans: bool = True
    """Whether what dense weights and KV cache leave decides how many experts fit."""


def room_of(trace: Trace, step: int | None = None) -> Room:
    """Where a trace's weights were at the end of ``step`` (left out: at the end)."""
    if trace.on_host:
        experts = format_bytes(trace.model.routed_bytes)
        return Room("Host memory", f"beside the experts' {experts}; no GPU is used", plans=False)
    last = len(trace.step_rows) - 1
    return Room(note=plan_at(trace, last if step is None else pick_step(trace, step)).beyond_card)
