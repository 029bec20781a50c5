"""Messages of a page are handled where the page sent them, also while a cell runs.

JupyterLab sends what widgets say to a subshell, a thread of its own, so that a slider moves while
a cell runs. ipykernel 7.4 sends it on to the shell that last spoke through the same widget; for
what a cell made that is the main one, which hears nothing until the cell has ended.
"""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets


def as_addressed(root: widgets.Widget) -> None:
    """Take messages to ``root``, and all in it, where they were sent; other kernels do anyway."""
    for widget in within(root):
        if hasattr(widget.comm, "_reply_subshell_for"):
            widget.comm._reply_subshell_for = _as_sent


def within(root: widgets.Widget) -> Iterator[widgets.Widget]:
    """A widget and what stands in it, box by box."""
    yield root
    for child in root.children if isinstance(root, widgets.Box) else ():
        yield from within(child)


def _as_sent(_: object, subshell: str | None) -> str | None:
    return subshell
