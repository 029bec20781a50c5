"""What was resident when: the ledger of a trace, rebuilt from its moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.events import Columns, Why
from engine.plan import Plan
from engine.residency import Memory, Place
from engine.trace import Trace

BECOMES = {
    Why.ADMIT: Place.CACHED,
    Why.FETCH: Place.CACHED,
    Why.PIN: Place.PINNED,
    Why.UNPIN: Place.HOST,
    Why.EVICT: Place.HOST,
}
"""Where an expert is after a move, by the move's reason; other moves change no place."""


def becomes(why: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Where experts are after changes, by their reasons."""
    table = np.zeros(len(Why), dtype=np.uint8)
    table[list(BECOMES)] = list(BECOMES.values())
    return table[why]


def initial_places(trace: Trace) -> NDArray[np.uint8]:
    """Where every expert is before the first step, by flat index."""
    places = np.zeros(trace.model.experts_total, dtype=np.uint8)
    places[list(trace.plan_list[0][1].pinned)] = Place.PINNED
    places[list(trace.start.cached)] = Place.CACHED
    return places


def places_at(trace: Trace, step: int) -> NDArray[np.uint8]:
    """Where every expert is at the end of ``step``: values of Place, ``(layers, experts)``.

    ``step`` -1 is before the first step.
    """
    final = trace.happened.places
    if final is not None and step >= len(trace.step_rows) - 1:
        return final.copy()
    changes = trace.happened.changes
    upto = int(np.searchsorted(changes.step, step, side="right"))
    flat = changes.layer[:upto] * trace.model.experts + changes.expert[:upto]
    places = initial_places(trace)
    places[flat] = becomes(changes.why[:upto])  # repeated indices: the last one holds
    return places.reshape(trace.model.grid)


def plan_at(trace: Trace, step: int) -> Plan:
    """The plan in force at the end of ``step``."""
    at = min(step, len(trace.step_rows) - 1)
    number = int(trace.steps["plan"][at]) if at >= 0 else 0
    return trace.plan_list[number][1]


def memory_at(trace: Trace, step: int) -> Memory:
    """How the budget is spent at the end of ``step``."""
    plan = plan_at(trace, step)
    places = places_at(trace, step)
    pinned = int((places == Place.PINNED).sum()) * plan.expert_bytes
    cached = int((places == Place.CACHED).sum()) * plan.expert_bytes
    return Memory(
        dense=plan.dense_bytes,
        kv=plan.kv_bytes,
        workspace=plan.workspace_bytes,
        pinned=pinned,
        cached=cached,
        free=plan.gpu_memory - plan.minimum_bytes - pinned - cached,
        budget=plan.gpu_memory,
    )


def memory_over_time(trace: Trace) -> Columns:
    """:func:`memory_at` for every step: columns ``step`` and one per part, in bytes."""
    steps, moves = trace.steps["step"], trace.moves
    plans = [plan for _, plan in trace.plan_list]
    number = trace.steps["plan"]
    # Places of every change in order, so that each change knows what it changed from.
    places = initial_places(trace)
    pinned, cached = int((places == Place.PINNED).sum()), int((places == Place.CACHED).sum())
    deltas = np.zeros((len(steps) + 1, 2), dtype=np.int64)
    kept = np.isin(moves["why"], [int(why) for why in BECOMES])
    flat = moves["layer"][kept] * trace.model.experts + moves["expert"][kept]
    for step, index, why in zip(
        moves["step"][kept].tolist(), flat.tolist(), moves["why"][kept].tolist(), strict=True
    ):
        old, new = int(places[index]), int(BECOMES[Why(why)])
        places[index] = new
        deltas[step, 0] += (new == Place.PINNED) - (old == Place.PINNED)
        deltas[step, 1] += (new == Place.CACHED) - (old == Place.CACHED)
    held = np.array([pinned, cached]) + np.cumsum(deltas, axis=0)[: len(steps)]

    def of_plan(name: str) -> NDArray[np.int64]:
        return np.array([getattr(plan, name) for plan in plans], dtype=np.int64)[number]

    size, budget = of_plan("expert_bytes"), of_plan("gpu_memory")
    parts = {
        "step": steps,
        "dense": of_plan("dense_bytes"),
        "kv": of_plan("kv_bytes"),
        "workspace": of_plan("workspace_bytes"),
        "pinned": held[:, 0] * size,
        "cached": held[:, 1] * size,
    }
    used = sum(parts[name] for name in ("dense", "kv", "workspace", "pinned", "cached"))
    return parts | {"free": budget - used, "budget": budget}
