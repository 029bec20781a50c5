"""The explorer's screen: all views and controls in their places, drawn from a session at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from engine.by_hand import ByHand
from engine.plan import Plan
from engine.residency import Place
from engine.summary import Summary
from engine.trace import Trace
from fiddler_viz.figures import room_of
from fiddler_viz.frames import Grid
from fiddler_viz.theme import Theme
from fiddler_viz.views.beat import Beat
from fiddler_viz.views.closing import close_children, close_whole
from fiddler_viz.views.detail_view import DetailView
from fiddler_viz.views.edit_words import edit_words, edited
from fiddler_viz.views.heatmap_view import HeatmapView
from fiddler_viz.views.heights import Heights
from fiddler_viz.views.light import Light
from fiddler_viz.views.live_state import LiveState
from fiddler_viz.views.memory_view import MemoryView
from fiddler_viz.views.pick_controls import PickControls
from fiddler_viz.views.picture import grid_of, memory_now, tokens_processed
from fiddler_viz.views.plan_controls import PlanControls
from fiddler_viz.views.plan_words import asked_words, plan_words
from fiddler_viz.views.plans_view import PlansView
from fiddler_viz.views.player import Player
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.run_controls import RunControls
from fiddler_viz.views.selection import Picked, Selection
from fiddler_viz.views.session import Session
from fiddler_viz.views.status import Header, Status
from fiddler_viz.views.style import style_sheet
from fiddler_viz.views.text_view import TextView
from fiddler_viz.views.tiles import Tile, Tiles, make_tiles
from fiddler_viz.views.timeline_view import TimelineView
from fiddler_viz.views.view import View
from fiddler_viz.views.what_if_controls import WhatIfControls
from fiddler_viz.views.words import Words

_MANY_ROWS = 20_000
"""Choices of the router from which on the heatmap and the text are drawn after the rest."""
PENDING = "counting ..."


class Screen:
    """Two columns of panels under two rows of controls. Made once; :meth:`draw` changes it.

    ``mark`` is called when a view's own control was moved and the screen is to be drawn again,
    ``wake`` when :meth:`draw_late` has something.
    """

    def __init__(
        self,
        session: Session,
        theme: Theme,
        height_px: int,
        *,
        on_change: Callable[[str, Any], None],
        on_action: Callable[[str], None],
        on_run: Callable[[], None],
        on_stop: Callable[[], None],
        on_edit: Callable[[], None],
        mark: Callable[[], None],
        wake: Callable[[], None],
        selection: Selection,
    ) -> None:
        tall = Heights.of(height_px)
        self._theme = theme
        self._selection = selection
        self._height_px = height_px
        self._drawn_plan: tuple[Plan, str, bool, bool] | None = None
        self._drawn_predicted: Summary | None = None
        self._pinned: NDArray[np.bool_] | None = None
        """What was pinned when numbers were drawn last."""
        self.behind = False
        """Whether frames and numbers show a plan that the heatmap's figure does not."""
        self._in_figure: tuple[NDArray[np.bool_], ByHand] | None = None
        """What the heatmap's figure has as pinned, and by hand."""
        self.owes_numbers = False
        """Whether frames show a plan that took effect, and numbers do not."""
        self.owes = False
        """Whether heatmap and text are still those of the plan before."""
        self.header, self.tiles, self.status = Header(), Tiles(), Status()
        self.runs = RunControls(on_run=on_run, on_stop=on_stop)
        self.controls = PlanControls(session.view.plan, on_change)
        view = session.view
        self.what_if = WhatIfControls(view.plan, view.model, on_change, on_action)
        self.plans = PlansView(on_action, lambda which: setattr(selection, "plan", which))
        self.what_if.row.children += (self.plans.keep,)
        self.what_if.toggle.observe(lambda _: mark(), "value")
        self.light = Light(wake)
        self.beat, self.plotly = Beat(), Plotly()
        grid, beat = grid_of(session, "popularity", None), self.beat.model_id
        self.heatmap = HeatmapView(
            grid, theme, tall.heatmap, self.plotly, beat, selection, session, mark, on_edit
        )
        self.memory = MemoryView(theme)
        self.words = Words(mark)
        self.text = TextView(tall.text, lambda token: selection.pick(token=token), beat=beat)
        self.timeline = TimelineView(
            session.view.trace, theme, tall.timeline, self.plotly, beat, selection, mark
        )
        self.player = Player(selection, mark)
        self.detail = DetailView(
            theme, tall, self.plotly, mark, lambda name: on_change("policy", name)
        )
        self.detail.larger.observe(lambda change: self._enlarge(change["new"]), "value")
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
            widgets.VBox([self.player, self.text, self.detail, self.timeline]),
        )
        return [
            widgets.HTML(style_sheet(self._theme), layout=widgets.Layout(display="none")),
            self.header,
            _classed("fv-row", widgets.Box([*self.runs.widgets(), controls.policy])),
            _classed("fv-row", widgets.Box([*sliders, controls.hardware, self.what_if.toggle])),
            self.what_if.row,
            self.tiles,
            self.plans.row,
            _classed("fv-panels", widgets.Box([_classed("fv-side", side) for side in sides])),
            _classed(
                "fv-row", widgets.Box([self.status, *self.picks.widgets(), self.words.button])
            ),
            self.words.text,
        ]

    def draw(
        self,
        session: Session,
        *,
        name: str,
        state: str,
        busy: bool,
        still: bool = False,
        later: bool = True,
    ) -> bool:
        """Show a session; True if anything was sent to the browser.

        ``still``: :meth:`frame` shows heatmap and timeline. Of a new plan the heatmap's figure,
        which takes a browser longer than all the rest, is drawn where it is ``later``: of a run
        under way, and of one with many cells; until then a frame shows them (:attr:`behind`).
        """
        moment = self.player.moment(session.view.trace)
        whole = None if moment is None else session.view.trace
        predicted = session.view.predicted  # of all of the run
        session = session.until(moment)
        view, moving = session.view, session.view.live or self.player.playing
        state = self.player.state(state, moment)
        self._make_room(session)
        state_of_plan = (view.plan, session.shows, session.asks, session.kept is not None)
        before, self._drawn_plan = self._drawn_plan, state_of_plan
        replanned = state_of_plan != before
        was, self._drawn_predicted = self._drawn_predicted, predicted
        if replanned or session.drives != self.controls.live:
            self.follow(session)
        if before and before[1] == session.shows and edited(before[0], view.plan):
            self.status.say(edit_words(before[0], view.plan, was, predicted))
        elif replanned and not busy:
            said = plan_words(session) + asked_words(session)
            self.status.say(f"{session.dropped} {said}".strip())
        self.runs.busy(busy)
        if replanned and not view.live and len(view.trace.routing) > _MANY_ROWS:
            return self._draw_first(session, whole, moment, name=name)
        self.owes = False
        picks = self.text.picks  # before the selection: of a later one it would know nothing
        picked = Picked() if view.live else self._selection.within(view.trace)
        token = self.heatmap.selected(
            tokens_processed(session), picked.token, live=moving, growing=view.live
        )
        marked = token if picked.token is None else picked.token
        if view.live:  # it is marked, and its experts are shown when the run has ended
            marked = self._selection.within(view.trace).token
        against = self.heatmap.compared(session.earlier.names())
        grid = grid_of(session, self.heatmap.show.value, token, against)
        tiles = self._tiles_of(view, moment)
        memory, room = memory_now(session), room_of(view.trace)
        size, able = view.plan.expert_bytes, not view.trace.on_host
        still = still and view.live
        self._pinned = grid.places == Place.PINNED
        current = self._figure_has(self._pinned, grid.by_hand)
        cells_still = still and (current or not later)
        if not (current or later or view.live) and len(view.trace.routing) > _MANY_ROWS:
            cells_still = self._frame_cells(grid)
        self.behind = cells_still and not current
        if not cells_still:
            self._in_figure = self._pinned, grid.by_hand
        draw_cells = partial(
            self.heatmap.draw, grid, picked, view.plan, hover=not moving, able=able
        )
        framed = still or cells_still  # what frames show can wait for the rest
        sent = [
            not framed and draw_cells(),
            self.memory.show(memory, room, size),
            self.timeline.say(view.trace)
            if still
            else self.timeline.draw(view.trace, picked, whole, growing=view.live),
            self.player.show(moment),
            self.detail.draw(
                view, picked, whole, playing=self.player.playing, example=session.example
            ),
            self.words.show(grid, memory, room, size, self.timeline.drawn, self.detail.said),
            self.tiles.show(tiles, fade=replanned and not view.live),
            self._show_plans(session),
            (not still or later)  # frames add what is new
            and self.text.show(
                view.trace,
                marked,
                live=moving,
                growing=view.live,
                picks=picks,
                only=self._selection.sequence,
            ),
            self.picks.show(picked, view.trace.model.grid, self.text.texts),
            self.header.show(name, whole or view.trace, state, what_if=view.what_if),
            framed and draw_cells(still=cells_still),
        ]
        return any(sent)

    def frame(self, session: Session, live: LiveState) -> bool:
        """Send a frame of a run under way; False where only :meth:`draw` can show it."""
        trace = live.trace()
        lanes = self.timeline.frame(trace)
        if lanes is None:
            return False
        grid = self._live_grid(session)
        cells = self.heatmap.frame(grid)
        if cells is None:
            return False
        self.owes_numbers = self._moved(grid)
        panels = {"heatmap": cells, "timeline": lanes, "text": self.text.frame(trace)}
        self.beat.send_frame({name: panel for name, panel in panels.items() if panel})
        return True

    def took_effect(self, session: Session) -> bool:
        """Whether others are pinned by now than numbers show."""
        return self._moved(self._live_grid(session))

    def _live_grid(self, session: Session) -> Grid:
        return grid_of(session, self.heatmap.show.value, None, self.heatmap.against.value)

    def _moved(self, grid: Grid) -> bool:
        return not np.array_equal(grid.places == Place.PINNED, self._pinned)

    def _frame_cells(self, grid: Grid) -> bool:
        """Send the cells as a frame; False where only a drawing can show them."""
        cells = self.heatmap.frame(grid)
        if cells is not None:
            self.beat.send_frame({"heatmap": cells})
        return cells is not None

    def _figure_has(self, pinned: NDArray[np.bool_], by_hand: ByHand) -> bool:
        if self._in_figure is None:
            return False
        drawn, marked = self._in_figure
        return np.array_equal(drawn, pinned) and marked == by_hand

    def _draw_first(
        self, session: Session, whole: Trace | None, moment: int | None, *, name: str
    ) -> bool:
        """What a slider is watched for; the rest, which takes longer, is drawn right after."""
        view, plan = session.view, session.view.plan
        self.owes = True
        tiles = self._tiles_of(view, moment)
        sent = [
            self.timeline.draw(view.trace, self._selection.within(view.trace), whole, quick=True),
            self.memory.show(memory_now(session), room_of(view.trace), plan.expert_bytes),
            self.tiles.show(tiles, fade=True),
            self._show_plans(session),
            self.header.show(name, whole or view.trace, PENDING, what_if=view.what_if),
        ]
        return any(sent)

    def _tiles_of(self, view: View, moment: int | None) -> list[Tile]:
        """The row of numbers; the bound of a long run comes later. ``moment``: the step in play."""
        ran = not view.live and not view.trace.on_host and len(view.trace.step_rows) > 0
        light = self.light.of(view.trace) if ran and not self.player.playing else None
        return make_tiles(
            view.predicted,
            view.run,
            what_if=view.what_if,
            light=light,
            pending=ran,
            upto=moment,
            elsewhere=view.plan.own_machine[1] if view.trace.on_host else "",
        )

    def _show_plans(self, session: Session) -> bool:
        kept = session.kept is not None
        self.plans.keep.disabled = session.view.live
        return self.plans.show(session.comparison, session.shows, kept=kept)

    def draw_late(self, session: Session) -> bool:
        """Show what was worked out beside the drawing; True if anything was sent."""
        if not self.light.came_in:
            return False
        moment = self.player.moment(session.view.trace)
        return self.tiles.show(self._tiles_of(session.until(moment).view, moment))

    def _make_room(self, session: Session) -> None:
        """Rows that open take their room from the charts, two plans' table that of the tiles."""
        tall = Heights.of(
            self._height_px,
            asks=self.what_if.toggle.value,
            kept=session.kept is not None,
            compares=session.compares,
        )
        self.heatmap.height_px, self.timeline.height_px = tall.heatmap, tall.timeline
        self.detail.heights, self.text.height_px = tall, tall.text
        self.tiles.layout.display = "none" if session.compares else None

    def _enlarge(self, larger: bool) -> None:
        """The detail panel takes the timeline's place, or gives it back."""
        self.timeline.layout.display = "none" if larger else None

    def follow(self, session: Session) -> None:
        """Set the controls to the plan shown, but for those that are being moved."""
        view, live = session.view, session.drives
        self.controls.follow(view.plan, live=live, moving=lambda: session.wanted)
        self.what_if.follow(
            view.plan,
            view.model,
            loaded=getattr(session.engine, "real_spec", None),
            drives=live,
            at_once=session.at_once,
            asks=session.asks or session.shows == "A",
            moving=lambda: session.wanted,
        )

    def close(self, root: widgets.Box) -> None:
        """Close all widgets below ``root``, and those that stand nowhere."""
        self.light.close()
        self.detail.background.close()
        close_children(root)
        for hidden in (self.beat, self.plotly):
            close_whole(hidden)

    def hidden(self) -> list[widgets.Widget]:
        """What hears of a page without standing in it, or not yet."""
        return [self.beat, *self.timeline.memory.widgets()]


def _classed(name: str, box: widgets.Box) -> widgets.Box:
    box.add_class(name)
    return box
