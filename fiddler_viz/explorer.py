"""The explorer: a run, its experts, its memory and its time on one screen, with the controls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import ipywidgets as widgets
from ipywidgets.widgets.widget import _instances  # who is open: ipywidgets has no other list

from engine.errors import InputError
from engine.plan import Plan
from engine.strict import whole
from engine.trace import Trace
from fiddler_viz.page import to_html
from fiddler_viz.theme import Theme
from fiddler_viz.theme import theme as theme_of
from fiddler_viz.views.addressed import as_addressed
from fiddler_viz.views.beat import AHEAD
from fiddler_viz.views.cell import Cell, executing
from fiddler_viz.views.heights import LEAST_PX
from fiddler_viz.views.opening import load_demo, open_session
from fiddler_viz.views.pump import PERIOD_S, Pump
from fiddler_viz.views.runner import Runner
from fiddler_viz.views.screen import Screen
from fiddler_viz.views.selection import Selection
from fiddler_viz.views.session import Action

_REST_S = 0.12
"""What takes longer to draw waits so long for another move of a slider."""
_DRAW_S, _FIGURES_S = 1.0, 8.0
"""While a run is live, between two drawings of its numbers, and of its figures; frames between
them show how it goes on (:mod:`fiddler_viz.views.live_frame`)."""
_LATER_S, _AFTER_S = 1.0, 0.1
"""After a change of plan while a run is live: when figures come, for frames and numbers show it
before, and the next key would wait for them; and how long we look more often whether the plan is
in force, which it is from the next step on."""
_UNSEEN_S = 0.3
"""At most so long a run's progress waits for plans that are asked for one after the other."""
_END = {"stopped": "Stopped; what was generated is kept.", "length": "Done."}
_IDLE_S = 0.25
"""How often an engine that does not run is asked whether it does by now."""


class Explorer(widgets.VBox):
    """Explore an engine or a finished run; every control re-plans, and all views follow.

    Args:
        source: an engine, a Trace, a run (anything with ``.trace``), the path of a trace file, or
            None: the bundled demo run, whose engine is loaded when Run is pressed.
        theme: ``light``, ``dark`` or ``auto``.
        height: height in CSS pixels; 780 fits a screen of 1280 x 800.

    Raises InputError or TraceError where ``source`` cannot be explored. What the reader does is
    only noted; one thread (:class:`~fiddler_viz.views.pump.Pump`) acts on it and draws, a second
    one runs the engine. :meth:`close` ends both. So does running the notebook's cell again that
    made the explorer: the new one takes its place.
    """

    _cell: Cell | None = None

    def __init__(
        self, source: Any = None, *, theme: str | Theme = "light", height: int = 780
    ) -> None:
        look = theme_of(theme)
        height = whole("height", height, least=LEAST_PX)
        self._session = open_session(source)
        self._can_load = source is None
        self._state = "ready"
        self._dirty = threading.Event()
        self._drawn_s = self._figures_s = self._asked_s = self._framed_s = 0.0
        self._framed = False
        """Whether frames have shown more than figures since these were drawn."""
        self._told = self._session.base
        """The run whose end was told, whoever began it."""
        self._begun = False
        """Whether a run was asked for here that shows nothing yet."""
        self._ticking: int | None = None
        """The thread in which the playhead moves on by itself, just before a frame."""
        self._selection = Selection()
        self._screen = Screen(
            self._session,
            look,
            height,
            on_change=self._change,
            on_action=self._act,
            on_run=self._guarded(self._start),
            on_stop=self._guarded(self._stop),
            on_edit=self._edited,
            mark=self._mark,
            wake=lambda: self._pump.mark(),
            selection=self._selection,
        )
        if self._session.engine is None and not self._can_load:
            self._screen.runs.without_engine()
        self._selection.observe(self._switch, "plan")
        self._runner = Runner(self._load, self._ended)
        super().__init__(self._screen.layout())
        self.add_class("fv-root")
        self.add_class(f"fv-{look.name}")
        self._cell = executing()
        self._replace()
        self._pump = Pump(self)
        self._screen.beat.observe(lambda change: self._painted(change["new"]), "shown")
        self._pump.flush()
        for root in (self, *self._screen.hidden()):
            as_addressed(root)
        self._pump.start()

    def __repr__(self) -> str:
        if self.comm is None:
            return "Explorer(closed)"
        layers, experts = self.trace.model.grid
        return f"Explorer({self.name}, {layers} x {experts} experts)"

    @property
    def name(self) -> str:
        """The model that ran, by its own name."""
        if self._session.engine is not None:
            return str(self._session.engine.real_spec.name)
        ran = self._session.base or self.trace
        return str(ran.meta.get("loaded", ran.model.name))

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._session.view.plan

    @property
    def trace(self) -> Trace:
        """What is shown: a run, finished or growing, or a run replayed under another plan."""
        return self._session.view.trace

    @property
    def draws_live(self) -> bool:
        """Whether what is shown is still growing."""
        return self._session.view.live

    @property
    def selection(self) -> Selection:
        """The token and expert picked, the step in play: traits to observe, to set and to link."""
        return self._selection

    @property
    def screen(self) -> Screen:
        """The views and controls, by name."""
        return self._screen

    @overload
    def to_html(self, path: str | Path) -> Path: ...
    @overload
    def to_html(self, path: None = None) -> str: ...
    def to_html(self, path: str | Path | None = None) -> Path | str:
        """Write the run that is explored as one self-contained page, and return its path.

        Without a path it is returned, not written. The page opens from disk, without kernel and
        network, and its sliders are alive: see :func:`fiddler_viz.to_html`. A run that is under way
        is written as far as it has come. Raises InputError where the file cannot be written.
        """
        return to_html(self._session.explored, path)

    def _replace(self) -> None:
        """Close what an earlier execution of this notebook cell left: nobody shows it any more.

        ipywidgets keeps every widget until it is closed, and a notebook its cells' results.
        """
        if self._cell is not None:
            for widget in list(_instances.values()):
                if isinstance(widget, Explorer) and self._cell.replaces(widget._cell):
                    widget.close()

    # What the reader does, in whatever thread it arrives.

    def _change(self, name: str, value: Any) -> None:
        self._moved()
        self._session.change(name, value)
        self._pump.hurry()

    def _edited(self) -> None:
        self._moved()
        self._pump.hurry()

    def _moved(self) -> None:
        """The reader goes on: what was refused before is over."""
        if self._state == "error":
            self._state = "ready"
            self._screen.status.say("")

    def _act(self, action: Action) -> None:
        self._moved()
        self._asked_s = time.monotonic()
        if action in ("keep", "clear"):  # a row opens or closes: charts make room
            self._dirty.set()
        self._session.do(action)
        self._pump.hurry()

    def _switch(self, change: Any) -> None:
        self._session.shows = change["new"]
        self._mark()

    def _painted(self, frame: int) -> None:
        self._pump.answered(frame)
        if self._screen.player.wait_s() is not None:  # it plays only to who looks
            self._pump.mark()

    def _mark(self) -> None:
        self._dirty.set()
        if self._ticking != threading.get_ident():  # that frame is being drawn
            self._pump.mark()

    def _guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001  (a callback's errors are seen nowhere else)
                self.report(error)

        return call

    def _start(self) -> None:
        if self._session.engine is None and not self._can_load:
            raise InputError("a finished run cannot be run again: open an engine, fv.load(...)")
        runs, status = self._screen.runs, self._screen.status
        if self._session.running or self._runner.busy:
            status.say("A run is under way; stop it first.")
            return
        self._state = "running" if self._session.engine is not None else "loading the model"
        status.say("")
        self._begun = True
        self._selection.plan = "B"  # a run that begins is seen
        self._runner.start(runs.prompt.value, runs.tokens.value)
        self._mark()

    def _stop(self) -> None:
        self._screen.status.say("Stopping ...")
        if self._runner.busy:
            self._runner.stop()
        elif self._session.engine is not None:
            self._session.engine.stop()

    # What the run's thread calls.

    def _load(self) -> Any:
        if self._session.engine is None:
            engine = load_demo(self.trace)
            with self._pump.paused():
                self._session.attach(engine)
        self._state = "running"
        return self._session.engine

    def _ended(self, error: Exception | None) -> None:
        if self.comm is None:
            return
        if error is not None:
            self._begun = False  # what is picked of the run shown stays
            self.report(error)
            return
        self._state = "ready"
        self._mark()

    def _turn(self, busy: bool) -> None:
        """A run began or ended, also one that was started in a cell."""
        ended = not busy and self._session.base is not self._told
        if self._begun and (ended or self._session.view.live):
            self._begun = False
            self._selection.clear()  # it was of another run
        if busy and self._state == "ready":
            self._state = "running"
            self._screen.status.say("")
        elif not busy and self._state == "running":  # perhaps without a run to show for it
            self._state = "ready"
            self._screen.status.say("")
        if ended:
            self._told = self._session.base
        if ended and self._state != "error":
            how = self._session.explored.meta.get("ended", "length")
            self._screen.status.say(_END.get(how, f"Done ({how})."))

    # What tests and benchmarks do, without waiting for the pump.

    def apply(self, **changes: Any) -> None:
        """Change the plan, by arguments of :meth:`engine.hybrid.HybridEngine.replan`, and draw.

        ``pin=``, ``unpin=`` and ``reset_pins=True`` edit the placement by hand.

        Raises what the plan is refused for; everything then stays as it was.
        """
        for name, value in changes.items():
            self._session.change(name, value)
        self.flush()

    def flush(self) -> bool:
        """Draw now what is waiting to be drawn; True if anything was sent."""
        sent = self._pump.flush()
        if self.comm is not None and self._screen.behind:
            self._dirty.set()
            self._asked_s = 0.0
            sent |= self._pump.flush()
        return sent

    # What the pump calls.

    def draw_frame(self) -> bool:
        """Bring the session up to date and draw what changed; True if anything was sent."""
        now_s = time.monotonic()
        if self._session.wanted:
            self._asked_s = now_s
        since_s = now_s - self._asked_s
        self._pump.soon = self._session.view.live and since_s < _AFTER_S
        later = since_s > _LATER_S
        owes_figure = later and self._screen.behind
        if self._pump.soon and now_s - self._framed_s < PERIOD_S and self._waits():
            return False
        framed = self._glance(now_s)
        if framed and not owes_figure and not self._screen.owes_numbers:
            return True
        try:
            changed = self._session.advance()
        except Exception:
            self._screen.follow(self._session)  # back to what is in force
            raise
        self._selection.plan = self._session.shows  # a move leads back to B, and so does no A
        busy = self._session.running or self._runner.busy
        self._ticking = threading.get_ident()
        self._screen.player.tick(self._session.view.trace, busy=busy)
        self._ticking = None
        dirty = self._dirty.is_set()
        if not changed and not dirty and not owes_figure:
            return self._acknowledged(self._screen.draw_late(self._session))
        self._dirty.clear()
        self._turn(busy)
        self._drawn_s = now_s
        recent = now_s - self._figures_s < _FIGURES_S or not later
        still = self._framed and self._session.view.live and recent and not dirty
        asked = self._pump.soon and now_s - self._framed_s < _UNSEEN_S
        asked = asked and not self._screen.took_effect(self._session)
        if still and not framed and not asked:  # a page sees this before what takes it longer
            still = self._send_frame()
        sent = self._screen.draw(
            self._session,
            name=self.name,
            state=self._state,
            busy=busy,
            still=still,
            later=later,
        )
        if not still:
            behind = self._screen.behind  # the page keeps a frame in the figure's place
            if self._framed and not behind:  # where a figure has not changed, it would go on to
                self._screen.beat.send_drawn()
            self._framed, self._figures_s = behind, now_s
        if self._screen.owes:
            self._dirty.set()
        return self._acknowledged(sent or still, ahead=AHEAD if still else 0)

    def _glance(self, now_s: float) -> bool:
        """Send a frame of a run that went on; False where it did not, or more is to be done."""
        if self._dirty.is_set() or now_s - self._drawn_s > _DRAW_S:
            return False
        return self._session.glance() is not None and self._send_frame()

    def _waits(self) -> bool:
        """Whether a plan that was asked for is still to take effect: its frames come before more
        of a run's progress, which would keep a page from them."""
        return self._session.glance() is not None and not self._screen.took_effect(self._session)

    def _send_frame(self) -> bool:
        """False where only a drawing can show the run."""
        live = self._session.live
        sent = live is not None and self._screen.frame(self._session, live)
        if sent:
            self._framed, self._framed_s, self._pump.ahead = True, time.monotonic(), AHEAD
        return sent

    def _acknowledged(self, sent: bool, *, ahead: int = 0) -> bool:
        """Ask the browser to say when it has painted what was sent, if anything was.

        ``ahead``: how many frames may be on their way before it has.
        """
        if sent:
            self._pump.ahead = ahead
            self._screen.beat.sent = self._pump.frames + 1
        return sent

    def wait_s(self) -> float | None:
        """How long the pump may sleep: not while a run is live, for ever where nothing can run."""
        if self._session.running or self._runner.busy:
            return 0.0
        if self._screen.owes:  # a slider that moves on comes first
            return _REST_S
        if self._screen.behind:
            return max(self._asked_s + _LATER_S - time.monotonic(), 0.0) + _REST_S
        playing_s = None if self._pump.unanswered else self._screen.player.wait_s()
        waits = (playing_s, _IDLE_S if self._session.engine is not None else None)
        return min((wait for wait in waits if wait is not None), default=None)

    def report(self, error: Exception) -> None:
        """Show an error in the status line; everything else stays usable."""
        self._state = "error"
        self._screen.status.error(error)
        self._mark()

    def close(self) -> None:
        """End threads and a run of ours, and take everything off the page.

        What was shown is let go, too: a notebook keeps the results of its cells for ever.
        """
        if "_pump" in self.__dict__ and self.comm is not None:
            self._pump.close()
            self._runner.stop()
            self._selection.unobserve_all()  # it may be linked with another's, which goes on
            self._screen.close(self)
            self.layout.close()
            self.children = ()
            super().close()
            del self._screen, self._session, self._selection

    def __getattr__(self, name: str) -> Any:
        if name in ("_screen", "_session", "_selection") and "_pump" in self.__dict__:
            raise InputError("this explorer is closed: make a new one, fv.Explorer(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
