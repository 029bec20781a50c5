"""The device's memory as one bar, in HTML: what the budget is spent on."""

from __future__ import annotations

import ipywidgets as widgets

from engine.residency import Memory
from engine.units import format_bytes
from fiddler_viz.figures import memory_html
from fiddler_viz.theme import Theme

LOOK_FOR = "Experts get what the rest leaves."


class MemoryView(widgets.HTML):
    """Shows one state of the device's memory."""

    def __init__(self, theme: Theme) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))
        self._theme = theme

    def __repr__(self) -> str:
        return "MemoryView()"

    def show(self, memory: Memory, expert_bytes: int) -> bool:
        """Draw; True if anything changed."""
        before = self.value
        used = f"{format_bytes(memory.used)} of {format_bytes(memory.budget)}"
        bar = memory_html(memory, self._theme, expert_bytes=expert_bytes)
        self.value = (
            f'<div class="fv-hint fv-heading"><b>GPU memory</b> {used}. {LOOK_FOR}</div>{bar}'
        )
        return self.value != before
