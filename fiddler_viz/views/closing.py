"""Closing widgets with all that ipywidgets keeps of them."""

from __future__ import annotations

import ipywidgets as widgets


def close_children(box: widgets.Box) -> None:
    """Close a box's children, theirs, and the models of their looks."""
    for child in box.children:
        if isinstance(child, widgets.Box):
            close_children(child)
        close_whole(child)


def close_whole(widget: widgets.Widget) -> None:
    """Close a widget and the models of its looks."""
    for look in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(look, widgets.Widget):  # a figure's layout is plotly's, not a widget
            look.close()
    widget.close()
