"""The experts' heatmap with its controls: what colour tells, of which token, what is pinned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np

from engine.plan import Plan
from fiddler_viz.figures import heatmap_figure, update_heatmap
from fiddler_viz.figures.heatmap import edits
from fiddler_viz.figures.heatmap_words import MODES
from fiddler_viz.figures.picked import add_cells_mark, mark_cells
from fiddler_viz.frames import Grid
from fiddler_viz.theme import Theme, show_token
from fiddler_viz.views.earlier import PROFILE
from fiddler_viz.views.figure_view import IN_WORDS, FigureView
from fiddler_viz.views.heading import Heading
from fiddler_viz.views.legend import HeatmapLegend
from fiddler_viz.views.live_frame import LiveFrame, heatmap_frame, heatmap_look
from fiddler_viz.views.pin_controls import Edited, PinControls
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.selection import Picked, Selection


class HeatmapView(widgets.VBox):
    """Layers down, experts across; shows and changes what is picked.

    ``on_change`` is called when a control was moved, ``on_edit`` when an edit was asked for.
    """

    def __init__(
        self,
        grid: Grid,
        theme: Theme,
        height_px: int,
        plotly: Plotly,
        beat: str,
        selection: Selection,
        session: Edited,
        on_change: Callable[[], None],
        on_edit: Callable[[], None],
    ) -> None:
        self._theme = theme
        self.height_px = height_px
        """Of the figure, from its next drawing on."""
        self._selection = selection
        self._follower: int | None = None
        self._growing = False
        self._before: str | None = None
        """What was shown before a token was picked."""
        self._drawn_empty = grid.is_empty
        figure = heatmap_figure(grid, theme, height=height_px, legend=False)
        figure.layout.title.text = ""  # its heading says it
        figure.layout.margin.update(t=8, b=24)
        experts = grid.shape[1]
        if experts > 16:
            figure.update_xaxes(dtick=1 << max(0, (experts - 1).bit_length() - 3), tickangle=0)
        figure.update_xaxes(title_text="")  # it would lie on the labels where the figure is low
        figure.add_annotation(
            {"text": "expert", "xref": "paper", "yref": "paper", "x": 0, "y": 0, "xshift": -6}
            | {"yshift": -1, "xanchor": "right", "yanchor": "top", "showarrow": False}
        )
        add_cells_mark(figure)
        self.figure = FigureView(
            figure,
            plotly,
            live=heatmap_look(beat, grid.amount.size),
            label=f"map of experts, layers by experts; {IN_WORDS}",
        )
        self.figure.data[0].on_click(self._clicked)
        self.show = widgets.Dropdown(
            options=[(mode.name, name) for name, mode in MODES.items()],
            description="colour",
            tooltip="What the colour of an expert tells.",
            layout=widgets.Layout(width="172px"),
            style={"description_width": "44px"},
        )
        self.against = widgets.Dropdown(
            options=[PROFILE],
            description="less",
            tooltip="What the difference is to: the text that the plan goes by, or an earlier run.",
            layout=widgets.Layout(flex="1 1 160px", width="auto", min_width="0"),
            style={"description_width": "30px"},
        )
        self.token = widgets.IntSlider(
            min=0,
            max=0,
            description="token",
            disabled=True,
            tooltip="Which token: arrow keys step through the text. For “this token”.",
            layout=widgets.Layout(flex="1 1 192px", width="auto"),
            style={"description_width": "40px"},
        )

        def changed(_: object = None) -> None:
            self._changed(on_change)

        self.pins = PinControls(session, selection, grid.shape, on_edit, changed)
        self.show.observe(changed, "value")
        self.against.observe(changed, "value")
        self.token.observe(lambda _: self._walked(), "value")
        selection.observe(self._picked, "token")
        row = widgets.Box([self.show, self.pins.switch, self.pins.bar, self.token, self.against])
        row.add_class("fv-row")
        row.add_class("fv-tools")
        self.heading = Heading()
        self.legend = HeatmapLegend(theme, grid.amount.size)
        super().__init__([row, self.heading, self.figure, self.legend])
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
        """A token that is picked is shown; picked no longer, what was shown before it."""
        if change["new"] is None:
            if self.show.value == "token" and self._before is not None:
                self.show.value = self._before
            self._before = None
        elif not self._growing and self.show.value != "token":
            self._before, self.show.value = self.show.value, "token"

    def _clicked(self, _: Any, points: Any, __: Any) -> None:
        """Pick an expert; the one that is picked: no longer. Or pin it, where clicks edit."""
        if not points.xs or not points.ys:
            return
        layer, expert = int(points.ys[0]), int(points.xs[0])
        of = self._selection
        if self.pins.on and not self.pins.switch.disabled:
            self.pins.clicked(layer, expert)
            of.pick(layer=layer, expert=expert)
            return
        if (of.layer, of.expert) == (layer, expert):
            of.pick(layer=None, expert=None)
        else:
            of.pick(layer=layer, expert=expert)

    def selected(
        self, tokens: int, picked: int | None, *, live: bool, growing: bool = False
    ) -> int | None:
        """The token shown, out of so many processed; None where it is not about one token.

        Also keeps the slider's range, and sets it to the token ``picked``: while a run is live it
        follows the newest token. ``growing``: no other can be shown yet.
        """
        self._growing = growing
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

    def compared(self, names: list[str]) -> str:
        """What a difference is to; also keeps the menu's entries."""
        self._follower = threading.get_ident()
        try:
            options = tuple((show_token(name, 48), name) for name in names)
            if options != self.against.options:
                before = self.against.value
                with self.against.hold_sync():  # new options lead to the first of them
                    self.against.options = options
                    if before in names:
                        self.against.value = before
        finally:
            self._follower = None
        return str(self.against.value)

    def draw(
        self,
        grid: Grid,
        picked: Picked,
        plan: Plan,
        *,
        hover: bool,
        able: bool,
        still: bool = False,
    ) -> bool:
        """Show a grid; True if anything was sent. Hover texts may wait for a quieter moment.

        ``able``: whether the placement can be edited by hand. ``still``: frames of a run under way
        show the cells, the rest is drawn.
        """

        def update(figure: Any) -> None:
            update_heatmap(figure, grid, self._theme, hover=hover)
            mark_cells(figure, picked.cells(grid.shape))
            figure.layout.height = self.height_px
            figure.layout.title = {"text": ""}

        mode = MODES[grid.show]
        self.token.layout.display = "" if grid.show == "token" and not self.pins.on else "none"
        self.against.layout.display = (
            "" if grid.show == "difference" and not self.pins.on else "none"
        )
        sent = [
            self.pins.show(plan, able=able),
            self.heading.show(mode.title, grid.caption, mode.look_for),
            self.legend.show(mode, edits(grid), blank=bool(np.isnan(grid.amount).any())),
            not still and self.figure.change(update),
        ]
        if not still:
            self._drawn_empty = grid.is_empty
        return any(sent)

    def frame(self, grid: Grid) -> LiveFrame | None:
        """The cells of a run under way; None where the drawing says that there is nothing yet."""
        return None if self._drawn_empty else heatmap_frame(grid, self._theme)
