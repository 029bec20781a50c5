"""Figures: pure functions from arrays to plotly figures, and one line for each."""

from __future__ import annotations

from fiddler_viz.figures.heatmap import describe_heatmap, heatmap_figure, update_heatmap
from fiddler_viz.figures.inspector import inspector_figure, update_inspector
from fiddler_viz.figures.inspector_words import describe_inspection
from fiddler_viz.figures.memory import (
    describe_memory,
    memory_figure,
    memory_html,
    update_memory,
)
from fiddler_viz.figures.oneline import heatmap, inspect, memory, timeline, tokens
from fiddler_viz.figures.room import Room, room_of
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.strip import TokenStrip, strip_html
from fiddler_viz.figures.strip_words import describe_strip
from fiddler_viz.figures.timeline import timeline_figure, update_timeline
from fiddler_viz.figures.timeline_words import describe_timeline
from fiddler_viz.figures.window import Window, live_window, window

__all__ = [
    "Room",
    "TokenStrip",
    "Window",
    "as_trace",
    "describe_heatmap",
    "describe_inspection",
    "describe_memory",
    "describe_strip",
    "describe_timeline",
    "heatmap",
    "heatmap_figure",
    "inspect",
    "inspector_figure",
    "live_window",
    "memory",
    "memory_figure",
    "memory_html",
    "room_of",
    "strip_html",
    "timeline",
    "timeline_figure",
    "tokens",
    "update_heatmap",
    "update_inspector",
    "update_memory",
    "update_timeline",
    "window",
]
