"""Rows that grow, in memory that does not: the newest are kept, the oldest given up and counted."""

from __future__ import annotations

import numpy as np

from engine.events import Rows


class Growing:
    """An append-only table of int64 rows that keeps between ``limit / 2`` and ``limit`` of them.

    :attr:`rows` is a view, read-only by agreement; what is appended later changes nothing in it.
    """

    def __init__(self, width: int, limit: int = 1 << 17) -> None:
        self.limit = limit
        self.dropped = 0
        """Oldest rows given up so far."""
        # All at once: what was never written to takes no memory, and is never copied.
        self._store: Rows = np.empty((limit, width), dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Rows:
        """What is kept, oldest first."""
        return self._store[: self._count]

    def append(self, rows: Rows) -> None:
        """Add rows at the end."""
        needed = self._count + len(rows)
        if needed > self.limit:
            rows = np.concatenate([self.rows, rows])[-(self.limit // 2) :]
            self.dropped += needed - len(rows)
            self._count, needed = 0, len(rows)
            self._store = np.empty_like(self._store)  # who has a view goes on to see the same
        self._store[self._count : needed] = rows
        self._count = needed
