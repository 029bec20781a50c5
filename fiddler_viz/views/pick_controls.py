"""Picking without a mouse: an expert by its layer and number, a text of several, and nothing."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from fiddler_viz.views.selection import Picked, Selection

_NONE = -1
"""What a menu's dash stands for; ipywidgets would show None as an empty menu."""


class PickControls:
    """Menus and a button that change a selection, and follow it."""

    def __init__(self, selection: Selection, grid: tuple[int, int]) -> None:
        self._selection = selection
        self._follower: int | None = None
        self._grid, self._texts = grid, 0
        layers, experts = grid
        self.layer = _menu("layer", layers, "Picks a layer in all views.")
        self.expert = _menu("expert", experts, "Picks one of the layer's experts in all views.")
        self.text = _menu("text", 0, "Of several texts shows one, or all.")
        self.text.layout.display = "none"
        self.clear = widgets.Button(
            description="clear",
            tooltip="Picks nothing: no token, no expert, no time.",
            layout=widgets.Layout(width="58px"),
        )
        for menu in (self.layer, self.expert):
            menu.observe(lambda _: self._chosen(), "value")
        self.text.observe(lambda _: self._read(), "value")
        self.clear.on_click(lambda _: selection.clear())

    def __repr__(self) -> str:
        return f"PickControls({self._selection!r})"

    def widgets(self) -> list[widgets.Widget]:
        """In the order of the Tab key."""
        return [self.text, self.layer, self.expert, self.clear]

    def _chosen(self) -> None:
        if self._follower == threading.get_ident():
            return
        layer, expert = (
            None if of.value == _NONE else of.value for of in (self.layer, self.expert)
        )
        if layer is None and expert is not None and self._selection.layer is None:
            layer = 0  # an expert is of a layer: the first one, until another is named
        self._selection.pick(layer=layer, expert=None if layer is None else expert)

    def _read(self) -> None:
        if self._follower != threading.get_ident():
            chosen = self.text.value
            self._selection.sequence = None if chosen == _NONE else chosen

    def _state(self) -> tuple[Any, ...]:
        menus = (self.layer, self.expert, self.text)
        return (self._grid, *(menu.value for menu in menus), self.clear.disabled, self._texts)

    def show(self, picked: Picked, grid: tuple[int, int], texts: int = 1) -> bool:
        """Follow a selection, of a trace with so many texts; True if anything changed."""
        before, sequence = self._state(), self._selection.sequence
        self._follower = threading.get_ident()
        try:
            if grid != self._grid:
                self._grid = grid
                self.layer.options, self.expert.options = map(_options, grid)
            self.layer.value = _NONE if picked.layer is None else picked.layer
            self.expert.value = _NONE if picked.expert is None else picked.expert
            if texts != self._texts:
                self._texts = texts
                self.text.options = [("all", _NONE), *((str(n + 1), n) for n in range(texts))]
                self.text.layout.display = None if texts > 1 else "none"
            chosen = sequence is not None and sequence < texts
            self.text.value = sequence if chosen else _NONE
            self.clear.disabled = picked == Picked() and sequence is None
        finally:
            self._follower = None
        return self._state() != before


def _options(count: int) -> list[tuple[str, int]]:
    return [("–", _NONE), *((str(number), number) for number in range(count))]


def _menu(name: str, count: int, tip: str) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=_options(count),
        description=name,
        tooltip=tip,
        layout=widgets.Layout(width="124px"),
        style={"description_width": "46px"},
    )
