"""The figures in words: for who cannot see them, and for who wants to copy the numbers."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from engine.residency import Memory
from fiddler_viz.figures import (
    Room,
    Window,
    describe_heatmap,
    describe_memory,
    describe_timeline,
)
from fiddler_viz.frames import Grid
from fiddler_viz.theme import safe


class Words:
    """A button, and below it what the figures show, while it is pressed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.button = widgets.ToggleButton(
            description="in words",
            tooltip="Says below what the figures show.",
            layout=widgets.Layout(width="86px"),
        )
        self.text = widgets.HTML(layout=widgets.Layout(width="100%", display="none"))
        self.button.observe(lambda _: on_change(), "value")

    def __repr__(self) -> str:
        return f"Words({'shown' if self.button.value else 'hidden'})"

    def show(
        self,
        grid: Grid,
        memory: Memory,
        room: Room,
        expert_bytes: int,
        window: Window,
        detail: str,
    ) -> bool:
        """Draw where wanted; True if anything changed. ``detail``: that panel's own words, raw."""
        before = (self.text.value, self.text.layout.display)
        if self.button.value:
            said = {
                "Experts": describe_heatmap(grid),
                "Memory": describe_memory(memory, room, expert_bytes),
                "Detail": detail,
                "Timeline": describe_timeline(window),
            }
            lines = (f"<p><b>{name}.</b> {safe(words)}</p>" for name, words in said.items())
            self.text.value = f'<div class="fv-words" role="status">{"".join(lines)}</div>'
        self.text.layout.display = "" if self.button.value else "none"
        return (self.text.value, self.text.layout.display) != before
