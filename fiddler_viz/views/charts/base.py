"""What every chart of the detail panel is: a question to a run, and a drawing of the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as widgets
import plotly.graph_objects as go

from fiddler_viz.theme import Theme
from fiddler_viz.views.background import Question
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

BELOW_PX = 26
"""What an axis without a title takes."""
LINE_PX = 16
"""Of the panel's heading, which has room for two."""


@dataclass(frozen=True)
class Room:
    """What a chart is drawn into."""

    theme: Theme
    height_px: int


@dataclass(frozen=True)
class Drawn:
    """A chart to be shown. All texts are raw."""

    title: str
    aside: str
    look_for: str
    words: str
    """The twin of the figure, in full."""
    figure: Callable[[], go.Figure]
    update: Callable[[Any], None] | None = None
    """Makes this figure out of one of the same chart's, in place; None: it takes a new one."""
    clicked: Callable[[Any], None] | None = None
    """Called with the ``customdata`` of what was clicked."""


class Chart(ABC):
    """One entry of the panel's menu. Charts keep nothing of what they drew."""

    name: ClassVar[str]
    tip: ClassVar[str]
    quick: ClassVar[bool] = False
    """Whether an answer takes a small part of a frame; others come from the background."""
    side: widgets.Widget | None = None
    """Controls that stand beside the figure."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def ask(self, view: View, picked: Picked) -> Question:
        """What is to be known. Raises InputError where there is nothing to ask."""

    @abstractmethod
    def draw(self, answer: Any, view: View, picked: Picked, room: Room) -> Drawn:
        """Show what came of it."""


def slim(figure: go.Figure, height_px: int, **margin: int) -> go.Figure:
    """A figure without its title, which stands above the panel, in the room there is."""
    sides = {"l": 58, "r": 12, "t": 6, "b": 40} | margin
    figure.layout.title.text = ""
    figure.layout.height = height_px
    figure.layout.margin.update(**sides)
    return figure


def legend_beside(figure: go.Figure, width_px: int) -> go.Figure:
    """The legend to the right of the plot, in a margin of that width."""
    return figure.update_layout(
        margin_r=width_px,
        legend={
            "orientation": "v",
            "x": 1.01,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "paper",
            "yanchor": "top",
            "font": {"size": 12},
            "itemwidth": 30,
            "maxheight": figure.layout.height,  # beside the axis, too, before it scrolls
        },
    )
