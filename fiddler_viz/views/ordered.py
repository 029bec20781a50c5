"""Changes of a slider that reach a page in one message, its range before its value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ordered(slider: Any, *names: str) -> Iterator[None]:
    """Send these traits together and in this order, if any but the last, the value, changes.

    A page takes one trait after the other. Where a range does not hold the value of that moment,
    the page moves the handle to its end and tells of it as if the reader had moved it there.
    """
    before = [getattr(slider, name) for name in names[:-1]]
    with slider.hold_sync():
        yield
        if before != [getattr(slider, name) for name in names[:-1]]:
            slider.send_state(list(names))  # what hold_sync sends then is known to the page
