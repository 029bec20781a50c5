"""How processes share the tests: first what races a clock, in one of them, then the rest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from xdist.scheduler import LoadFileScheduling

TOGETHER = "clocked"
"""The scope of all tests that need the machine for themselves."""
FEW = 2
"""So many tests from its end a process is given more, or it would wait for them."""


class ClockedFirst(LoadFileScheduling):
    """Gives a process a file at a time, as xdist's own; but nothing beside tests on a clock.

    ``clocked``: names of their files, without suffix; those of tests/browser are, all of them.
    """

    def __init__(self, config: Any, log: Any, clocked: Collection[str]) -> None:
        super().__init__(config, log)
        self._clocked = clocked

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.split("::", 1)[0])
        if file.parent.name == "browser" or file.stem in self._clocked:
            return TOGETHER
        return super()._split_scope(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        if TOGETHER in self.workqueue:
            self.workqueue.move_to_end(TOGETHER, last=False)
        elif self._on_a_clock():
            return
        super()._assign_work_unit(node)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        for other in self.nodes:
            if not self._pending_of(self.assigned_work[other]) and not self._on_a_clock():
                self._reschedule(other)  # it waited

    def _on_a_clock(self) -> bool:
        units = (work.get(TOGETHER, {}) for work in self.assigned_work.values())
        return any(list(unit.values()).count(False) > FEW for unit in units)
