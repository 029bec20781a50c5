"""The timeline with its controls: which stretch of time is in view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np

from engine.trace import Trace
from fiddler_viz.figures import Window, timeline_figure, update_timeline, window
from fiddler_viz.figures.picked import add_time_marks, mark_time
from fiddler_viz.figures.timeline import BARS, LOOK_FOR
from fiddler_viz.theme import Segment, Theme
from fiddler_viz.views.figure_view import FigureView, without_legend
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.legend import timeline_legend
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked, Selection

_NS = 1e9
SPANS = {"last step": 1, "last 8 steps": 8, "whole run": 0}
"""Choices of the menu, in steps; 0 = all."""


class TimelineView(widgets.VBox):
    """Four lanes over time. Follows the run until the reader zooms or moves, then stays.

    A token that is picked somewhere else comes into view. ``on_change`` is called when the view
    should be drawn again.
    """

    def __init__(
        self,
        trace: Trace,
        theme: Theme,
        height_px: int,
        plotly: Plotly,
        selection: Selection,
        on_change: Callable[[], None],
    ) -> None:
        self._theme = theme
        self._selection = selection
        self._looked_at: int | None = None
        self._on_change = on_change
        self._lock = threading.Lock()
        self._chosen: tuple[int, int] | None = None
        self._drawn = window(trace)
        figure = timeline_figure(self._drawn, theme, height=height_px)
        figure.update_layout(dragmode="zoom", title_text="", margin_t=2, margin_b=24)
        without_legend(figure)  # its heading says it
        add_time_marks(figure)
        self.figure = FigureView(figure, plotly, on_move=self._moved)
        for segment in Segment:
            bars = self.figure.data[BARS + segment]
            bars.on_click(lambda _, points, __, kind=segment: self._clicked(kind, points))
        self.span = widgets.Dropdown(
            options=list(SPANS),
            value="last 8 steps",
            description="show",
            tooltip="What the timeline follows. Drag in the plot: zoom in; double-click: back.",
            layout=widgets.Layout(width="168px"),
            style={"description_width": "38px"},
        )
        self.moves = {
            name: widgets.Button(description=name, tooltip=tip, layout=widgets.Layout(width="34px"))
            for name, tip in (
                ("◀", "Earlier"),
                ("▶", "Later"),
                ("+", "Zoom in"),
                ("−", "Zoom out"),
            )
        }
        self.span.observe(lambda _: self._choose(None), "value")
        for name, button in self.moves.items():
            button.on_click(lambda _, name=name: self._move(name))
        row = widgets.Box([self.span, *self.moves.values()])
        row.add_class("fv-row")
        self.heading = Heading()
        super().__init__([row, self.heading, self.figure, timeline_legend()])
        self.add_class("fv-timeline")

    def __repr__(self) -> str:
        return f"TimelineView({self.span.value})"

    def draw(self, trace: Trace, picked: Picked) -> bool:
        """Show what of the trace is in view; True if anything was sent."""
        with self._lock:
            chosen = self._chosen
        start, end = chosen or last_steps(trace, SPANS[self.span.value])
        span = picked.span(trace)
        if picked.token != self._looked_at:
            self._looked_at = picked.token
            if span is not None and (span[1] <= start or span[0] >= end):
                start, end = span
                with self._lock:
                    self._chosen = span
        view = window(trace, start_ns=start, end_ns=end)
        self._drawn = view

        def update(figure: Any) -> None:
            update_timeline(figure, view, self._theme)
            mark_time(figure, view, span, picked.layer, picked.expert)
            figure.layout.title = {"text": ""}

        said = self.heading.show("Timeline", f"{view.clock.name.lower()} clock", LOOK_FOR)
        return self.figure.change(update) or said

    @property
    def drawn(self) -> Window:
        """What was drawn last."""
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

    def _choose(self, view: tuple[int, int] | None) -> None:
        with self._lock:
            self._chosen = view
        self._on_change()

    def _moved(self, layout: Mapping[str, Any]) -> None:
        """The reader dragged or double-clicked in the plot."""
        edges = layout.get("xaxis.range") or [layout.get(f"xaxis.range[{i}]") for i in (0, 1)]
        if layout.get("xaxis.autorange"):
            self._choose(None)
        elif None not in edges:
            start, end = sorted(round(float(edge) * _NS) for edge in edges)
            self._choose((start, max(end, start + 1)))

    def _move(self, name: str) -> None:
        start, end = self._drawn.start_ns, self._drawn.end_ns
        quarter = max((end - start) // 4, 1)
        by = {
            "◀": (-quarter, -quarter),
            "▶": (quarter, quarter),
            "+": (quarter, -quarter),
            "−": (-2 * quarter, 2 * quarter),
        }[name]
        left = max(start + by[0], 0)
        self._choose((left, max(end + by[1] + (left - start - by[0]), left + 1)))


def last_steps(trace: Trace, steps: int) -> tuple[int, int]:
    """From when to when the last so many steps ran, in ns; 0: all of them."""
    starts, ends = trace.steps["start_ns"], trace.steps["end_ns"]
    if not len(starts):
        return 0, 1
    return int(starts[max(len(starts) - steps, 0)]) if steps else 0, int(ends.max())
