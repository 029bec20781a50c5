"""Everything that can be turned: prompt, run, stop, plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from engine.plan import Plan
from engine.policies import POLICIES
from engine.spec import HardwareSpec
from engine.units import format_bytes

OnChange = Callable[[str, Any], None]
"""Called with the name of a plan's argument (``gpu_memory``, ...) and its new value."""


class Controls:
    """The widgets of the explorer's two control rows, and the way from and to a plan.

    :meth:`follow` sets them from a plan without calling back; the user's changes call
    ``on_change``, Run (or Enter in the prompt) calls ``on_run``, Stop ``on_stop``.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        on_change: OnChange,
        on_run: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._on_change = on_change
        self._following = False
        self._no_engine = False
        self.prompt = widgets.Text(
            value="To be, or not to be",
            placeholder="a prompt; Enter runs it",
            description="prompt",
            tooltip="The text that the model continues. Enter runs it.",
            layout=widgets.Layout(flex="1 1 220px", width="auto", min_width="160px"),
            style={"description_width": "48px"},
        )
        self.run = _button("▶ Run", "Generate with the plan below; it can be changed meanwhile.")
        self.run.add_class("fv-run")
        self.stop = _button("■ Stop", "Stop at once; what was generated so far is kept.")
        self.stop.disabled = True
        self.tokens = widgets.BoundedIntText(
            value=64,
            min=1,
            max=4096,
            description="tokens",
            tooltip="How many tokens to generate at most.",
            layout=widgets.Layout(width="118px"),
            style={"description_width": "44px"},
        )
        self.policy = _menu("policy", [(p.title, p.name) for p in POLICIES.values()], "176px")
        names = HardwareSpec.presets()
        self.hardware = _menu(
            "hardware", [(HardwareSpec.preset(name).title, name) for name in names], "auto"
        )
        self.hardware.layout.flex = "0 1 330px"
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
        self.cache_label = widgets.Label(layout=widgets.Layout(width="76px"))
        self.unit = 1
        """Bytes of one unit of the memory slider."""
        self.follow(plan)
        self.run.on_click(lambda _: on_run())
        self.stop.on_click(lambda _: on_stop())
        self.prompt.on_msg(lambda _, content, __: on_run() if _is_enter(content) else None)
        for name, widget in self._plan_widgets().items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")

    def __repr__(self) -> str:
        return f"Controls({self.memory_label.value}, {self.cache_label.value})"

    def _plan_widgets(self) -> dict[str, widgets.ValueWidget]:
        return {
            "gpu_memory": self.memory,
            "cache_slots": self.cache,
            "policy": self.policy,
            "hardware": self.hardware,
        }

    def rows(self) -> list[widgets.Widget]:
        """Two rows, in the order of the Tab key."""
        first = widgets.Box([self.prompt, self.run, self.stop, self.tokens, self.policy])
        second = widgets.Box(
            [self.memory, self.memory_label, self.cache, self.cache_label, self.hardware]
        )
        for row in (first, second):
            row.add_class("fv-row")
        return [first, second]

    def busy(self, busy: bool) -> None:
        """While a run is under way it can be stopped, and none started."""
        self.run.disabled = busy or self._no_engine
        self.stop.disabled = not busy

    def without_engine(self) -> None:
        """Nothing can be run: what ran is only replayed under other plans."""
        self._no_engine = True
        for widget in (self.prompt, self.run, self.tokens):
            widget.disabled = True
            widget.tooltip = "This is a finished run. To run something, open an engine: fv.load()"

    def _changed(self, name: str, value: Any) -> None:
        if self._following:
            return
        if name == "gpu_memory":
            value = round(value * self.unit)
            self.memory_label.value = format_bytes(value)
        elif name == "cache_slots":
            self.cache_label.value = _experts(value)
        self._on_change(name, value)

    def follow(self, plan: Plan) -> None:
        """Show a plan: values, and the ranges that it allows."""
        self._following = True
        try:
            self._follow(plan)
        finally:
            self._following = False

    def _follow(self, plan: Plan) -> None:
        self.unit, step, least, most = memory_scale(plan)
        value = plan.gpu_memory / self.unit
        _set_range(self.memory, least, max(most, value), step)
        self.memory.value = max(value, least)
        self.memory.tooltip = (
            f"Device memory for everything. {format_bytes(plan.minimum_bytes)} is the least "
            f"(dense weights, KV cache, workspace); at {format_bytes(plan.full_bytes)} every "
            f"expert is resident. Arrow keys move it."
        )
        self.memory_label.value = format_bytes(plan.gpu_memory)
        policy = POLICIES[plan.policy]
        _set_range(self.cache, 0, max(plan.room, 1), 1)
        self.cache.value = plan.cache_slots
        self.cache.disabled = not policy.admits or plan.room == 0
        self.cache.tooltip = (
            "Experts' worth of the memory in which experts come and go; each is one pinned less."
            if policy.admits
            else f"No effect: the policy “{policy.title}” keeps nothing that it copies."
        )
        self.cache_label.value = _experts(plan.cache_slots) if policy.admits else "no effect"
        self.policy.value = plan.policy
        self.policy.tooltip = policy.summary
        known = {name for _, name in self.hardware.options}
        if plan.hardware not in known:
            self.hardware.options = [*self.hardware.options, (plan.hardware, plan.hardware)]
        self.hardware.value = plan.hardware
        self.hardware.tooltip = "The machine whose speed is modelled."


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


def _button(text: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width="76px"))


def _menu(name: str, options: list[tuple[str, str]], width: str) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options,
        description=name,
        layout=widgets.Layout(width=width),
        style={"description_width": "66px" if name == "hardware" else "40px"},
    )


def _experts(count: int) -> str:
    return f"{count} expert{'' if count == 1 else 's'}"


def _is_enter(content: Any) -> bool:
    return isinstance(content, dict) and content.get("event") == "submit"
