"""What can be planned: GPU memory, cache, policy, hardware."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from typing import Any

import ipywidgets as widgets

from engine.plan import Plan
from engine.policies import LIVE, POLICIES, Policy
from engine.spec import HardwareSpec
from engine.units import format_bytes
from fiddler_viz.views.ordered import ordered

_RANGE = ("max", "min", "step", "value")


class PlanControls:
    """Two sliders and two menus, and the way from and to a plan.

    ``on_change`` is called with an argument's name of ``engine.replan`` and its new value when the
    reader moved something. :meth:`follow` sets the controls from a plan without calling it.
    """

    def __init__(self, plan: Plan, on_change: Callable[[str, Any], None]) -> None:
        self._on_change = on_change
        self._follower: int | None = None
        self.memory = widgets.FloatSlider(
            readout=False,
            description="GPU memory",
            layout=widgets.Layout(flex="1 1 220px", width="auto"),
            style={"description_width": "86px"},
        )
        self.memory_label = widgets.Label(layout=widgets.Layout(width="64px"))
        self.cache = widgets.IntSlider(
            readout=False,
            description="cache",
            layout=widgets.Layout(flex="1 1 180px", width="auto"),
            style={"description_width": "44px"},
        )
        self.cache_label = widgets.Label(layout=widgets.Layout(width="88px"))
        self.policy = widgets.Dropdown(
            description="policy",
            layout=widgets.Layout(width="196px"),
            style={"description_width": "40px"},
        )
        self.hardware = widgets.Dropdown(
            options=[(HardwareSpec.preset(name).title, name) for name in HardwareSpec.presets()],
            description="hardware",
            tooltip="The machine whose speed is modelled.",
            layout=widgets.Layout(flex="0 1 366px", width="auto", min_width="200px"),
            style={"description_width": "66px"},
        )
        self.unit = 1
        """Bytes of one unit of the memory slider."""
        self.live = False
        """Whether an engine is driven: it is offered only what it can run under."""
        self.follow(plan)
        for name, widget in self.widgets().items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")

    def __repr__(self) -> str:
        return f"PlanControls({self.memory_label.value}, {self.cache_label.value})"

    def widgets(self) -> dict[str, widgets.ValueWidget]:
        """By name of the argument that each one sets."""
        return {
            "gpu_memory": self.memory,
            "cache_slots": self.cache,
            "policy": self.policy,
            "hardware": self.hardware,
        }

    def disable(self, why: str) -> None:
        """Nothing can be planned."""
        for widget in self.widgets().values():
            widget.disabled = True
            widget.tooltip = why

    def _changed(self, name: str, value: Any) -> None:
        if self._follower == threading.get_ident():  # only what we set ourselves is no wish
            return
        if name == "gpu_memory":
            value = round(value * self.unit)
            self.memory_label.value = format_bytes(value)
        elif name == "cache_slots":
            self.cache_label.value = _experts(value)
        self._on_change(name, value)

    def follow(
        self, plan: Plan, *, live: bool = False, moving: Callable[[], Collection[str]] = tuple
    ) -> None:
        """Show a plan: values, and the ranges and policies that it allows.

        ``live``: the plan is an engine's. A finished trace may also be replayed under policies
        that need to know the whole run.
        ``moving`` gives the names of what the reader has moved on meanwhile, asked before each is
        set: these keep their values, for the plan is older than they are. A slider that means the
        plan's value already is not set either: the browser's handle may be ahead of what has
        arrived here, and would jump back.
        """
        self._follower = threading.get_ident()
        try:
            self._follow_memory(plan, moving)
            self._follow_cache(plan, moving)
            self.live = live
            self._follow_policy(plan, moving)
            machine, title = plan.own_machine  # what is asked of it has sliders of its own
            if machine not in {name for _, name in self.hardware.options}:
                self.hardware.options = (*self.hardware.options, (title, machine))
            if "hardware" not in moving():
                self.hardware.value = machine
        finally:
            self._follower = None

    def _follow_policy(self, plan: Plan, moving: Callable[[], Collection[str]]) -> None:
        known = plan.own_policy or POLICIES.get(plan.policy)
        policy = plan.own_policy or plan.policy
        offered = LIVE if self.live else POLICIES
        options = [(of.title, name) for name, of in offered.items()]
        options += [(title, name) for title, name in self.policy.options if name not in POLICIES]
        if policy not in {name for _, name in options}:
            options.append((known.title if known else plan.policy, policy))
        if tuple(options) != self.policy.options:
            before = self.policy.value
            with self.policy.hold_sync():  # new options lead to the first of them
                self.policy.options = options
                if before in {name for _, name in options}:
                    self.policy.value = before
        self.policy.tooltip = known.summary if known else "A policy that is not at hand."
        if "policy" not in moving():
            self.policy.value = policy

    def _follow_memory(self, plan: Plan, moving: Callable[[], Collection[str]]) -> None:
        unit, step, least, most = memory_scale(plan)
        # A browser's handle stands on steps alone, and would tell of another as if it were moved.
        value = max(round(round(plan.gpu_memory / unit / step) * step, 9), least)
        stays = "gpu_memory" in moving()
        with ordered(self.memory, *_RANGE):
            same = unit == self.unit and round(self.memory.value / step) == round(value / step)
            _set_range(self.memory, least, max(most, value), step)
            if not stays and not same:  # 29.500000000000004 is 29.5
                self.memory.value = value
        self.unit = unit
        self.memory.tooltip = (
            f"Device memory for everything. {format_bytes(plan.minimum_bytes)} is the least "
            f"(dense weights, KV cache, workspace); at {format_bytes(plan.full_bytes)} every "
            f"expert is resident. Arrow keys move it."
        )
        if not stays:
            self.memory_label.value = format_bytes(plan.gpu_memory)

    def _follow_cache(self, plan: Plan, moving: Callable[[], Collection[str]]) -> None:
        policy = plan.own_policy or POLICIES.get(plan.policy, Policy)
        with ordered(self.cache, *_RANGE):
            _set_range(self.cache, 0, max(plan.most_slots, 1), 1)
            if "cache_slots" not in moving():
                self.cache.value = plan.cache_slots
        self.cache.disabled = not policy.admits or plan.most_slots == 0
        self.cache.tooltip = (
            "Experts' worth of the memory in which experts come and go; each is one pinned less."
            if policy.admits
            else "No effect: this policy keeps nothing that it copies."
        )
        if "cache_slots" not in moving():
            self.cache_label.value = _experts(plan.cache_slots) if policy.admits else "no effect"


def memory_scale(plan: Plan) -> tuple[int, float, float, float]:
    """``(unit in bytes, step, least, most)`` of the memory slider, the last three in units.

    A step is a round number (1, 2 or 5 times a power of ten) of about one expert, or of half a
    percent of the range where experts are smaller; the ends are whole steps, so 24 GB can be hit.
    """
    unit = 10**9 if plan.full_bytes >= 2 * 10**9 else 10**6
    wanted = max(plan.expert_bytes, (plan.full_bytes - plan.minimum_bytes) / 200) / unit
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(power * by for by in (1, 2, 5, 10) if power * by >= wanted * 0.999)
    digits = max(0, -math.floor(math.log10(step)))
    least = round(math.ceil(plan.minimum_bytes / unit / step) * step, digits)
    most = round(math.ceil(plan.full_bytes / unit / step) * step, digits)
    return unit, round(step, digits), least, most


def _set_range(slider: Any, least: float, most: float, step: float) -> None:
    """Change a slider's range in an order in which it is never empty; its value may be clamped."""
    if least > slider.max:
        slider.max = most
        slider.min = least
    else:
        slider.min = least
        slider.max = most
    slider.step = step


def _experts(count: int) -> str:
    return f"{count} expert{'' if count == 1 else 's'}"
