"""What a reader asks of a session: noted in any thread, taken one by one by the thread that acts.

The latest change of each kind wins; an action comes after all that was asked before it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from typing import Any, Literal

Action = Literal["apply", "reset", "keep", "clear", "live", "ask"]
"""What can be done besides moving a control: hand the asked plan to the engine, go back to the one
in force, keep what is shown as A, drop A; from now on drive the engine at once, or only ask."""
_BRINGS = {
    "policy": ("cache_slots", "planner"),
    "hardware": ("link_gbps", "cpu_cores"),
    "reset_pins": ("by_hand",),
}
"""What a change brings along, so that what was asked of it before is stale."""


class Asked:
    """Changes of a plan by name, pins by hand, and actions, until :meth:`next` takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[str, Any] = {}
        self._before: list[dict[str, Any] | Action] = []
        """What comes before that: changes and actions, in the order asked."""

    def __repr__(self) -> str:
        return f"Asked({', '.join(sorted(self.names)) or 'nothing'})"

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._before or self._changes)

    @property
    def names(self) -> frozenset[str]:
        """The changes that were asked for, by name, and not yet taken."""
        with self._lock:
            before = (each for each in self._before if not isinstance(each, str))
            return frozenset(self._changes).union(*before)

    def change(self, name: str, value: Any) -> None:
        """Ask for another argument of :func:`engine.placement.change_plan`."""
        with self._lock:
            for stale in _BRINGS.get(name, ()):  # a policy brings its own default of slots
                self._changes.pop(stale, None)
            self._changes[name] = value

    def edit(self, pin: Iterable[int] = (), unpin: Iterable[int] = ()) -> None:
        """Ask for experts (flat indices) to be pinned or unpinned by hand, after what was asked."""
        with self._lock:
            of = self._changes.setdefault("by_hand", dict[int, bool]())
            of |= dict.fromkeys(pin, True) | dict.fromkeys(unpin, False)

    def toggle(self, experts: Collection[int], pinned: Iterable[int]) -> None:
        """Ask for experts to be unpinned if all of them are ``pinned``, or will be; else pinned."""
        are = dict.fromkeys(pinned, True)
        with self._lock:
            are |= self._changes.get("by_hand", {})
        if all(are.get(flat, False) for flat in experts):
            self.edit(unpin=experts)
        else:
            self.edit(pin=experts)

    def do(self, action: Action) -> None:
        """Ask for an action."""
        with self._lock:
            if self._changes:
                self._before.append(self._changes)
                self._changes = {}
            self._before.append(action)

    def next(self) -> dict[str, Any] | Action | None:
        """Take what was asked for first; where that is refused, the others still come."""
        with self._lock:
            if self._before:
                return self._before.pop(0)
            changes, self._changes = self._changes, {}
            return changes or None
