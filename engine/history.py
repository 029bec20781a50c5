"""What was resident when: the ledger of a trace, rebuilt from its moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
    steps = trace.steps["step"]
    ledger = Ledger.of(trace)
    upto = np.searchsorted(ledger.step, steps, side="right")
    return {"step": steps} | ledger.parts(upto, trace.steps["plan"])


@dataclass(frozen=True)
class Ledger:
    """Every change of what is on the device, in order: who looks closer than a step needs it.

    ``time_ns``, ``step``, ``pinned`` and ``cached`` are columns of equal length.
    """

    trace: Trace
    step: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    """When it took effect; never descending. A slot is taken when its copy begins."""
    pinned: NDArray[np.int64]
    """Experts pinned after this many changes: one more element than there are changes."""
    cached: NDArray[np.int64]
    why: NDArray[np.int64]

    @classmethod
    def of(cls, trace: Trace) -> Ledger:
        """The changes of a trace, read off its moves."""
        moves, places = trace.moves, initial_places(trace)
        kept = np.flatnonzero(np.isin(moves["why"], [int(why) for why in BECOMES]))
        why = moves["why"][kept]
        flat = moves["layer"][kept] * trace.model.experts + moves["expert"][kept]
        after = becomes(why)
        # What each change found: the same expert's change before it, or how it all began.
        order = np.argsort(flat, kind="stable")
        before = np.empty_like(after)
        before[order[1:]] = after[order[:-1]]
        first = order[np.diff(flat[order], prepend=-1) != 0]
        before[first] = places[flat[first]]

        def held(place: Place) -> NDArray[np.int64]:
            gained = (after == place).astype(np.int64) - (before == place)
            return np.concatenate([[0], np.cumsum(gained)]) + int((places == place).sum())

        time = np.maximum.accumulate(moves["start_ns"][kept])
        return cls(trace, moves["step"][kept], time, held(Place.PINNED), held(Place.CACHED), why)

    def at(self, times_ns: NDArray[np.int64]) -> Columns:
        """How the budget is spent at these times: ``time_ns`` and a column per part, in bytes."""
        begins, numbers = self.plans
        plan = numbers[np.searchsorted(begins[1:], times_ns, side="right")]
        upto = np.searchsorted(self.time_ns, times_ns, side="right")
        return {"time_ns": times_ns} | self.parts(upto, plan)

    @cached_property
    def plans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """From when plans held, and their numbers: with their first step, or as soon as they can.

        What a smaller budget has no room for goes first, and that may wait for copies under way.
        Of several plans before one step only the last is known.
        """
        steps, plan = self.trace.steps, self.trace.steps["plan"]
        if not len(plan):
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        first = np.flatnonzero(np.diff(plan, prepend=-1))
        begins = steps["start_ns"][first].copy()
        for at, step in enumerate(first.tolist()):
            done = int(np.searchsorted(self.step, step))
            held = int(self.pinned[done] + self.cached[done])
            if held > self.trace.plan_list[int(plan[step])][1].room and done < len(self.step):
                begins[at] = self.time_ns[done]
        return begins, plan[first]

    @cached_property
    def admitted_ns(self) -> NDArray[np.int64]:
        """When experts took cache slots, ascending."""
        return self.time_ns[np.isin(self.why, (int(Why.ADMIT), int(Why.FETCH)))]

    @cached_property
    def evicted_ns(self) -> NDArray[np.int64]:
        """When experts gave cache slots up, ascending."""
        return self.time_ns[self.why == Why.EVICT]

    def parts(self, upto: NDArray[np.int64], plan: NDArray[np.int64]) -> Columns:
        """The budget's parts after ``upto`` changes under the plan of that number, in bytes."""
        plans = [plan for _, plan in self.trace.plan_list]

        def of_plan(name: str) -> NDArray[np.int64]:
            return np.array([getattr(plan, name) for plan in plans], dtype=np.int64)[plan]

        size, budget = of_plan("expert_bytes"), of_plan("gpu_memory")
        parts = {
            "dense": of_plan("dense_bytes"),
            "kv": of_plan("kv_bytes"),
            "workspace": of_plan("workspace_bytes"),
            "pinned": self.pinned[upto] * size,
            "cached": self.cached[upto] * size,
        }
        return parts | {"free": budget - sum(parts.values()), "budget": budget}
