"""Two sliders that ask for another machine: a faster link, a faster CPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import ipywidgets as widgets

from engine.cost import CostModel
from engine.model_spec import ModelSpec
from engine.plan import Plan
from fiddler_viz.theme import safe

_RATES = {
    "link_gbps": ("link", "h2d_gbps", "Rate of the link's copies from host to GPU.", (1, 500)),
    "cpu_gbps": ("CPU", "cpu_gbps", "Rate at which the CPU reads weights.", (4, 2000)),
}
"""By name of the what-if: words, figure of a profile, tooltip, range in GB/s."""
AS_IS = "as it is"
_STEP = 0.02
"""Of the sliders, in powers of ten: an arrow key makes a rate 5% larger."""


class MachineSliders(widgets.VBox):
    """:attr:`changes` is what was moved; a plan of another machine sets all back.

    ``on_change`` is called when the reader moved something.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._follower: int | None = None
        self._machine: tuple[str, CostModel] | None = None
        self._actual: dict[str, float] = {}
        self.changes: dict[str, float] = {}
        """By name of a what-if, in GB/s."""
        self.labels = {name: widgets.HTML() for name in _RATES}
        self.sliders = {
            name: widgets.FloatLogSlider(
                min=math.log10(low),
                max=math.log10(high),
                step=_STEP,
                readout=False,
                tooltip=tip,
                layout=widgets.Layout(width="176px"),
            )
            for name, (_, _, tip, (low, high)) in _RATES.items()
        }
        self.reset = widgets.Button(
            description=AS_IS, tooltip="Back to the plan's machine.", disabled=True
        )
        self.reset.layout.width = "80px"
        self.note = widgets.HTML()
        for name, slider in self.sliders.items():
            slider.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self.reset.on_click(lambda _: self._set_back())
        parts = [part for name in _RATES for part in (self.labels[name], self.sliders[name])]
        super().__init__([*parts, self.reset, self.note])
        self.add_class("fv-machine")

    @property
    def movable(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self._actual)

    def __repr__(self) -> str:
        return f"MachineSliders({self.changes or AS_IS})"

    def _moved(self, name: str, value: float) -> None:
        if self._follower == threading.get_ident():
            return
        changes = {**self.changes, name: float(f"{value:.3g}")}
        if abs(math.log10(value / self._actual[name])) < _STEP / 2:  # a browser's own rounding
            del changes[name]
        if changes == self.changes:
            return
        self.changes = changes
        self._label()
        self._on_change()

    def _set_back(self) -> None:
        self.changes = {}
        self._to_actual()
        self._on_change()

    def follow(self, plan: Plan, model: ModelSpec) -> None:
        """Show a plan's machine; nothing can be moved where only its times are known."""
        machine = (plan.hardware, plan.costs)
        if machine == self._machine:
            return
        self._machine, self.changes = machine, {}
        self._actual, why = _rates(plan, model)
        for name, slider in self.sliders.items():
            slider.disabled = name not in self._actual
        self.note.value = f'<span class="fv-hint">{safe(why)}</span>' if why else ""
        self._to_actual()

    def _to_actual(self) -> None:
        self._follower = threading.get_ident()
        try:
            for name, value in self._actual.items():
                self.sliders[name].value = value
        finally:
            self._follower = None
        self._label()

    def _label(self) -> None:
        for name, (words, *_) in _RATES.items():
            value = self.changes.get(name, self._actual.get(name))
            if value is None:
                self.labels[name].value = words
                continue
            asked = f"{value:.3g} GB/s"
            self.labels[name].value = (
                f"{words} <b>{asked}</b>" if name in self.changes else (f"{words} {asked}")
            )
        self.reset.disabled = not self.changes


def _rates(plan: Plan, model: ModelSpec) -> tuple[dict[str, float], str]:
    """What of a plan's machine can be changed, with what it is; and why the rest cannot."""
    machine = plan.machine(model)
    if machine is None:
        return {}, "The trace holds this machine's times, not its rates."
    rates = {name: float(getattr(machine, field)) for name, (_, field, *_) in _RATES.items()}
    if not machine.accelerator:
        del rates["link_gbps"]
        return rates, "No GPU: nothing is copied."
    known = (machine.original or machine).costs_of(model)
    if known is None:
        return rates, ""
    del rates["cpu_gbps"]
    if known.device is not None:
        del rates["link_gbps"]
    return rates, "Measured with this very model: such times do not follow from rates."
