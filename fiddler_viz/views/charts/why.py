"""Why an expert ran where it did: the decision inspector, for what is picked."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from engine.inspection import Inspection, inspect_call, latest_step
from fiddler_viz.figures import describe_inspection, inspector_figure, update_inspector
from fiddler_viz.figures.inspector_words import where, why
from fiddler_viz.views.background import Question, Same
from fiddler_viz.views.charts.base import BELOW_PX, LINE_PX, Chart, Drawn, Room, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

_TIGHT_PX = 150
"""Below it rows and an axis have no room."""
_LETTERS = 112
"""Of a sentence that stands in one line of the panel."""


class Why(Chart):
    """Three ways expected, one taken. Works out one step, whatever the run's length."""

    name = "why"
    tip = "Why an expert ran where it did: what each way would have cost, and what it took."
    quick = True

    def ask(self, view: View, picked: Picked) -> Question:
        """What is left open is the call most regretted, of the token or of the newest step."""
        trace, token, layer, expert = view.trace, picked.token, picked.layer, picked.expert
        step = latest_step(trace, layer, expert) if token is None else None

        def work(_: Any) -> Inspection:
            return inspect_call(trace, token=token, step=step, layer=layer, expert=expert)

        return Question((self.name, Same(trace), token, step, layer, expert), work)

    def draw(self, answer: Inspection, view: View, picked: Picked, room: Room) -> Drawn:
        """Updated in place: a reader who walks through the text sees the bars move."""
        texts, theme = view.trace.texts, room.theme
        text = texts[answer.token] if answer.token is not None and texts else None
        sentence = why(answer)
        height_px = room.height_px - (LINE_PX if len(sentence) > _LETTERS else 0)

        tight = room.height_px < _TIGHT_PX
        below = 4 if tight else BELOW_PX

        def figure() -> go.Figure:
            made = inspector_figure(answer, theme, text=text, tight=tight)
            return slim(made, height_px, l=12, b=below, t=2).update_layout(showlegend=False)

        def update(shown: Any) -> None:
            update_inspector(shown, answer, theme, text=text, tight=tight)
            shown.layout.title = {"text": ""}
            shown.layout.height = height_px

        aside = where(answer, text)
        if picked == Picked():
            aside = f"for example: {aside}. Click a token, and a cell, for yours."
        return Drawn(
            f"Layer {answer.layer}, expert {answer.expert}",
            aside,
            sentence,
            describe_inspection(answer, text),
            figure,
            update,
        )
