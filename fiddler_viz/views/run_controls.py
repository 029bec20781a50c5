"""Prompt, Run, Stop and how many tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

PROMPT = "To be, or not to be, that is the question:"
MOST_TOKENS = 2**31 - 1
"""What a model has room for the engine says; a field that corrects itself hides what was asked."""
FINISHED = "This is a finished run. To run something, open an engine: fv.load(...)"


class RunControls:
    """What starts and ends a run: the button, or Enter in the prompt."""

    def __init__(self, *, on_run: Callable[[], None], on_stop: Callable[[], None]) -> None:
        self._can_run = True
        self.prompt = widgets.Text(
            value=PROMPT,
            placeholder="a prompt; Enter runs it",
            description="prompt",
            tooltip="The text that the model continues. Enter runs it.",
            layout=widgets.Layout(flex="1 1 220px", width="auto", min_width="160px"),
            style={"description_width": "48px"},
        )
        self.run = _button("▶ Run", "Generate under the plan below; it can be changed meanwhile.")
        self.run.add_class("fv-run")
        self.stop = _button("■ Stop", "Stop at once; what was generated so far is kept.")
        self.stop.disabled = True
        self.tokens = widgets.BoundedIntText(
            value=64,
            min=1,
            max=MOST_TOKENS,
            description="tokens",
            tooltip="How many tokens to generate at most.",
            layout=widgets.Layout(width="118px"),
            style={"description_width": "44px"},
        )
        self.run.on_click(lambda _: on_run())
        self.stop.on_click(lambda _: on_stop())
        self.prompt.on_msg(lambda _, content, __: on_run() if _is_enter(content) else None)

    def __repr__(self) -> str:
        return f"RunControls({self.prompt.value!r}, {self.tokens.value} tokens)"

    def widgets(self) -> list[widgets.Widget]:
        """In the order of the Tab key."""
        return [self.prompt, self.run, self.stop, self.tokens]

    def busy(self, busy: bool) -> None:
        """While a run is under way it can be stopped, and none started."""
        self.run.disabled = busy or not self._can_run
        self.stop.disabled = not busy

    def without_engine(self) -> None:
        """Nothing can be run: what ran is only replayed under other plans."""
        self._can_run = False
        for widget in (self.prompt, self.run, self.tokens):
            widget.disabled = True
            widget.tooltip = FINISHED


def _button(text: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width="76px"))


def _is_enter(content: Any) -> bool:
    return isinstance(content, dict) and content.get("event") == "submit"
