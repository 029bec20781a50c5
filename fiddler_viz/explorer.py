"""The explorer: a run, its experts, its memory and its time on one screen, with the controls."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from engine.errors import InputError
from engine.plan import Plan
from engine.units import format_bytes
from fiddler_viz.figures import memory_html
from fiddler_viz.theme import Theme
from fiddler_viz.theme import theme as theme_of
from fiddler_viz.views.beat import Beat
from fiddler_viz.views.controls import Controls
from fiddler_viz.views.heatmap_view import HeatmapView
from fiddler_viz.views.opening import load_demo, open_session
from fiddler_viz.views.picture import grid_of, memory_now, tokens_processed
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.pump import Pump
from fiddler_viz.views.runner import Runner
from fiddler_viz.views.session import View
from fiddler_viz.views.status import Header, Status
from fiddler_viz.views.style import style_sheet
from fiddler_viz.views.text_view import TextView
from fiddler_viz.views.tiles import Tiles, make_tiles
from fiddler_viz.views.timeline_view import TimelineView

_IDLE_S = 0.25
"""How often an engine that does not run is asked whether it does by now."""
_LEAST_HEIGHT_PX = 560


class Explorer(widgets.VBox):
    """Explore an engine or a finished run; every control re-plans, and all views follow.

    Args:
        source: an engine, a Trace, a run (anything with ``.trace``), the path of a trace file, or
            None: the bundled demo run, whose engine is loaded when Run is pressed.
        theme: ``light``, ``dark`` or ``auto``.
        height: height in CSS pixels; 780 fits a screen of 1280 x 800.

    Raises InputError or TraceError where ``source`` cannot be explored. :meth:`close` ends it.
    """

    def __init__(
        self, source: Any = None, *, theme: str | Theme = "light", height: int = 780
    ) -> None:
        look = theme_of(theme)
        if height < _LEAST_HEIGHT_PX:
            raise InputError(f"height: expected at least {_LEAST_HEIGHT_PX} pixels, got {height}")
        self._session = open_session(source)
        self._demo = source is None
        self._state = "ready"
        self._drawn_plan: Any = None
        self._dirty = threading.Event()
        self._build(look, height)
        self._pump = Pump(self)
        self._beat.observe(lambda change: self._pump.answered(change["new"]), "shown")
        self._pump.flush()
        self._pump.start()

    def __repr__(self) -> str:
        layers, experts = self._session.view.trace.model.grid
        return f"Explorer({self._name}, {layers} x {experts} experts)"

    @property
    def _name(self) -> str:
        if self._session.engine is not None:
            return str(self._session.engine.real_spec.name)
        trace = self._session.view.trace
        return str(trace.meta.get("loaded", trace.model.name))

    def _build(self, look: Theme, height: int) -> None:
        session = self._session
        trace = session.view.trace
        room = height - 218  # what stands above and below the panels
        self._look = look
        self._header, self._tiles, self._status = Header(), Tiles(), Status()
        self.controls = Controls(
            session.view.plan,
            on_change=self._change,
            on_run=self._guarded(self._start),
            on_stop=self._guarded(self._stop),
        )
        if session.engine is None and not self._demo:
            self.controls.without_engine()
        self._plotly = Plotly()
        self.heatmap = HeatmapView(
            grid_of(session, "popularity", None), look, room - 84, self._plotly, self._mark
        )
        self._memory = widgets.HTML(layout=widgets.Layout(width="100%"))
        self._text = TextView(max(room - 400, 76))
        self.timeline = TimelineView(trace, look, min(room - 122, 330), self._plotly, self._mark)
        self._runner = Runner(self._load, self._ended)
        self._beat = Beat()
        left = widgets.VBox([self.heatmap, self._memory])
        right = widgets.VBox([self._text, self.timeline])
        for side in (left, right):
            side.add_class("fv-side")
        panels = widgets.Box([left, right])
        panels.add_class("fv-panels")
        style = widgets.HTML(style_sheet(look), layout=widgets.Layout(display="none"))
        super().__init__(
            [
                style,
                self._header,
                *self.controls.rows(),
                self._tiles,
                panels,
                self._status,
            ]
        )
        self.add_class("fv-root")
        self.add_class(f"fv-{look.name}")

    # What the reader does. Each only notes it; the pump acts.

    def _change(self, name: str, value: Any) -> None:
        self._session.change(name, value)
        self._pump.mark()

    def _mark(self) -> None:
        self._dirty.set()
        self._pump.mark()

    def _guarded(self, action: Any) -> Any:
        def call() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001  (a callback's errors are seen nowhere else)
                self.report(error)

        return call

    def _start(self) -> None:
        if self._session.engine is None and not self._demo:
            raise InputError("a finished run cannot be run again; open an engine: fv.load(...)")
        if self._session.running or not self._runner.start(
            self.controls.prompt.value, self.controls.tokens.value
        ):
            self._status.say("A run is under way; stop it first.")
            return
        self._state = "running" if self._session.engine is not None else "loading the model"
        self._status.say("")
        self._mark()

    def _stop(self) -> None:
        self._status.say("Stopping ...")
        if self._runner.busy:
            self._runner.stop()
        elif self._session.engine is not None:
            self._session.engine.stop()

    def _load(self) -> Any:
        if self._session.engine is None:
            engine = load_demo(self._session.view.trace)
            with self._pump.paused():
                self._session.attach(engine)
        self._state = "running"
        return self._session.engine

    def _ended(self, error: Exception | None) -> None:
        if error is not None:
            self.report(error)
        else:
            self._state = "ready"
            self._status.say(self._how_it_ended())
        self._mark()

    def _how_it_ended(self) -> str:
        run = getattr(self._session.engine, "last_run", None)
        ended = getattr(run, "ended", "")
        words = {"stopped": "Stopped; what was generated is kept.", "length": "Done."}
        return words.get(ended, f"Done ({ended}).") if run is not None else "Done."

    # What tests and benchmarks do, without waiting for the pump.

    def apply(self, **changes: Any) -> None:
        """Change the plan (``gpu_memory=``, ``cache_slots=``, ``policy=``, ``hardware=``) and draw.

        Raises what the plan is refused for; everything then stays as it was.
        """
        for name, value in changes.items():
            self._session.change(name, value)
        self._pump.flush()

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._session.view.plan

    @property
    def status_text(self) -> str:
        """What the status line says."""
        return self._status.text

    def flush(self) -> bool:
        """Draw now what is waiting to be drawn; True if anything was sent."""
        return self._pump.flush()

    # What the pump calls.

    def draw_frame(self) -> bool:
        """Bring the session up to date and draw what changed; True if anything was sent."""
        try:
            changed = self._session.advance()
        except Exception:
            self.controls.follow(self._session.view.plan)  # back to what is in force
            raise
        if not changed and not self._dirty.is_set():
            return False
        self._dirty.clear()
        sent = self._draw()
        if sent:
            self._beat.sent = self._pump.frames + 1
        return sent

    def _draw(self) -> bool:
        session = self._session
        view = session.view
        replanned = view.plan != self._drawn_plan
        if replanned:
            self._drawn_plan = view.plan
            self.controls.follow(view.plan)
        show = self.heatmap.show.value
        token = self.heatmap.selected(tokens_processed(session), live=view.live)
        busy = session.running or self._runner.busy
        self.controls.busy(busy)
        state = self._state if self._runner.busy or not session.running else "running"
        sent = self.heatmap.draw(grid_of(session, show, token), hover=not view.live)
        sent |= self.timeline.draw(view.trace)
        sent |= self._tiles.show(
            make_tiles(view.predicted, view.run, what_if=view.what_if),
            fade=replanned and not view.live,
        )
        sent |= self._text.show(view.trace, token)
        sent |= self._header.show(self._name, view.trace, state, what_if=view.what_if)
        bar = memory_html(memory_now(session), self._look, expert_bytes=view.plan.expert_bytes)
        sent |= self._memory.value != bar
        self._memory.value = bar
        if replanned and not busy:
            self._state = "ready"
            self._status.say(plan_words(view))
        return sent

    def wait_s(self) -> float | None:
        """How long the pump may sleep: not while a run is live, for ever where nothing can run."""
        if self._session.running or self._runner.busy:
            return 0.0
        return _IDLE_S if self._session.engine is not None else None

    def report(self, error: Exception) -> None:
        """Show an error in the status line; everything else stays usable."""
        self._state = "error"
        self._status.error(error)
        self._mark()

    def close(self) -> None:
        """End threads and a run of ours, and take everything off the page."""
        if "_pump" in self.__dict__ and self.comm is not None:
            self._pump.close()
            self._runner.stop()
            close_children(self)
            self._plotly.close()
            self._beat.close()
        super().close()


def plan_words(view: View) -> str:
    """The plan in force, in a sentence."""
    plan = view.plan
    total = plan.grid[0] * plan.grid[1]
    slots = f" and {plan.cache_slots} cache slots" if plan.cache_slots else ""
    words = f"{format_bytes(plan.gpu_memory)} hold {len(plan.pinned)} of {total} experts{slots}."
    return words + (" The views show the last run again, under this plan." if view.what_if else "")


def close_children(box: widgets.Box) -> None:
    """Close a box's children, theirs, and the models of their looks."""
    for child in box.children:
        if isinstance(child, widgets.Box):
            close_children(child)
        for look in (getattr(child, "layout", None), getattr(child, "style", None)):
            if isinstance(look, widgets.Widget):  # a figure's layout is plotly's, not a widget
                look.close()
        child.close()
