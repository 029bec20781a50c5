"""Stretches of time sorted once, to be added up between any two times at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tracks:
    """Several rows of stretches; those of one row do not overlap."""

    starts: tuple[Ints, ...]
    """Per track: starts of its stretches, ascending."""
    ends: tuple[Ints, ...]
    before: tuple[Ints, ...]
    """Per track: ns covered by its first 0, 1, 2 ... stretches."""

    @classmethod
    def of(cls, group: Ints, start_ns: Ints, end_ns: Ints, groups: int) -> Tracks:
        """Sort stretches into tracks ``0`` to ``groups`` (exclusive) by their ``group``."""
        starts, ends, before = list[Ints](), list[Ints](), list[Ints]()
        for number in range(groups):
            mine = np.flatnonzero(group == number)
            start, end = start_ns[mine], end_ns[mine]
            if (start[1:] < start[:-1]).any():
                order = np.argsort(start, kind="stable")
                start, end = start[order], end[order]
            starts.append(start)
            ends.append(end)
            before.append(np.concatenate([[0], np.cumsum(end - start)]))
        return cls(tuple(starts), tuple(ends), tuple(before))

    def until(self, times: NDArray[np.float64] | Ints) -> NDArray[np.float64]:
        """Time covered before each of ``times``, in ns: shape ``(tracks, times)``.

        Two searches a track, whatever the number of stretches.
        """
        covered = np.zeros((len(self.starts), len(times)))
        for number, (start, end, before) in enumerate(
            zip(self.starts, self.ends, self.before, strict=True)
        ):
            if not len(start):
                continue
            begun = np.searchsorted(start, times, side="right")
            ahead = np.maximum(end[begun - 1] - times, 0)  # of the last one begun
            covered[number] = before[begun] - np.where(begun > 0, ahead, 0)
        return covered

    def crossing(self, start_ns: int, end_ns: int, tracks: int) -> int:
        """Stretches of the first so many tracks that can be seen between two times."""
        return sum(
            int(np.searchsorted(start, end_ns) - np.searchsorted(end, start_ns, side="right"))
            for start, end in zip(self.starts[:tracks], self.ends[:tracks], strict=True)
        )
