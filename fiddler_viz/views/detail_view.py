"""The panel that explains: a menu of charts above one figure, about what is picked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from engine.errors import FiddlerError
from fiddler_viz.figures.base import new_figure
from fiddler_viz.theme import Theme, safe
from fiddler_viz.views.background import Answer, Background, Question, Same
from fiddler_viz.views.charts import CHARTS, Chart, Drawn
from fiddler_viz.views.figure_view import FigureView
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.session import View

WORDLESS = "Nothing is shown yet."
LIVE = "of the run before; anew when this run ends"


class DetailView(widgets.VBox):
    """One chart at a time; what takes longer than a frame is worked out in the background.

    ``on_change`` is called, in any thread, when the panel should be drawn again. Nothing is worked
    out for a chart that is not shown.
    """

    def __init__(
        self, theme: Theme, height_px: int, plotly: Plotly, on_change: Callable[[], None]
    ) -> None:
        self._theme = theme
        self._height_px = height_px
        self._shown: tuple[Any, ...] = ()
        """What the figure was made of."""
        self._in_place: str | None = None
        """The chart whose figure can be updated in place."""
        self.said = WORDLESS
        """The figure in words; raw."""
        self.background = Background(on_change)
        blank = new_figure(theme, width=None, height=height_px, margin={"l": 0, "t": 0})
        blank.update_xaxes(visible=False).update_yaxes(visible=False)
        self.figure = FigureView(blank, plotly)
        self.menu = widgets.ToggleButtons(
            options=list(CHARTS),
            tooltips=[chart.tip for chart in CHARTS.values()],
            style={"button_width": "78px"},
            layout=widgets.Layout(width="auto"),
        )
        self.menu.observe(lambda _: on_change(), "value")
        self.heading = Heading()
        self.note = widgets.HTML(layout=widgets.Layout(width="auto"))
        self._stage = widgets.Box([self.figure, self.note])
        self._stage.add_class("fv-stage")
        super().__init__([self.menu, self.heading, self._stage])
        self.add_class("fv-detail")

    def __repr__(self) -> str:
        return f"DetailView({self.menu.value})"

    def draw(self, view: View, picked: Picked) -> bool:
        """Show the chart that is chosen; True if anything was sent."""
        chart = CHARTS[self.menu.value]
        if view.live:
            self.background.drop()
            return self._wait(chart, LIVE)
        try:
            question = chart.ask(view, picked)
        except FiddlerError as error:
            return self._say(chart, str(error))
        shown = (chart.name, question.key, Same(view.trace), self._height_px)
        if shown == self._shown:
            return self._note("")
        answer = self._answer(chart, view, question)
        if answer is None:
            return self._wait(chart, self._so_far())
        if answer.error is not None:
            return self._say(chart, _words(answer.error))
        self._shown = shown
        return self._show(
            chart, chart.draw(answer.value, view, picked, self._theme, self._height_px)
        )

    def _answer(self, chart: Chart, view: View, question: Question) -> Answer | None:
        if not chart.quick:
            return self.background.ask(view.trace.routing, question)
        self.background.drop()
        try:
            return Answer(question.work(lambda *_: None))
        except FiddlerError as error:
            return Answer(error=error)

    def _show(self, chart: Chart, drawn: Drawn) -> bool:
        self.said = f"{drawn.title}. {drawn.words}"
        self._note("")
        self.heading.show(drawn.title, drawn.aside, drawn.sentence)
        if drawn.update is not None and self._in_place == chart.name:
            self.figure.change(drawn.update)
        else:
            self.figure.replace(drawn.figure())
        self._in_place = chart.name if drawn.update is not None else None
        return True

    def _so_far(self) -> str:
        if not self.background.late:
            return ""
        done = self.background.progress
        return f"working it out: {done[0]} of {done[1]}" if done else "working it out ..."

    def _wait(self, chart: Chart, why: str) -> bool:
        """Keep what was there, dimmed, and say why."""
        return self._note(why, old=True)

    def _say(self, chart: Chart, words: str) -> bool:
        """Words in place of a figure."""
        self._shown = ()
        self.said = words
        self.heading.show(chart.name.capitalize(), "", chart.tip)
        return self._note(words, old=True)

    def _note(self, words: str, *, old: bool = False) -> bool:
        """Words over the figure; ``old`` dims it. True if anything changed."""
        before = (self.note.value, self._stage._dom_classes)
        self.note.value = f'<div class="fv-note" role="status">{safe(words)}</div>' if words else ""
        (self._stage.add_class if old else self._stage.remove_class)("fv-old")
        return (self.note.value, self._stage._dom_classes) != before


def _words(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, FiddlerError) else f"{type(error).__name__}: {text}"
