"""One line that says what just happened, and one that says what all this is."""

from __future__ import annotations

import ipywidgets as widgets

from engine.spec import ModelSpec
from engine.trace import Trace
from fiddler_viz.theme import safe


class Status(widgets.HTML):
    """The status line; also read aloud by screen readers. Text from outside is escaped."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(flex="1 1 200px", width="auto"))
        self.text = ""
        self.is_error = False
        self.say("")

    def __repr__(self) -> str:
        return f"Status({self.text!r})"

    def say(self, text: str) -> None:
        """Say something; an empty text leaves the line empty."""
        self._show(text, error=False)

    def error(self, error: BaseException) -> None:
        """Say what went wrong, in the error's own words."""
        words = str(error) or type(error).__name__
        self._show(
            words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}",
            error=True,
        )

    def _show(self, text: str, *, error: bool) -> None:
        self.text, self.is_error = text, error
        kind = " error" if error else ""
        mark = "<b>Error.</b> " if error else ""
        role = "alert" if error else "status"
        self.value = (
            f'<div class="fv-status{kind}" role="{role}">{mark}{safe(text) or "&nbsp;"}</div>'
        )


class Header(widgets.HTML):
    """What runs: the model, its grid, what it is costed as, the machine, the clock, the state."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))

    def __repr__(self) -> str:
        return "Header()"

    def show(self, name: str, trace: Trace, state: str, *, what_if: bool) -> bool:
        """Draw; True if anything changed."""
        before = self.value
        model, clock = trace.model, trace.clock.name.lower()
        costed = "" if model.name == name else f" · costed as {safe(model.name)}"
        machine = safe(trace.machine)
        badge = f'<span class="fv-badge {clock}" title="{_CLOCKS[clock]}">{clock} clock</span>'
        if what_if:
            badge += (
                ' <span class="fv-badge modelled" title="The last run again, under the plan set '
                'below; nothing was executed.">what if</span>'
            )
        self.value = (
            f'<div class="fv-head"><b>{safe(name)}</b><span>{grid_words(model)}{costed}</span>'
            f'<span class="fv-on" title="{machine}">{machine}</span>{badge}'
            f'<span class="fv-state">{safe(state)}</span></div>'
        )
        return self.value != before


_CLOCKS = {
    "modelled": "Times come from the cost model of the named machine, not from a stopwatch.",
    "measured": "Times were measured on this machine.",
}


def grid_words(model: ModelSpec) -> str:
    """``32 layers × 8 experts, top-2``."""
    return f"{model.layers} layers × {model.experts} experts, top-{model.top_k}"
