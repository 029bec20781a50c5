"""The panel that explains: a menu of charts above one figure, about what is picked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from engine.errors import FiddlerError, InputError
from engine.trace import Trace
from fiddler_viz.figures.base import new_figure
from fiddler_viz.theme import Theme, safe
from fiddler_viz.views.background import Answer, Background, Question, Same
from fiddler_viz.views.charts import Chart, Drawn, Room, make_charts
from fiddler_viz.views.figure_view import FigureView
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.heights import Heights
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

NOTHING = "Nothing is shown yet."
LIVE = "Of {}: anew when this run ends."
BEFORE, BUNDLED = "the run before", "the bundled run"
BEGINNING = "Nothing has run yet: play, or move on."
COMES = "It comes when this run ends."
PLAYING = "Anew where the playhead stands."
WORKING = "Working it out"


class DetailView(widgets.VBox):
    """One chart at a time; what takes longer than a frame is worked out in the background.

    ``on_change`` is called, in any thread, when the panel should be drawn again; ``on_policy``
    with the policy that the reader clicked. Nothing is worked out for a chart that is not shown.
    """

    def __init__(
        self,
        theme: Theme,
        heights: Heights,
        plotly: Plotly,
        on_change: Callable[[], None],
        on_policy: Callable[[str], None],
    ) -> None:
        self._theme, self.heights = theme, heights
        self._shown: tuple[Any, ...] = ()
        """What the figure was made of."""
        self._in_place: tuple[str, Room] | None = None
        """The chart, and the room, whose figure can be updated in place."""
        self._heading: tuple[str, str, str] = ("", "", "")
        """Of the figure."""
        self._words = NOTHING
        self.said = NOTHING
        """What the panel shows, in words; raw."""
        self.background = Background(on_change)
        self.charts = make_charts(on_change, on_policy)
        blank = new_figure(
            theme,
            width=None,
            height=heights.detail,
            margin={"l": 0, "t": 0},
            xaxis={"visible": False},
            yaxis={"visible": False},
        )
        self.figure = FigureView(blank, plotly)
        self.menu = widgets.ToggleButtons(
            options=list(self.charts),
            tooltips=[chart.tip for chart in self.charts.values()],
            style={"button_width": "82px"},
            layout=widgets.Layout(width="auto"),
        )
        self.larger = widgets.ToggleButton(
            description="larger",
            tooltip="This panel takes the timeline's place, too.",
            layout=widgets.Layout(width="68px"),
        )
        for control in (self.menu, self.larger):
            control.observe(lambda _: on_change(), "value")
        self.heading = Heading()
        self.note = widgets.HTML(layout=widgets.Layout(width="auto"))
        sides = [chart.side for chart in self.charts.values() if chart.side is not None]
        self._stage = widgets.Box([self.figure, self.note, *sides])
        self._stage.add_class("fv-stage")
        row = widgets.Box([self.menu, self.larger])
        row.add_class("fv-row")
        super().__init__([row, self.heading, self._stage])
        self.add_class("fv-detail")

    def __repr__(self) -> str:
        return f"DetailView({self.menu.value})"

    @property
    def room(self) -> Room:
        """What the figure is drawn into."""
        tall = self.heights
        return Room(self._theme, tall.larger if self.larger.value else tall.detail)

    def draw(
        self,
        view: View,
        picked: Picked,
        whole: Trace | None = None,
        *,
        playing: bool = False,
        example: bool = False,
    ) -> bool:
        """Show the chart that is chosen; True if anything was sent.

        Of a ``whole`` run the trace is the part up to the step in play; ``playing``: soon up to
        another one, so that nothing that takes longer than a frame is begun. ``example``: what was
        shown before a run under way was no run of the reader's.
        """
        chart = self.charts[self.menu.value]
        for other in self.charts.values():
            if other.side is not None:
                other.side.layout.display = None if other is chart else "none"
        if view.live:
            self.background.drop()
            return self._wait_for_end(chart, BUNDLED if example else BEFORE)
        self.said = self._words
        if whole is not None and not len(view.trace.step_rows):
            return self._say(chart, InputError(BEGINNING))
        if playing and not chart.quick:
            self.background.drop()
            return self._meanwhile(chart, PLAYING)
        try:
            question = chart.ask(view, picked)
            shown = (chart.name, question.key, question.mark, Same(view.trace), self.room)
            if shown == self._shown:
                self.background.drop()
                headed = self.heading.show(*self._heading)
                return self._note("") or headed
            answer = self._answer(chart, whole or view.trace, question, view.trace)
        except FiddlerError as error:
            answer = Answer(error=error)
        if answer is None:
            return self._meanwhile(chart, self._so_far())
        if answer.error is not None:
            return self._say(chart, answer.error)
        self._shown = shown
        return self._show(chart, chart.draw(answer.value, view, picked, self.room))

    def _answer(
        self, chart: Chart, whole: Trace, question: Question, trace: Trace
    ) -> Answer | None:
        """At once, or from the background; None while that works."""
        if not chart.quick:
            upto = replace(question, key=(*question.key, trace.meta.get("until")))
            return self.background.ask(whole.routing, upto)
        self.background.drop()
        return Answer(question.work(lambda *_: None))

    def _wait_for_end(self, chart: Chart, of: str) -> bool:
        """A run is under way: what is shown is of another one, if it is of this chart at all."""
        title, _, look_for = self._heading
        if self._shown[:1] == (chart.name,):
            self.said = f"Of {of}. {self._words}"
            headed = self.heading.show(title, f"of {of}", look_for)
            return self._note(LIVE.format(of), old=True) or headed
        self.said = f"{chart.name.capitalize()}: {COMES}"
        headed = self.heading.show(chart.name.capitalize(), "", chart.tip)
        return self._note(COMES, old=True, other=True) or headed

    def _meanwhile(self, chart: Chart, words: str) -> bool:
        """What is shown is old; with words, and of another chart, it goes, and its heading too."""
        if not words or self._shown[:1] == (chart.name,):
            return self._note(words, old=True)
        self.said = f"{chart.name.capitalize()}: {words}"
        headed = self.heading.show(chart.name.capitalize(), "", chart.tip)
        return self._note(words, old=True, other=True) or headed

    def _show(self, chart: Chart, drawn: Drawn) -> bool:
        self.said = self._words = drawn.words
        self._note("")
        self._heading = (drawn.title, drawn.aside, drawn.look_for)
        self.heading.show(*self._heading)
        kind = (chart.name, self.room)
        if drawn.update is not None and self._in_place == kind:
            self.figure.change(drawn.update)
            return True
        self.figure.replace(drawn.figure())
        self._in_place = kind if drawn.update is not None else None
        if (clicked := drawn.clicked) is not None:
            for trace in self.figure.data:
                if trace.customdata is not None:
                    trace.on_click(lambda trace, points, _: _clicked(clicked, trace, points))
        return True

    def _so_far(self) -> str:
        if not self.background.late:
            return ""
        done = self.background.progress
        return f"{WORKING}: {done[0]} of {done[1]} ..." if done else f"{WORKING} ..."

    def _say(self, chart: Chart, error: Exception) -> bool:
        """Words in place of a figure."""
        words = str(error) or type(error).__name__
        if not isinstance(error, FiddlerError):
            words = f"{type(error).__name__}: {words}"
        self._shown, self.said, self._words = (), words, words
        said = self.heading.show(chart.name.capitalize(), "", chart.tip)
        return self._note(words, old=True) or said

    def _note(self, words: str, *, old: bool = False, other: bool = False) -> bool:
        """Words over the figure; ``old`` dims it, ``other`` hides it: it is of another chart.

        True if anything changed.
        """
        before = (self.note.value, self._stage._dom_classes)
        self.note.value = f'<div class="fv-note" role="status">{safe(words)}</div>' if words else ""
        for name, on in (("fv-old", old), ("fv-other", other)):
            (self._stage.add_class if on else self._stage.remove_class)(name)
        return (self.note.value, self._stage._dom_classes) != before


def _clicked(heard: Callable[[Any], None], trace: Any, points: Any) -> None:
    """Tell what the first of the points that were clicked is about."""
    if points.point_inds and points.point_inds[0] < len(trace.customdata):
        heard(trace.customdata[points.point_inds[0]])
