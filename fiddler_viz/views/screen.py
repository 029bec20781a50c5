"""The explorer's screen: all views and controls in their places, drawn from a session at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from engine.plan import Plan
from engine.units import format_bytes
from fiddler_viz.figures import room_of
from fiddler_viz.theme import Theme
from fiddler_viz.views.beat import Beat
from fiddler_viz.views.heatmap_view import HeatmapView
from fiddler_viz.views.memory_view import MemoryView
from fiddler_viz.views.pick_controls import PickControls
from fiddler_viz.views.picture import grid_of, memory_now, tokens_processed
from fiddler_viz.views.plan_controls import PlanControls
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.run_controls import RunControls
from fiddler_viz.views.selection import Picked, Selection
from fiddler_viz.views.session import Session, View
from fiddler_viz.views.status import Header, Status
from fiddler_viz.views.style import style_sheet
from fiddler_viz.views.text_view import TextView
from fiddler_viz.views.tiles import Tiles, make_tiles
from fiddler_viz.views.timeline_view import TimelineView
from fiddler_viz.views.words import Words

LEAST_HEIGHT_PX = 560
_MANY_ROWS = 20_000
"""Choices of the router from which on the heatmap and the text are drawn after the rest."""
PENDING = "counting ..."
_AROUND_PX = 208
"""What stands above and below the panels."""


class Screen:
    """Two columns of panels under two rows of controls. Made once; :meth:`draw` changes it.

    ``mark`` is called when a view's own control was moved and the screen is to be drawn again.
    """

    def __init__(
        self,
        session: Session,
        theme: Theme,
        height_px: int,
        *,
        on_change: Callable[[str, Any], None],
        on_run: Callable[[], None],
        on_stop: Callable[[], None],
        mark: Callable[[], None],
        selection: Selection,
    ) -> None:
        room = height_px - _AROUND_PX
        lines = 150 if room > 500 else 84
        self._theme = theme
        self._selection = selection
        self._drawn_plan: Plan | None = None
        self.owes = False
        """Whether heatmap and text are still those of the plan before."""
        self.header, self.tiles, self.status = Header(), Tiles(), Status()
        self.runs = RunControls(on_run=on_run, on_stop=on_stop)
        self.controls = PlanControls(session.view.plan, on_change)
        self.beat, self.plotly = Beat(), Plotly()
        grid = grid_of(session, "popularity", None)
        self.heatmap = HeatmapView(grid, theme, room - 196, self.plotly, selection, mark)
        self.memory = MemoryView(theme)
        self.words = Words(mark)
        self.text = TextView(lines, lambda token: selection.pick(token=token))
        self.timeline = TimelineView(
            session.view.trace, theme, room - 140 - lines, self.plotly, selection, mark
        )
        self.picks = PickControls(selection, session.view.trace.model.grid)
        selection.observe(lambda _: mark())

    def __repr__(self) -> str:
        return f"Screen({self._theme.name})"

    def layout(self) -> list[widgets.Widget]:
        """The screen from top to bottom, in the order of the Tab key."""
        controls = self.controls
        sliders = [controls.memory, controls.memory_label, controls.cache, controls.cache_label]
        sides = (
            widgets.VBox([self.heatmap, self.memory]),
            widgets.VBox([self.text, self.timeline]),
        )
        return [
            widgets.HTML(style_sheet(self._theme), layout=widgets.Layout(display="none")),
            self.header,
            _classed("fv-row", widgets.Box([*self.runs.widgets(), controls.policy])),
            _classed("fv-row", widgets.Box([*sliders, controls.hardware])),
            self.tiles,
            _classed("fv-panels", widgets.Box([_classed("fv-side", side) for side in sides])),
            _classed(
                "fv-row", widgets.Box([self.status, *self.picks.widgets(), self.words.button])
            ),
            self.words.text,
        ]

    def draw(self, session: Session, *, name: str, state: str, busy: bool) -> bool:
        """Show a session; True if anything was sent to the browser."""
        view = session.view
        replanned = view.plan != self._drawn_plan
        self._drawn_plan = view.plan
        if replanned or session.drives != self.controls.live:
            self.follow(session)
        if replanned and not busy:
            self.status.say(plan_words(view, example=session.example))
        self.runs.busy(busy)
        if replanned and not view.live and len(view.trace.routing) > _MANY_ROWS:
            return self._draw_first(session, name=name, state=state)
        self.owes = False
        picks = self.text.picks  # before the selection: of a later one it would know nothing
        picked = Picked() if view.live else self._selection.within(view.trace)
        token = self.heatmap.selected(tokens_processed(session), picked.token, live=view.live)
        grid = grid_of(session, self.heatmap.show.value, token)
        tiles = make_tiles(view.predicted, view.run, what_if=view.what_if)
        memory, room = memory_now(session), room_of(view.trace)
        size = view.plan.expert_bytes
        sent = [
            self.heatmap.draw(grid, picked, hover=not view.live),
            self.memory.show(memory, room, size),
            self.timeline.draw(view.trace, picked),
            self.picks.show(picked, view.trace.model.grid),
            self.words.show(grid, memory, room, size, self.timeline.drawn),
            self.tiles.show(tiles, fade=replanned and not view.live),
            self.text.show(
                view.trace,
                token if picked.token is None else picked.token,
                live=view.live,
                picks=picks,
            ),
            self.header.show(name, view.trace, state, what_if=view.what_if),
        ]
        return any(sent)

    def _draw_first(self, session: Session, *, name: str, state: str) -> bool:
        """What a slider is watched for; the rest, which takes longer, is drawn right after."""
        view, plan = session.view, session.view.plan
        self.owes = True
        tiles = make_tiles(view.predicted, view.run, what_if=view.what_if)
        sent = [
            self.timeline.draw(view.trace, self._selection.within(view.trace)),
            self.memory.show(memory_now(session), room_of(view.trace), plan.expert_bytes),
            self.tiles.show(tiles, fade=True),
            self.header.show(name, view.trace, PENDING, what_if=view.what_if),
        ]
        return any(sent)

    def follow(self, session: Session) -> None:
        """Set the controls to the plan in force, but for those that are being moved."""
        plan, live = session.view.plan, session.drives
        self.controls.follow(plan, live=live, moving=lambda: session.wanted)

    def close(self, root: widgets.Box) -> None:
        """Close all widgets below ``root``, and those that stand nowhere."""
        close_children(root)
        self.beat.close()
        self.plotly.close()


def plan_words(view: View, *, example: bool) -> str:
    """The plan in force, in a sentence, and what is shown."""
    plan = view.plan
    if view.trace.on_host:
        return "Everything runs on the CPU, from host memory."
    total = plan.grid[0] * plan.grid[1]
    slots = f" and {plan.cache_slots} cache slots" if plan.cache_slots else ""
    budget = format_bytes(plan.gpu_memory)
    if plan.beyond_card:
        budget += f", {plan.beyond_card},"
    words = f"{budget} hold {len(plan.pinned)} of {total} experts{slots}."
    if example:
        return f"{words} Shown: the bundled run under this plan. Press Run for one of your own."
    return words + (" Shown: the last run again, under this plan." if view.what_if else "")


def close_children(box: widgets.Box) -> None:
    """Close a box's children, theirs, and the models of their looks."""
    for child in box.children:
        if isinstance(child, widgets.Box):
            close_children(child)
        for look in (getattr(child, "layout", None), getattr(child, "style", None)):
            if isinstance(look, widgets.Widget):  # a figure's layout is plotly's, not a widget
                look.close()
        child.close()


def _classed(name: str, box: widgets.Box) -> widgets.Box:
    box.add_class(name)
    return box
