"""The charts of the detail panel: what each asks of a run, and what it draws of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from engine.inspection import Inspection, inspect_call, latest_step
from fiddler_viz.figures import describe_inspection, inspector_figure, update_inspector
from fiddler_viz.figures.inspector_words import where, why
from fiddler_viz.theme import Theme
from fiddler_viz.views.background import Question, Same
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.session import View


@dataclass(frozen=True)
class Drawn:
    """A chart to be shown. All texts are raw."""

    title: str
    aside: str
    sentence: str
    words: str
    """The twin of the figure."""
    figure: Callable[[], go.Figure]
    update: Callable[[Any], None] | None = None
    """Makes this figure out of one of the same chart's, in place; None: it takes a new one."""


@dataclass(frozen=True)
class Chart:
    """One entry of the panel's menu."""

    name: str
    tip: str
    ask: Callable[[View, Picked], Question]
    """Raises InputError where there is nothing to ask."""
    draw: Callable[[Any, View, Picked, Theme, int], Drawn]
    """Of an answer, for a height in CSS pixels."""
    quick: bool = False
    """Whether the answer takes a small part of a frame."""


def slim(figure: go.Figure, height: int, **margin: int) -> go.Figure:
    """A figure without its title, which stands above the panel, in the room there is."""
    sides = {"l": 58, "r": 12, "t": 8, "b": 40} | margin
    figure.update_layout(title_text="", height=height, margin=sides)
    return figure


# ---------------------------------------------------------------------------------- why


def ask_why(view: View, picked: Picked) -> Question:
    """The call that is picked; what is left open is the one most regretted of the newest step."""
    trace = view.trace
    token, layer, expert = picked.token, picked.layer, picked.expert
    step = None
    if token is None and len(trace.step_rows):
        step = latest_step(trace, layer, expert)

    def work(_: Any) -> Inspection:
        return inspect_call(trace, token=token, step=step, layer=layer, expert=expert)

    return Question(("why", Same(trace), token, step, layer, expert), work)


def draw_why(call: Inspection, view: View, picked: Picked, theme: Theme, height: int) -> Drawn:
    """Three bars expected, one that came of it."""
    text = view.trace.texts[call.token] if call.token is not None and view.trace.texts else None

    def figure() -> go.Figure:
        made = slim(inspector_figure(call, theme, text=text), height, l=12, b=26, t=2)
        return made.update_layout(showlegend=False)

    def update(shown: Any) -> None:
        update_inspector(shown, call, theme, text=text)
        shown.layout.title = {"text": ""}

    aside = where(call, text)
    if picked == Picked():
        aside = f"an example: {aside}. Click a token and a cell for yours."
    return Drawn(
        f"Layer {call.layer}, expert {call.expert}",
        aside,
        why(call),
        describe_inspection(call, text),
        figure,
        update,
    )


CHARTS = {
    chart.name: chart
    for chart in (
        Chart(
            "why",
            "Why an expert ran where it did: what each way would have cost.",
            ask_why,
            draw_why,
            quick=True,
        ),
    )
}
