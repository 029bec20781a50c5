"""Pinning and unpinning by hand: a switch that makes clicks edit, buttons for what is picked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import ipywidgets as widgets

from engine.plan import Plan
from fiddler_viz.views.selection import Selection


class Edited(Protocol):
    """Who is asked to edit: a session."""

    def edit(self, pin: Collection[int] = (), unpin: Collection[int] = ()) -> None: ...
    def toggle(self, experts: Collection[int]) -> None: ...
    def change(self, name: str, value: object) -> None: ...


class PinControls:
    """The switch, and three buttons that stand in the toolbar while it is on.

    ``on_edit`` is called after something was asked for, ``on_switch`` when the switch was moved.
    """

    def __init__(
        self,
        session: Edited,
        selection: Selection,
        grid: tuple[int, int],
        on_edit: Callable[[], None],
        on_switch: Callable[[], None],
    ) -> None:
        self._session, self._selection, self._grid = session, selection, grid
        self._on_edit = on_edit
        self.switch = widgets.ToggleButton(
            description="edit pins",
            tooltip="Clicks pin and unpin experts, within the budget; what you pin holds first.",
            layout=widgets.Layout(width="78px"),
        )
        self.pin = _button("pin", "Pins what is picked: an expert, or all of a layer.", 44)
        self.unpin = _button("unpin", "Unpins what is picked; the planner's next best come in.", 56)
        self.reset = _button("reset", "Forgets all that was pinned and unpinned by hand.", 52)
        self.bar = widgets.Box(
            [self.pin, self.unpin, self.reset], layout=widgets.Layout(display="none")
        )
        self.bar.add_class("fv-row")
        self.switch.observe(lambda _: on_switch(), "value")
        self.pin.on_click(lambda _: self._edit(pin=True))
        self.unpin.on_click(lambda _: self._edit(pin=False))
        self.reset.on_click(lambda _: self._forget())

    def __repr__(self) -> str:
        return f"PinControls({'on' if self.on else 'off'})"

    @property
    def on(self) -> bool:
        """Whether a click on an expert edits the placement."""
        return bool(self.switch.value)

    def clicked(self, layer: int, expert: int) -> None:
        """An expert was clicked while the switch is on."""
        self._session.toggle([layer * self._grid[1] + expert])
        self._on_edit()

    def show(self, plan: Plan, *, able: bool) -> bool:
        """Follow a plan and the selection; True if anything changed. ``able``: it can be edited."""
        widgets_ = (self.switch, self.pin, self.unpin, self.reset)
        before = [(of.disabled, of.tooltip) for of in widgets_], self.bar.layout.display
        none = not self._picked()
        self.switch.disabled = not able
        self.pin.disabled = self.unpin.disabled = none or not able
        self.reset.disabled = not plan.by_hand or not able
        said = f": {plan.by_hand}" if plan.by_hand else ""
        self.reset.tooltip = f"Forgets all that was pinned and unpinned by hand{said}."
        self.bar.layout.display = "" if self.on else "none"
        return before != ([(of.disabled, of.tooltip) for of in widgets_], self.bar.layout.display)

    def _picked(self) -> list[int]:
        """Flat indices of the experts picked: one, or a layer's."""
        layers, experts = self._grid
        layer, expert = self._selection.layer, self._selection.expert
        if layer is None or not 0 <= layer < layers:
            return []
        columns = range(experts) if expert is None else [expert]
        return [layer * experts + column for column in columns if 0 <= column < experts]

    def _edit(self, *, pin: bool) -> None:
        if picked := self._picked():
            self._session.edit(**{"pin" if pin else "unpin": picked})
            self._on_edit()

    def _forget(self) -> None:
        self._session.change("reset_pins", True)
        self._on_edit()


def _button(name: str, tip: str, width_px: int) -> widgets.Button:
    width = widgets.Layout(width=f"{width_px}px")
    return widgets.Button(description=name, tooltip=tip, layout=width)
