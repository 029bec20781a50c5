"""The memory's ledger between two times: what fills the budget, and what came and went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Columns
from engine.history import Ledger

Ints = NDArray[np.int64]
POINTS = 600
"""Changes in view up to which every one is drawn; more are looked at so many times."""
MOST_CHANGES = 20_000
"""Changes in view up to which it is worth counting the different times among them."""
BINS = 60
"""Stretches of the view in which admissions and evictions are counted."""


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
    end_ns = max(end_ns, start_ns + 1)
    begins, numbers = ledger.plans
    edges = np.linspace(start_ns, end_ns, BINS + 1)

    def counted(times: Ints) -> Ints:
        return np.diff(np.searchsorted(times, edges))

    seen = 1 + np.flatnonzero((begins[1:] >= start_ns) & (begins[1:] < end_ns))
    times = _times(ledger, start_ns, end_ns)
    return MemoryTrack(
        start_ns=start_ns,
        end_ns=end_ns,
        time_ns=times,
        parts=ledger.at(times),
        bin_ns=((edges[1:] + edges[:-1]) / 2).astype(np.int64),
        admitted=counted(ledger.admitted_ns),
        evicted=counted(ledger.evicted_ns),
        plan_ns=begins[seen],
        plan_number=numbers[seen],
        expert_bytes=trace.plan.expert_bytes,
    )


def _times(ledger: Ledger, start_ns: int, end_ns: int) -> Ints:
    """Every change between two times, and these; or some times, where changes are too many."""
    if not len(ledger.trace.step_rows):
        return np.zeros(0, dtype=np.int64)
    last = min(end_ns, max(ledger.trace.duration_ns, start_ns + 1))
    a, b = np.searchsorted(ledger.time_ns, (start_ns, last)).tolist()
    if b - a > MOST_CHANGES:
        return np.linspace(start_ns, last, POINTS).astype(np.int64)
    begins = ledger.plans[0][1:]
    changes = np.unique(np.concatenate([ledger.time_ns[a:b], begins]))
    changes = changes[(changes > start_ns) & (changes < last)]
    if len(changes) > POINTS - 2:
        return np.linspace(start_ns, last, POINTS).astype(np.int64)
    return np.concatenate([[start_ns], changes, [last]]).astype(np.int64)
