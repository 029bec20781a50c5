"""A panel's title, what it shows, and one sentence that says what to look for."""

from __future__ import annotations

import ipywidgets as widgets

from fiddler_viz.theme import safe


class Heading(widgets.HTML):
    """In HTML and not in the figure, so that it wraps where the panel is narrow."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))

    def __repr__(self) -> str:
        return "Heading()"

    def show(self, title: str, aside: str, look_for: str) -> bool:
        """Draw; True if anything changed. All three are raw text."""
        before = self.value
        self.value = (
            f'<div class="fv-hint fv-heading"><b>{safe(title)}</b> '
            f"<span>{safe(aside)}</span><br>{safe(look_for)}</div>"
        )
        return self.value != before
