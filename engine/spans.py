"""From when to when a layer of a step ran, and what ran at some time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.events import WORK, Work, columns
from engine.trace import Trace


def _begun(trace: Trace, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Layers of a step in the order run (-1: the output head), and when each began."""
    work = columns(trace.happened.window(step, step + 1)[0], WORK)
    dense = work["kind"] == Work.DENSE
    layer, start = work["layer"][dense], work["start_ns"][dense]
    order = np.argsort(start, kind="stable")
    return layer[order], start[order]


def layer_span(trace: Trace, step: int, layer: int) -> tuple[int, int]:
    """From when to when a layer of a step ran, in ns: until the next one began.

    The whole step's where it was stopped before that layer.
    """
    layers, begun = _begun(trace, step)
    first, last = (int(trace.steps[name][step]) for name in ("start_ns", "end_ns"))
    found = np.flatnonzero(layers == layer)
    if not len(found):
        return first, last
    at = int(found[0])
    end = int(begun[at + 1]) if at + 1 < len(begun) else last
    start = int(begun[at])
    return (start, end) if end > start else (first, last)


def what_ran(trace: Trace, time_ns: int) -> tuple[int, int | None] | None:
    """The step and the layer (None: output head, or a plan's changes) at a time; None beside them.

    Between two steps it is the one before.
    """
    if not 0 <= time_ns <= trace.duration_ns or not len(trace.step_rows):
        return None
    step = int(np.searchsorted(trace.steps["start_ns"], time_ns, side="right")) - 1
    if step < 0:
        return None
    layers, begun = _begun(trace, step)
    at = int(np.searchsorted(begun, time_ns, side="right")) - 1
    return step, int(layers[at]) if at >= 0 and layers[at] >= 0 else None
