"""The memory's ledger between two times: what fills the budget, and what came and went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Columns, Why
from engine.history import Ledger

Ints = NDArray[np.int64]
POINTS = 600
"""Changes in view up to which every one is drawn; more are looked at so many times."""
BINS = 60
"""Stretches of the view in which admissions and evictions are counted."""
_CAME, _WENT = (Why.ADMIT, Why.FETCH), (Why.EVICT,)


@dataclass(frozen=True)
class MemoryTrack:
    """What the memory chart draws."""

    start_ns: int
    end_ns: int
    time_ns: Ints
    """Ascending, from the start to the end."""
    parts: Columns
    """Bytes at each of these times: ``dense``, ``kv``, ``workspace``, ``pinned``, ``cached``,
    ``free`` and ``budget``, their sum."""
    bin_ns: Ints
    """Middles of equal stretches of the view."""
    admitted: Ints
    """Experts that took a cache slot in each of them."""
    evicted: Ints
    plan_ns: Ints
    """When plans took effect, of those in view; the first plan of a run is none."""
    plan_number: Ints
    expert_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not len(self.time_ns)


def memory_track(ledger: Ledger, start_ns: int, end_ns: int) -> MemoryTrack:
    """The ledger between two times, exact at each of ``time_ns``."""
    trace = ledger.trace
    nothing = np.zeros(0, dtype=np.int64)
    end_ns = max(end_ns, start_ns + 1)
    size = trace.plan.expert_bytes
    if not len(trace.step_rows):
        return MemoryTrack(start_ns, end_ns, nothing, ledger.at(nothing), *[nothing] * 5, size)
    last = min(end_ns, max(trace.duration_ns, start_ns + 1))
    begins, numbers = ledger.plans
    changes = np.concatenate([ledger.time_ns, begins[1:]])
    changes = np.unique(changes[(changes > start_ns) & (changes < last)])
    if len(changes) > POINTS:
        changes = np.linspace(start_ns, last, POINTS, dtype=np.int64)[1:-1]
    times = np.concatenate([[start_ns], changes, [last]]).astype(np.int64)
    edges = np.linspace(start_ns, end_ns, BINS + 1)
    mine = (ledger.time_ns >= start_ns) & (ledger.time_ns < end_ns)
    when, why = ledger.time_ns[mine], ledger.why[mine]
    counted = (np.histogram(when[np.isin(why, kinds)], edges)[0] for kinds in (_CAME, _WENT))
    seen = 1 + np.flatnonzero((begins[1:] >= start_ns) & (begins[1:] < end_ns))
    return MemoryTrack(
        start_ns,
        end_ns,
        times,
        ledger.at(times),
        ((edges[1:] + edges[:-1]) / 2).astype(np.int64),
        *counted,
        begins[seen],
        numbers[seen],
        size,
    )
