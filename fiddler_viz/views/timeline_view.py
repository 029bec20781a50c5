"""The timeline with its controls: which stretch of time is in view, and what of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np

from engine.spans import layer_span, what_ran
from engine.trace import Trace
from fiddler_viz.figures import Window, Windows, timeline_figure, update_timeline
from fiddler_viz.figures.cursor import add_cursor, move_cursor
from fiddler_viz.figures.picked import add_time_marks, mark_time
from fiddler_viz.figures.timeline import BARS, GAPS
from fiddler_viz.figures.timeline_words import finding
from fiddler_viz.theme import Segment, Theme
from fiddler_viz.views.closing import close_whole
from fiddler_viz.views.figure_view import IN_WORDS, FigureView
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.legend import timeline_legend
from fiddler_viz.views.live_frame import LiveFrame, timeline_frame, timeline_look
from fiddler_viz.views.memory_track_view import MemoryTrackView
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked, Selection

_NS = 1e9
STEP, LAYER, RANGE = "one step", "one layer", "a range"
SPANS = {"whole run": 0, "last 8 steps": 8, STEP: 1, LAYER: 1}
"""What the menu can follow, in steps; 0 = all. The last two are of what is picked."""
LANES, MEMORY = "lanes", "memory"


class TimelineView(widgets.VBox):
    """Four lanes over time, or the memory. Follows the run until the reader zooms, then stays.

    Where it looks is :attr:`Selection.time`, "a range" in the menu; None follows the menu's other
    choices. A token that is picked somewhere else comes into view. ``on_change`` is called when the
    view should be drawn again.
    """

    def __init__(
        self,
        trace: Trace,
        theme: Theme,
        height_px: int,
        plotly: Plotly,
        beat: str,
        selection: Selection,
        on_change: Callable[[], None],
    ) -> None:
        self._theme = theme
        self.height_px = height_px
        """Of the lanes' figure and the memory's, from their next drawing on."""
        self._selection = selection
        self._follows = "last 8 steps"
        """What the menu says but for a chosen range."""
        self._looked_at: int | None = None
        self._brought: tuple[int, int] | None = None
        """Where the token that was looked at last brought the view."""
        self._windows = Windows(trace)
        self._drawn = self._windows.at(*last_steps(trace, 8))
        figure = timeline_figure(self._drawn, theme, height=height_px, legend=False)
        figure.layout.dragmode = "zoom"
        figure.layout.title.text = ""  # its heading says it
        figure.layout.margin.update(t=2, b=24)
        add_cursor(figure, theme)
        add_time_marks(figure)
        self.figure = FigureView(
            figure,
            plotly,
            on_move=self._moved,
            live=timeline_look(beat, theme),
            label=f"timeline of four lanes; {IN_WORDS}",
        )
        for segment in Segment:
            bars = self.figure.data[BARS + segment]
            bars.on_click(lambda _, points, __, kind=segment: self._clicked(kind, points))
        self.figure.data[0].on_click(lambda _, points, __: self._pick_at(points.xs))
        self.figure.data[GAPS].on_click(lambda _, points, __: self._gap_clicked(points))
        self.memory = MemoryTrackView(theme, plotly, self._moved)
        self.span = widgets.Dropdown(
            options=[*SPANS, RANGE],
            value=self._follows,
            description="zoom",
            tooltip="What to look at: the run, or the step or layer that is picked (else the last "
            "step, the first layer), or the range that you chose. Drag in the plot: zoom in; "
            "double-click: back.",
            layout=widgets.Layout(width="164px"),
            style={"description_width": "38px"},
        )
        self.panel = widgets.Dropdown(
            options=[LANES, MEMORY],
            description="show",
            tooltip="What each lane was busy with, or what filled the GPU's memory.",
            layout=widgets.Layout(width="144px"),
            style={"description_width": "38px"},
        )
        self.moves = {
            name: widgets.Button(description=name, tooltip=tip, layout=widgets.Layout(width="26px"))
            for name, tip in (
                ("◀", "Earlier, by a quarter of what is in view"),
                ("▶", "Later, by a quarter of what is in view"),
                ("+", "Zoom in: half of what is in view"),
                ("−", "Zoom out: twice what is in view"),
            )
        }
        self.span.observe(lambda change: self._chosen(change["new"], on_change), "value")
        selection.observe(lambda change: self._tell(change["new"]), "time")
        self.panel.observe(lambda _: on_change(), "value")
        for name, button in self.moves.items():
            button.on_click(lambda _, name=name: self._move(name))
        row = widgets.Box([self.span, self.panel, *self.moves.values()])
        row.add_class("fv-row")
        self.heading = Heading()
        self._lanes = (row, self.heading, self.figure, timeline_legend())
        super().__init__(self._lanes)
        self.add_class("fv-timeline")

    def __repr__(self) -> str:
        return f"TimelineView({self.panel.value}, {self.span.value})"

    def draw(
        self,
        trace: Trace,
        picked: Picked,
        whole: Trace | None = None,
        *,
        growing: bool = False,
        quick: bool = False,
    ) -> bool:
        """Show what of the trace is in view; True if anything was sent.

        Of a ``whole`` run the trace is the part up to the step in play: a line marks its end.
        ``growing``: it is of a run under way. ``quick``: what a large view waits for may be left
        out, for it is drawn again at once.
        """
        if trace is not self._windows.trace:
            self._windows = Windows(trace, growing=growing)
        chosen = self._selection.within(whole or trace).time
        stays = self._brought is not None and self._brought == self._selection.time
        if chosen is None and not stays:
            self._selection.time = None  # this run is shorter: the menu says what is shown instead
        start, end = chosen or self._followed(trace, picked, whole)
        span = picked.span(trace)
        if stays and span is None:
            self._selection.time = None
            start, end = self._followed(trace, picked, whole)
        if picked.token != self._looked_at or stays:  # under another plan its step ran elsewhere
            self._looked_at = picked.token
            if span is not None and (stays or span[1] <= start or span[0] >= end):
                start, end = self._selection.time = self._brought = span
        if self.panel.value == MEMORY:
            return self._draw_memory(trace, start, end, growing=growing)
        view = self._windows.at(start, end, quick=quick)
        self._drawn = view

        def update(figure: Any) -> None:
            update_timeline(figure, view, self._theme)
            mark_time(figure, view, span, picked.layer, picked.expert)
            move_cursor(figure, None if whole is None else trace.duration_ns)
            figure.layout.title = {"text": ""}
            figure.layout.height = self.height_px

        said = self._say(view)
        sent = self.figure.change(update)
        self._place(self._lanes)
        return sent or said

    def frame(self, trace: Trace) -> LiveFrame | None:
        """What is in view of a run under way; None where only a drawing can show it."""
        if self.panel.value == MEMORY or self.span.value == LAYER:
            return None
        return timeline_frame(trace, *self._framed(trace))

    def say(self, trace: Trace) -> bool:
        """Tell what holds a run up of which frames are shown; True if anything changed."""
        start, end = self._framed(trace)
        windows = Windows(trace, growing=True)
        return not windows.large(start, end) and self._say(windows.at(start, end))

    def _say(self, view: Window) -> bool:
        return self.heading.show("Timeline", f"{view.clock.name.lower()} clock", finding(view))

    def _framed(self, trace: Trace) -> tuple[int, int]:
        """From when to when frames of a run under way show it."""
        return self._selection.within(trace).time or self._followed(trace, Picked(), None)

    def _draw_memory(self, trace: Trace, start: int, end: int, *, growing: bool) -> bool:
        sent = self.memory.draw(trace, start, end, self.height_px, growing=growing)
        said = self.heading.show(*self.memory.heading)
        row, heading, *_ = self._lanes
        self._place((row, heading, *self.memory.widgets()))
        return sent or said

    def _place(self, children: tuple[widgets.Widget, ...]) -> None:
        if self.children != children:
            self.children = children

    def _followed(self, trace: Trace, picked: Picked, whole: Trace | None) -> tuple[int, int]:
        """Where the menu says to look."""
        chosen, last = self._follows, len(trace.step_rows) - 1
        if whole is not None and (last < 0 or not SPANS[chosen]):  # the room it will take
            return last_steps(whole.until(0) if SPANS[chosen] else whole, SPANS[chosen])
        if chosen not in (STEP, LAYER) or last < 0:
            return last_steps(trace, SPANS[chosen])
        step = last if picked.step is None else picked.step
        if chosen == LAYER:
            return layer_span(trace, step, picked.layer or 0)
        return int(trace.steps["start_ns"][step]), int(trace.steps["end_ns"][step])

    @property
    def drawn(self) -> Window:
        """What was drawn last of the lanes."""
        return self._drawn

    def _clicked(self, kind: Segment, points: Any) -> None:
        """Pick the expert that a bar was about."""
        shown = self._drawn.segments
        bars = np.flatnonzero(shown.kind == kind)
        if not points.point_inds or points.point_inds[0] >= len(bars):
            return
        bar = bars[points.point_inds[0]]
        layer, expert = int(shown.layer[bar]), int(shown.expert[bar])
        self._selection.pick(
            layer=layer if layer >= 0 else None, expert=expert if expert >= 0 else None
        )

    def _gap_clicked(self, points: Any) -> None:
        gaps = self._drawn.gaps
        if points.point_inds and points.point_inds[0] < len(gaps):
            self._pick_at([float(gaps.start_ns[points.point_inds[0]]) / _NS])

    def _pick_at(self, times_s: Any) -> None:
        """Pick the step and the layer that ran at a time."""
        trace = self._windows.trace
        found = what_ran(trace, round(float(times_s[0]) * _NS)) if times_s else None
        if found is None:
            return
        step, layer = found
        token = int(trace.steps["token"][step])
        self._selection.pick(token=token, layer=layer, expert=None)

    def _chosen(self, name: str, on_change: Callable[[], None]) -> None:
        """Of the menu: what to follow, or to stay at what is in view."""
        if name == RANGE:
            self._selection.time = self._selection.time or self.in_view
            return
        self._follows = name
        self._selection.time = None
        on_change()

    def _tell(self, time: tuple[int, int] | None) -> None:
        self.span.value = RANGE if time else self._follows

    def _look(self, start: int, end: int) -> None:
        start = max(start, 0)
        self._selection.time = (start, max(end, start + 1))

    def _moved(self, layout: Mapping[str, Any]) -> None:
        """The reader dragged or double-clicked in the plot."""
        edges = layout.get("xaxis.range") or [layout.get(f"xaxis.range[{i}]") for i in (0, 1)]
        if layout.get("xaxis.autorange"):
            self._selection.time = None
        elif None not in edges:
            self._look(*sorted(round(float(edge) * _NS) for edge in edges))

    def _move(self, name: str) -> None:
        start, end = self.in_view
        quarter = max((end - start) // 4, 1)
        by = {
            "◀": (-quarter, -quarter),
            "▶": (quarter, quarter),
            "+": (quarter, -quarter),
            "−": (-2 * quarter, 2 * quarter),
        }[name]
        last = max(self._windows.trace.duration_ns - 1, 0)  # something of the run stays in view
        left = min(max(start + by[0], 0), last)
        self._look(left, end + by[1] + (left - start - by[0]))

    @property
    def in_view(self) -> tuple[int, int]:
        """From when to when is in view, in ns."""
        if self.panel.value == MEMORY and self.memory.track is not None:
            return self.memory.track.start_ns, self.memory.track.end_ns
        return self._drawn.start_ns, self._drawn.end_ns

    def close(self) -> None:
        """Also what is not shown at the moment."""
        for child in (*self._lanes[2:], *self.memory.widgets()):
            close_whole(child)
        super().close()


def last_steps(trace: Trace, steps: int) -> tuple[int, int]:
    """From when to when the last so many steps ran, in ns; 0: all of them."""
    starts, ends = trace.steps["start_ns"], trace.steps["end_ns"]
    if not len(starts):
        return 0, 1
    return int(starts[max(len(starts) - steps, 0)]) if steps else 0, int(ends.max())
