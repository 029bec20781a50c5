"""How long every expert was where, and had which lane: sums over a run, without its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.happened import Changes
from engine.history import becomes, initial_places
from engine.residency import Place
from engine.trace import Trace

Ints = NDArray[np.int64]
Shares = NDArray[np.float64]


def place_shares(trace: Trace, step: int | None = None) -> Shares:
    """What share of the time each expert was in each :class:`Place`, ``(places, layers, experts)``.

    Up to the end of ``step`` (None: of all). A change counts for the whole of the step that it
    was made in, as in :func:`engine.history.places_at`. NaN where no time has passed.
    """
    last = len(trace.step_rows) - 1 if step is None else step
    steps = trace.steps
    spans = (steps["end_ns"] - steps["start_ns"])[: last + 1]
    edges = np.concatenate(([0], np.cumsum(spans)))
    changes = trace.happened.changes
    upto = int(np.searchsorted(changes.step, last, side="right"))
    changes = Changes(*(values[:upto] for values in vars(changes).values()))
    held, _ = held_ns(initial_places(trace), changes, edges, trace.model.experts)
    return shares_of(held).reshape(-1, *trace.model.grid)


def shares_of(held: Ints) -> Shares:
    """Times by place as shares of all of them; NaN where no time has passed."""
    whole = held.sum(axis=0)
    return np.where(whole > 0, held / np.maximum(whole, 1), np.nan)


def held_ns(
    places: NDArray[np.uint8], changes: Changes, edges: Ints, columns: int, first: int = 0
) -> tuple[Ints, NDArray[np.uint8]]:
    """How long each expert was in each place, ``(places, experts)`` by flat index, in ns.

    And where it is at the end. ``places``: where it is at the beginning; ``edges``: time passed
    before each of the steps from number ``first`` on, and after the last one, from 0.
    """
    total = len(places)
    flat = changes.layer * columns + changes.expert
    order = np.argsort(flat.astype(np.int16) if total < 2**15 else flat, kind="stable")
    flat, after = flat[order], becomes(changes.why[order])
    since = edges[changes.step[order] - first]
    new = np.diff(flat, prepend=-1) != 0  # the expert's first change
    until = np.append(np.where(new[1:], edges[-1], since[1:]), edges[-1:])[: len(flat)]
    began = np.full(total, edges[-1])
    began[flat[new]] = since[new]
    held = np.bincount(
        after.astype(np.int64) * total + flat, until - since, minlength=len(Place) * total
    )
    held = held.astype(np.int64).reshape(len(Place), total)
    held[places, np.arange(total)] += began
    ending = places.copy()
    ending[flat] = after  # repeated indices: the last one holds
    return held, ending


def lane_ns(trace: Trace, step: int | None = None) -> Ints:
    """How long each lane had each expert: ``(lanes, layers, experts)``, in ns.

    Running it and copying its weights, up to the end of ``step`` (None: of all). Activations cross
    the link for all of a layer's experts together: they are in none.
    """
    stop = len(trace.step_rows) if step is None else step + 1
    return trace.happened.spent(stop, trace.model.grid)
