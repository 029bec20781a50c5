"""What else can be asked: another link, other cores, another planner, another model's costs.

And how: at once of the running engine, or of replay alone until Apply; two plans, A and B.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import ipywidgets as widgets

from engine.cost import CostModel
from engine.errors import InputError, UnsupportedModelError
from engine.plan import Plan
from engine.planners import PLANNERS
from engine.schemes import SCHEMES, quantised_spec
from engine.spec import HardwareSpec, ModelSpec, same_routing
from fiddler_viz.theme import count
from fiddler_viz.views.ordered import ordered

Moving = Callable[[], Collection[str]]
_DECADE = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
LINKS_GBPS = (*_DECADE, *(10 * x for x in _DECADE), *(100 * x for x in _DECADE if x <= 5))
"""Steps of the link's slider: a tenth of a decade each, rounded."""
CORES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
_OTHER = "A question about other hardware"
TIPS = {
    "link_gbps": f"{_OTHER}: copies between host and GPU at this rate, pinned; its other rates go "
    "with it. Arrow keys move it.",
    "cpu_cores": f"{_OTHER}: arithmetic on the CPU goes with the cores; reading weights from its "
    "memory does not, unless too few are left to draw it. Arrow keys move it.",
    "planner": "What chooses the experts that are pinned.",
}


IN_FORCE = "Back to the plan in force."
OWN = "Back to the machine's own link and cores."


class WhatIfControls:
    """The row that the toggle shows. Values go to ``on_change`` by the name of an argument of
    :func:`engine.placement.change_plan`, buttons to ``on_action`` by name.

    :meth:`follow` sets the controls without calling anybody.
    """

    def __init__(
        self,
        plan: Plan,
        model: ModelSpec,
        on_change: Callable[[str, Any], None],
        on_action: Callable[[str], None],
    ) -> None:
        self._on_change, self._on_action = on_change, on_action
        self._follower: int | None = None
        self._own: dict[str, float] = {}
        self._found: tuple[CostModel, HardwareSpec | None] | None = None
        self.toggle = widgets.ToggleButton(
            description="what if …",
            tooltip="More to ask: link, cores, planner, model costs; two plans side by side.",
            layout=widgets.Layout(width="92px"),
        )
        self.link, self.link_label = _slider("link", 28), _label("106px")
        self.cores, self.cores_label = _slider("CPU", 30), _label("106px")
        self.planner = _menu("planner", list(PLANNERS), 52, "174px")
        self.planner.tooltip = TIPS["planner"]
        self.costed = _menu("costed as", [], 68, "230px")
        self.live = widgets.Checkbox(
            value=True,
            indent=False,
            description="live",
            tooltip="On: every move re-plans the engine, at its next step. Off: moves only ask "
            "what would be; the engine keeps its plan until Apply.",
            layout=widgets.Layout(width="54px"),
        )
        self.apply = _button("Apply", "Give the plan that is asked to the engine.", 64)
        self.reset = _button("Reset", IN_FORCE, 64)
        self._asks = False
        self._unchanged: HardwareSpec | None = None
        """The machine as it is, where another one is in force."""
        self.row = widgets.Box(
            [
                self.link, self.link_label, self.cores, self.cores_label,
                self.planner, self.costed, self.live, self.apply, self.reset,
            ],
            layout=widgets.Layout(display="none"),
        )  # fmt: skip
        self.row.add_class("fv-row")
        self.toggle.observe(lambda change: self._show(change["new"]), "value")
        self.live.observe(lambda change: self._act("live" if change["new"] else "ask"), "value")
        self.apply.on_click(lambda _: self._on_action("apply"))
        self.reset.on_click(lambda _: self._set_back())
        self._models = costable(model)
        self.costed.tooltip = why_these(model)  # a session has one grid
        self.follow(plan, model)
        for name, widget in self.widgets().items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")

    def __repr__(self) -> str:
        return f"WhatIfControls({self.link_label.value}, {self.cores_label.value})"

    def widgets(self) -> dict[str, widgets.ValueWidget]:
        """By name of the argument that each one sets."""
        return {
            "link_gbps": self.link,
            "cpu_cores": self.cores,
            "planner": self.planner,
            "as_model": self.costed,
        }

    def _show(self, shown: bool) -> None:
        self.row.layout.display = "" if shown else "none"

    def _act(self, name: str) -> None:
        if self._follower != threading.get_ident():
            self._on_action(name)

    def _set_back(self) -> None:
        if not self._asks and self._unchanged is not None:
            self._on_change("hardware", self._unchanged)
        else:
            self._on_action("reset")

    def _changed(self, name: str, value: Any) -> None:
        if self._follower == threading.get_ident() or value is None:
            return
        if name == "as_model":
            value = self._models[value]
        elif name == "link_gbps":
            self.link_label.value = self._told(name, value)
        elif name == "cpu_cores":
            self.cores_label.value = self._told(name, value)
        self._on_change(name, value)

    def follow(
        self,
        plan: Plan,
        model: ModelSpec,
        *,
        loaded: ModelSpec | None = None,
        drives: bool = False,
        at_once: bool = True,
        asks: bool = False,
        moving: Moving = tuple,
    ) -> None:
        """Show a plan of a costed ``model``; ``loaded``: the engine's own, where there is one.

        ``drives``: whether there is an engine that can be given it, ``asks`` whether it is not yet
        the one in force. ``moving`` as in :meth:`PlanControls.follow`.
        """
        self._follower = threading.get_ident()
        try:
            machine = self._machine(plan, model)
            self._follow_rate("link_gbps", machine, model, moving)
            self._follow_rate("cpu_cores", machine, model, moving)
            if "planner" not in moving():
                self.planner.value = plan.planner if plan.planner in PLANNERS else None
            self._follow_models(model, loaded, moving)
            self.live.disabled, self.live.value = not drives, at_once
            self._asks = asks
            self._unchanged = machine.original if machine is not None and machine.changed else None
            self.apply.disabled = not (drives and asks)
            self.reset.disabled = not asks and self._unchanged is None
            self.reset.tooltip = IN_FORCE if asks or self._unchanged is None else OWN
        finally:
            self._follower = None

    def _machine(self, plan: Plan, model: ModelSpec) -> HardwareSpec | None:
        """The plan's machine; one looked up among the presets is remembered by its costs."""
        if plan.basis is not None:
            return plan.basis.hardware
        if self._found is None or self._found[0] is not plan.costs:
            self._found = plan.costs, plan.machine(model)
        return self._found[1]

    def _follow_rate(
        self, name: str, machine: HardwareSpec | None, model: ModelSpec, moving: Moving
    ) -> None:
        link = name == "link_gbps"
        slider, label = (self.link, self.link_label) if link else (self.cores, self.cores_label)
        why_not = _why_not(name, machine, model)
        slider.disabled, slider.tooltip = bool(why_not), why_not or TIPS[name]
        if machine is None or why_not:
            label.value = "no link" if machine and link else "as measured" if machine else "unknown"
            return
        start = machine.original or machine
        own = start.h2d_gbps if link else start.cpu_cores
        now = machine.h2d_gbps if link else machine.cpu_cores
        if name in moving():
            return
        steps = sorted({*(LINKS_GBPS if link else CORES), own, now})
        if [value for _, value in slider.options] != steps:
            with ordered(slider, "_options_labels", "index"):  # new ones lead to the first of them
                slider.options = [(f"{step:g}", step) for step in steps]
                slider.value = now
        slider.value = now
        self._own[name] = own
        label.value = self._told(name, now)

    def _told(self, name: str, value: float) -> str:
        words = f"{value:.3g} GB/s" if name == "link_gbps" else count(round(value), "core")
        return words + (" (own)" if value == self._own.get(name) else "")

    def _follow_models(self, model: ModelSpec, loaded: ModelSpec | None, moving: Moving) -> None:
        for spec in (model, loaded):
            if spec is not None and spec.name not in self._models:
                self._models = self._models | costable(spec)
        names = list(self._models)
        if list(self.costed.options) != names:
            with self.costed.hold_sync():
                before = self.costed.value
                self.costed.options = names
                self.costed.value = before if before in names else model.name
        if "as_model" not in moving():
            self.costed.value = model.name
        self.costed.disabled = len(names) < 2


def costable(model: ModelSpec) -> dict[str, ModelSpec]:
    """Whose costs a model's routing can be given, by name.

    The model's own, those of presets with its grid and top-k, and each with experts of fewer bits.
    """
    presets = [ModelSpec.preset(name) for name in ModelSpec.presets()]
    whole = [model, *(preset for preset in presets if same_routing(preset, model))]
    found = {each.name: each for each in whole}
    for each in list(found.values()):
        for scheme in SCHEMES.values():
            try:
                fewer = quantised_spec(each, scheme)
            except (InputError, UnsupportedModelError):  # so already, or no groups fit its rows
                continue
            found.setdefault(fewer.name, fewer)
    return found


def why_these(model: ModelSpec) -> str:
    """What the menu offers, and why it does not offer the rest."""
    presets = [ModelSpec.preset(name) for name in ModelSpec.presets()]
    others = [
        f"{other.name} ({other.layers} x {other.experts}, top-{other.top_k})"
        for other in presets
        if not same_routing(other, model)
    ]
    return (
        f"Whose bytes and operations are costed. Only a model of {model.layers} layers x "
        f"{model.experts} experts, top-{model.top_k}, can be costed on this routing; so not: "
        f"{', '.join(others)}."
    )


def _why_not(name: str, machine: HardwareSpec | None, model: ModelSpec) -> str:
    """Why something cannot be asked of a machine; empty where it can."""
    if machine is None:
        return "The rates of this machine are not in the trace: choose a machine in the menu."
    start = machine.original or machine
    if name == "link_gbps" and not start.accelerator:
        return "There is no GPU, so nothing is copied to it: choose a machine that has one."
    if name == "cpu_cores" and start.costs_of(model) is not None:
        return (
            "The CPU's times were measured with this very model; they do not follow from cores. "
            "Choose another machine in the menu."
        )
    return ""


def _slider(text: str, width_px: int) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(
        options=[("1", 1.0)],
        readout=False,
        description=text,
        layout=widgets.Layout(flex="1 1 96px", width="auto"),
        style={"description_width": f"{width_px}px"},
    )


def _label(width: str) -> widgets.Label:
    return widgets.Label(layout=widgets.Layout(width=width))


def _menu(text: str, options: list[str], width_px: int, width: str) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options,
        description=text,
        layout=widgets.Layout(width=width),
        style={"description_width": f"{width_px}px"},
    )


def _button(text: str, tooltip: str, width_px: int) -> widgets.Button:
    return widgets.Button(
        description=text, tooltip=tooltip, layout=widgets.Layout(width=f"{width_px}px")
    )
