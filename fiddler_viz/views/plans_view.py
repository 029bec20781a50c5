"""Two plans: buttons that keep one and switch between both, and their figures side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets as widgets

from engine.comparison import Comparison
from fiddler_viz.figures.plans_words import differing, rows_of
from fiddler_viz.theme import safe

NOT_YET = "A is kept. Both are compared over the same steps of a run that has ended."
SWITCH = "Which of the two plans all views show."


class PlansView:
    """The button that keeps what is shown as A; then the switch A/B, "clear" and the table.

    ``on_action`` is called with ``keep`` or ``clear``, ``on_switch`` with ``A`` or ``B``.
    """

    def __init__(self, on_action: Callable[[str], None], on_switch: Callable[[str], None]) -> None:
        self._follower: int | None = None
        self.keep = widgets.Button(
            description="Keep as A",
            tooltip="Keep the plan shown as A; what is moved from now on makes B.",
            layout=widgets.Layout(width="88px"),
        )
        self.switch = widgets.ToggleButtons(
            options=["A", "B"],
            value="B",
            tooltips=[SWITCH, SWITCH],
            style={"button_width": "34px"},
            layout=widgets.Layout(width="auto"),
        )
        self.clear = widgets.Button(
            description="clear",
            tooltip="Forget plan A.",
            layout=widgets.Layout(width="58px"),
        )
        self.table = widgets.HTML(layout=widgets.Layout(flex="1 1 560px", width="auto"))
        self.row = widgets.Box([self.switch, self.clear, self.table])
        self.row.add_class("fv-row")
        self.keep.on_click(lambda _: on_action("keep"))
        self.clear.on_click(lambda _: on_action("clear"))
        self._on_switch = on_switch
        self.switch.observe(lambda change: self._switched(change["new"]), "value")
        self._show_if(False)

    def __repr__(self) -> str:
        return f"PlansView({self.switch.value if self.table.value else 'no A'})"

    def _switched(self, which: str) -> None:
        if self._follower != threading.get_ident():  # only what we set ourselves is no wish
            self._on_switch(which)

    def _show_if(self, kept: bool) -> None:
        self.row.layout.display = "" if kept else "none"

    def show(self, comparison: Comparison | None, which: str, *, kept: bool) -> bool:
        """Draw; True if anything changed. ``kept``: whether there is an A."""
        before = (self.table.value, self.switch.value, self.row.layout.display)
        self._follower = threading.get_ident()
        try:
            self.switch.value = which
        finally:
            self._follower = None
        self._show_if(kept)
        self.table.value = plans_html(comparison, which) if kept else ""
        return (self.table.value, self.switch.value, self.row.layout.display) != before


def plans_html(comparison: Comparison | None, which: str) -> str:
    """The table: a column for each figure, a row for A, for B and for what lies between."""
    if comparison is None:
        return f'<div class="fv-hint">{NOT_YET}</div>'
    head, a, b, between = rows_of(comparison)
    lines = ["".join(f'<th scope="col">{safe(text)}</th>' for text in ("", *head))]
    for name, cells in (("A", a), ("B", b), ("B − A", between)):
        shown = ' class="s"' if name == which else ""
        told = "".join(f"<td>{safe(text)}</td>" for text in cells)
        lines.append(f'<th scope="row"{shown}>{name}</th>{told}')
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<table class="fv-plans">{table}</table>'
        f'<div class="fv-hint">{safe(differing(comparison))}</div>'
    )
