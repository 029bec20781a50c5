"""What has been heard from each page, so that none is set back by a drawing of its own past."""

from __future__ import annotations

from typing import Any

PAGES = 8
"""Pages that show one explorer at the same time; of more, the longest silent are forgotten."""


class Heard:
    """The number of the last event of each page that shows a widget."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Heard({len(self._last)} pages)"

    def note(self, page: Any, number: Any) -> bool:
        """An event has been acted upon; False (and nothing) where it names no page or number."""
        if not isinstance(page, str) or type(number) is not int:
            return False
        self._last.pop(page, None)
        self._last = dict([*self._last.items(), (page, number)][-PAGES:])
        return True

    @property
    def last(self) -> dict[str, int]:
        """By page: to be read before what is drawn, so that it never knows of more than that."""
        return dict(self._last)
