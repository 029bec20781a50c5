"""Where experts are, and what memory holds, at the end of a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.history import memory_at, places_at
from engine.residency import Memory, Place
from engine.trace import Trace
from fiddler_viz.frames.selection import pick_step


def places(trace: Trace, step: int | None = None) -> NDArray[np.uint8]:
    """Where each expert's weights are at the end of ``step`` (left out: at the end)."""
    if step is None:
        step = len(trace.step_rows) - 1
    return places_at(trace, step)


def memory_of(trace: Trace, step: int | None = None) -> Memory:
    """What the device's memory holds at the end of ``step`` (left out: at the end)."""
    if step is not None:
        step = pick_step(trace, step)
    else:
        step = len(trace.step_rows) - 1
    return memory_at(trace, step)


def counts(places: NDArray[np.uint8]) -> dict[str, int]:
    """How many experts are pinned, cached and on the host only."""
    found = np.bincount(places.ravel(), minlength=len(Place)).tolist()
    return {place.name.lower(): found[place] for place in Place}
