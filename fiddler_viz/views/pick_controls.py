"""Picking an expert without a mouse: its layer, its number, and picking nothing."""

from __future__ import annotations

import threading

import ipywidgets as widgets

from fiddler_viz.views.selection import Picked, Selection

_NONE = -1
"""What a menu's dash stands for; ipywidgets would show None as an empty menu."""


class PickControls:
    """Two menus and a button that change a selection, and follow it."""

    def __init__(self, selection: Selection, grid: tuple[int, int]) -> None:
        self._selection = selection
        self._follower: int | None = None
        self._grid = grid
        layers, experts = grid
        self.layer = _menu("layer", layers, "Picks a layer in all views.")
        self.expert = _menu("expert", experts, "Picks one of the layer's experts in all views.")
        self.clear = widgets.Button(
            description="clear",
            tooltip="Picks nothing: no token, no expert, no time.",
            layout=widgets.Layout(width="58px"),
        )
        for menu in (self.layer, self.expert):
            menu.observe(lambda _: self._chosen(), "value")
        self.clear.on_click(lambda _: selection.clear())

    def __repr__(self) -> str:
        return f"PickControls({self._selection!r})"

    def widgets(self) -> list[widgets.Widget]:
        """In the order of the Tab key."""
        return [self.layer, self.expert, self.clear]

    def _chosen(self) -> None:
        if self._follower == threading.get_ident():
            return
        layer, expert = (
            None if of.value == _NONE else of.value for of in (self.layer, self.expert)
        )
        if layer is None and expert is not None and self._selection.layer is None:
            layer = 0  # an expert is of a layer: the first one, until another is named
        self._selection.pick(layer=layer, expert=None if layer is None else expert)

    def show(self, picked: Picked, grid: tuple[int, int]) -> bool:
        """Follow a selection; True if anything changed."""
        before = (self._grid, self.layer.value, self.expert.value, self.clear.disabled)
        self._follower = threading.get_ident()
        try:
            if grid != self._grid:
                self._grid = grid
                self.layer.options, self.expert.options = map(_options, grid)
            self.layer.value = _NONE if picked.layer is None else picked.layer
            self.expert.value = _NONE if picked.expert is None else picked.expert
            self.clear.disabled = picked == Picked()
        finally:
            self._follower = None
        return (self._grid, self.layer.value, self.expert.value, self.clear.disabled) != before


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
