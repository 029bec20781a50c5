"""The experts' heatmap with its controls: what the colour tells, and of which token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from fiddler_viz.figures import heatmap_figure, update_heatmap
from fiddler_viz.figures.heatmap import LOOK_FOR, TITLES
from fiddler_viz.figures.picked import add_cells_mark, mark_cells
from fiddler_viz.frames import Grid
from fiddler_viz.theme import Theme
from fiddler_viz.views.figure_view import FigureView, without_legend
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.legend import heatmap_legend
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked, Selection


class HeatmapView(widgets.VBox):
    """Layers down, experts across; shows and changes what is picked.

    ``on_change`` is called when a control was moved.
    """

    def __init__(
        self,
        grid: Grid,
        theme: Theme,
        height_px: int,
        plotly: Plotly,
        selection: Selection,
        on_change: Callable[[], None],
    ) -> None:
        self._theme = theme
        self._selection = selection
        self._follower: int | None = None
        figure = heatmap_figure(grid, theme, height=height_px)
        figure.update_layout(title_text="", margin_t=8, margin_b=24)
        without_legend(figure)  # its heading says it
        experts = grid.shape[1]
        if experts > 16:
            figure.update_xaxes(dtick=1 << max(0, (experts - 1).bit_length() - 3), tickangle=0)
        figure.update_xaxes(title_text="")  # it would lie on the labels where the figure is low
        figure.add_annotation(
            {"text": "expert", "xref": "paper", "yref": "paper", "x": 0, "y": 0, "xshift": -6}
            | {"yshift": -1, "xanchor": "right", "yanchor": "top", "showarrow": False}
        )
        add_cells_mark(figure)
        self.figure = FigureView(figure, plotly)
        self.figure.data[0].on_click(self._clicked)
        self.show = widgets.ToggleButtons(
            options=[("popularity", "popularity"), ("this token", "token")],
            tooltips=[
                "Colour: how many tokens each expert served",
                "Colour: the router's weights for one token",
            ],
            style={"button_width": "92px"},
            layout=widgets.Layout(width="auto"),
        )
        self.token = widgets.IntSlider(
            min=0,
            max=0,
            description="token",
            disabled=True,
            tooltip="Which token: arrow keys step through the text. For “this token”.",
            layout=widgets.Layout(flex="1 1 160px", width="auto"),
            style={"description_width": "40px"},
        )
        self.show.observe(lambda _: self._changed(on_change), "value")
        self.token.observe(lambda _: self._walked(), "value")
        selection.observe(self._picked, "token")
        row = widgets.Box([self.show, self.token])
        row.add_class("fv-row")
        self.heading = Heading()
        super().__init__([row, self.heading, self.figure, heatmap_legend(theme, grid.amount.size)])
        self.add_class("fv-heatmap")

    def __repr__(self) -> str:
        return f"HeatmapView({self.show.value})"

    def _changed(self, on_change: Callable[[], None]) -> None:
        if self._follower != threading.get_ident():  # only what we set ourselves is no wish
            on_change()

    def _walked(self) -> None:
        if self._follower != threading.get_ident():
            self._selection.token = self.token.value

    def _picked(self, change: Any) -> None:
        if change["new"] is not None:
            self.show.value = "token"

    def _clicked(self, _: Any, points: Any, __: Any) -> None:
        """Pick an expert; the one that is picked: no longer."""
        if not points.xs or not points.ys:
            return
        layer, expert = int(points.ys[0]), int(points.xs[0])
        of = self._selection
        if (of.layer, of.expert) == (layer, expert):
            of.pick(layer=None, expert=None)
        else:
            of.pick(layer=layer, expert=expert)

    def selected(self, tokens: int, picked: int | None, *, live: bool) -> int | None:
        """The token shown, out of so many processed; None where it is not about one token.

        Also keeps the slider's range, and sets it to the token ``picked``: while a run is live it
        follows the newest token.
        """
        self._follower = threading.get_ident()
        try:
            last = max(tokens - 1, 0)
            at_end = self.token.value >= self.token.max
            self.token.max = last
            if live or (at_end and picked is None):
                self.token.value = last
            elif picked is not None:
                self.token.value = picked
            self.token.disabled = live or self.show.value != "token" or tokens == 0
        finally:
            self._follower = None
        return self.token.value if self.show.value == "token" and tokens else None

    def draw(self, grid: Grid, picked: Picked, *, hover: bool) -> bool:
        """Show a grid; True if anything was sent. Hover texts may wait for a quieter moment."""

        def update(figure: Any) -> None:
            update_heatmap(figure, grid, self._theme, hover=hover)
            mark_cells(figure, picked.cells(grid.shape))
            figure.layout.title = {"text": ""}

        said = self.heading.show(TITLES[grid.show], grid.caption, LOOK_FOR[grid.show])
        return self.figure.change(update) or said
