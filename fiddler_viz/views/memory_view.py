"""The device's memory as one bar, in HTML: what the budget is spent on."""

from __future__ import annotations

import ipywidgets as widgets

from engine.residency import Memory
from fiddler_viz.figures import Room, memory_html
from fiddler_viz.figures.memory import spent
from fiddler_viz.theme import Theme

LOOK_FOR = "Experts get what the rest leaves."


class MemoryView(widgets.HTML):
    """Shows one state of the device's memory."""

    def __init__(self, theme: Theme) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))
        self._theme = theme

    def __repr__(self) -> str:
        return "MemoryView()"

    def show(self, memory: Memory, room: Room, expert_bytes: int) -> bool:
        """Draw; True if anything changed."""
        before = self.value
        bar = memory_html(memory, self._theme, room=room, expert_bytes=expert_bytes)
        hint = LOOK_FOR if room.plans and not room.note else ""  # one line has no room for both
        self.value = (
            f'<div class="fv-hint fv-heading"><b>{room.name}</b> {spent(memory, room)}. {hint}'
            f"</div>{bar}"
        )
        return self.value != before
