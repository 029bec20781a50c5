"""Which notebook cell makes a widget, so that running it again replaces what it made before."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell and one execution of it."""

    name: str
    execution: str

    def replaces(self, other: Cell | None) -> bool:
        """Whether this is a later execution of the same cell."""
        return other is not None and other.name == self.name and other.execution != self.execution


def executing() -> Cell | None:
    """The cell that runs now; None outside notebooks, and where a notebook does not name cells."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    parent: dict[str, Any] = kernel.get_parent()
    name = parent.get("metadata", {}).get("cellId")
    execution = parent.get("header", {}).get("msg_id")
    return Cell(str(name), str(execution)) if name and execution else None
