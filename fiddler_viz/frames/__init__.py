"""From a trace to the arrays that figures draw. Rows are picked and added up here, never timed.

Every result is a frozen dataclass of numpy arrays, so that a live view can build the same from a
run that still grows (:func:`live_grid`, :func:`segments`) and hand it to the same figures.
"""

from __future__ import annotations

from fiddler_viz.frames.amounts import Amounts, Floats, Ints, Shares, popularity, shares
from fiddler_viz.frames.flow import Flow, flow
from fiddler_viz.frames.grid import SHOWS, Grid, grid, live_grid, routed
from fiddler_viz.frames.memory_track import MemoryTrack, memory_track
from fiddler_viz.frames.places import counts, memory_of, places
from fiddler_viz.frames.segments import Segments, segments
from fiddler_viz.frames.selection import describe_selection, pick_step, pick_token
from fiddler_viz.frames.specialisation import Specialisation, labelled, specialisation
from fiddler_viz.frames.strip import COLORS, Strip, strip
from fiddler_viz.frames.tokens import (
    LIMIT_TOKENS,
    Tokens,
    excerpt,
    priced,
    readings,
    token_table,
)

__all__ = [
    "COLORS", "LIMIT_TOKENS", "SHOWS", "Amounts", "Floats", "Flow", "Grid", "Ints", "MemoryTrack",
    "Segments", "Shares", "Specialisation", "Strip", "Tokens", "counts", "describe_selection",
    "excerpt", "flow", "grid", "labelled", "live_grid", "memory_of", "memory_track", "pick_step",
    "pick_token", "places", "popularity", "priced", "readings", "routed", "segments", "shares",
    "specialisation", "strip",
    "token_table",
]  # fmt: skip
