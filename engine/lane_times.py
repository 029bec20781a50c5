"""How lanes spent a stretch of time: busy, idle, on the critical path, at the same time.

**Overlap.** Work on four lanes could at best take as long as the busiest lane is busy, everything
else hidden behind it, and at worst as long as all lanes together, one after the other. With
``busy`` the lanes' busy times and ``elapsed`` the time in which any of them was busy::

    overlap = (sum(busy) - elapsed) / (sum(busy) - max(busy))

0 where nothing ran at the same time, 1 where all was hidden behind the busiest lane. What needs
what may forbid the 1: the CPU's experts need the layer's attention first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Columns, Lane

Ints = NDArray[np.int64]
_LANES = len(Lane)


@dataclass(frozen=True)
class LaneTimes:
    """A stretch of time in figures."""

    start_ns: int
    end_ns: int
    busy_ns: tuple[int, ...]
    """By lane."""
    critical_ns: tuple[int, ...]
    """By lane: time in which the critical path was on it. Of all lanes at most the stretch; what
    is missing, nobody worked for (between measured steps, or beyond the run)."""
    elapsed_ns: int
    """Time in which at least one lane was busy."""

    @property
    def stretch_ns(self) -> int:
        """All of the time."""
        return self.end_ns - self.start_ns

    def busy(self, lane: Lane) -> float:
        """Share of the stretch that a lane was busy, 0..1; nan of no time."""
        return self._share(self.busy_ns[lane])

    def idle(self, lane: Lane) -> float:
        """Share of the stretch that a lane waited, 0..1; nan of no time."""
        return self._share(self.stretch_ns - self.busy_ns[lane])

    def critical(self, lane: Lane) -> float:
        """Share of the stretch in which the end waited for this lane, 0..1; nan of no time."""
        return self._share(self.critical_ns[lane])

    @property
    def bottleneck(self) -> Lane | None:
        """The lane that the end waited for the longest; None where it waited for none."""
        most = max(self.critical_ns)
        return Lane(self.critical_ns.index(most)) if most > 0 else None

    @property
    def overlap(self) -> float:
        """Overlap achieved, as a share of what is possible, 0..1 (see the module's formula).

        nan where nothing could overlap: at most one lane was busy.
        """
        together, most = sum(self.busy_ns), max(self.busy_ns)
        return (together - self.elapsed_ns) / (together - most) if together > most else math.nan

    def _share(self, ns: int) -> float:
        return ns / self.stretch_ns if self.stretch_ns > 0 else math.nan


def lane_times(work: Columns, critical: NDArray[np.bool_], start_ns: int, end_ns: int) -> LaneTimes:
    """Between two times, of rows of work of which ``critical`` are on the critical path."""
    start = np.clip(work["start_ns"], start_ns, end_ns)
    end = np.clip(work["end_ns"], start_ns, end_ns)
    lane, length = work["lane"], end - start

    def by_lane(chosen: slice | NDArray[np.bool_]) -> tuple[int, ...]:
        added = np.bincount(lane[chosen], length[chosen].astype(np.float64), _LANES)
        return tuple(int(ns) for ns in added.round())

    merged = union(start, end)
    elapsed = int((merged[1] - merged[0]).sum())
    return LaneTimes(start_ns, end_ns, by_lane(slice(None)), by_lane(critical), elapsed)


def union(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Stretches as few and disjoint ones that cover the same time, ascending."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    opens = np.ones(len(start), dtype=np.bool_)
    opens[1:] = start[1:] > end[:-1]
    return start[opens], end[np.append(opens[1:], True)[: len(end)]]


@dataclass(frozen=True)
class Gaps:
    """Times in which a lane waited; columns of equal length."""

    lane: Ints
    start_ns: Ints
    end_ns: Ints
    path: Ints
    """The lane that the critical path was on meanwhile, most of the time; -1: on none."""

    def __len__(self) -> int:
        return len(self.lane)

    @classmethod
    def none(cls) -> Gaps:
        """No gap at all."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, nothing)


def idle_gaps(work: Columns, critical: NDArray[np.bool_], start_ns: int, end_ns: int) -> Gaps:
    """Every stretch in which a lane had nothing to do, between two times.

    Of few rows: its cost grows with gaps times pieces of the critical path.
    """
    found: list[tuple[Ints, Ints, Ints]] = []
    for lane in Lane:
        mine = (work["lane"] == lane) & (work["end_ns"] > start_ns) & (work["start_ns"] < end_ns)
        busy = union(work["start_ns"][mine], work["end_ns"][mine])
        start = np.clip(np.append(start_ns, busy[1]), start_ns, end_ns)
        end = np.clip(np.append(busy[0], end_ns), start_ns, end_ns)
        gap = end > start
        found.append((np.full(int(gap.sum()), lane), start[gap], end[gap]))
    lane, start, end = (np.concatenate(part).astype(np.int64) for part in zip(*found, strict=True))
    begins, ends = (work[name][critical] for name in ("start_ns", "end_ns"))
    both = np.minimum(end[:, None], ends) - np.maximum(start[:, None], begins)  # (gaps, pieces)
    on = np.zeros((len(lane), _LANES), dtype=np.int64)
    for number in Lane:
        on[:, number] = both[:, work["lane"][critical] == number].clip(min=0).sum(axis=1)
    return Gaps(lane, start, end, np.where(on.any(axis=1), on.argmax(axis=1), -1))
