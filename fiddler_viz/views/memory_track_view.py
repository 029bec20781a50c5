"""The memory over time, in place of the timeline's lanes: made when it is first asked for."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from engine.history import Ledger
from engine.trace import Trace
from fiddler_viz.figures import memory_over_time_figure, room_of, update_memory_over_time
from fiddler_viz.figures.memory_over_time import changes
from fiddler_viz.frames import MemoryTrack, memory_track
from fiddler_viz.theme import Theme
from fiddler_viz.views.figure_view import FigureView, Moved
from fiddler_viz.views.legend import memory_legend
from fiddler_viz.views.plotly_code import Plotly

LIVE_MOVES = 100_000
"""Moves of a run under way up to which it is followed; then its first ones may be given up."""


class MemoryTrackView:
    """A figure and its legend, over the same time as the timeline."""

    def __init__(self, theme: Theme, plotly: Plotly, on_move: Moved) -> None:
        self._theme = theme
        self._plotly, self._on_move = plotly, on_move
        self._ledger: Ledger | None = None
        self._widgets: tuple[widgets.Widget, ...] = ()
        self.figure: FigureView | None = None
        """None until the first drawing."""
        self.track: MemoryTrack | None = None
        """What was drawn last."""
        self.heading = ("Memory over time", "", "")
        """Title, what is shown, and a sentence; raw text."""

    def __repr__(self) -> str:
        return "MemoryTrackView()"

    def widgets(self) -> tuple[widgets.Widget, ...]:
        """Figure and legend; none before the first drawing."""
        return self._widgets

    def draw(
        self, trace: Trace, start_ns: int, end_ns: int, height_px: int, *, growing: bool = False
    ) -> bool:
        """Show the ledger between two times; True if anything was sent."""
        if growing and self.track is not None and len(trace.move_rows) > LIVE_MOVES:
            self.heading = (self.heading[0], "too many moves to follow live: until here", "")
            return False
        if self._ledger is None or self._ledger.trace is not trace:
            self._ledger = Ledger.of(trace)
        track, room = memory_track(self._ledger, start_ns, end_ns), room_of(trace)
        self.track = track
        self.heading = (f"{room.name} over time", "", changes(track, brief=True))
        if self.figure is None:
            figure = memory_over_time_figure(track, self._theme, room=room, height=height_px)
            figure.update_layout(
                dragmode="zoom", title_text="", margin_t=8, margin_b=30, showlegend=False
            )
            self.figure = FigureView(figure, self._plotly, on_move=self._on_move)
            self._widgets = (self.figure, memory_legend(self._theme))
            return True

        def update(figure: Any) -> None:
            update_memory_over_time(figure, track, self._theme, room=room)
            figure.layout.title = {"text": ""}
            figure.layout.height = height_px

        return self.figure.change(update)
