"""The explorer: a run, its experts, its memory and its time on one screen, with the controls."""

from __future__ import annotations

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
from fiddler_viz.views.asked import Action
from fiddler_viz.views.cell import Cell, executing
from fiddler_viz.views.drawing import Drawing
from fiddler_viz.views.heights import LEAST_PX
from fiddler_viz.views.opening import load_demo, open_session
from fiddler_viz.views.run_status import RunStatus
from fiddler_viz.views.screen import Screen
from fiddler_viz.views.selection import Selection


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
        self._selection = Selection()
        self._screen = Screen(
            self._session,
            look,
            height,
            on_change=self._change,
            on_action=self._act,
            on_run=self._guarded(self._start),
            on_stop=self._guarded(lambda: self._runs.stop()),
            on_edit=self._edited,
            mark=self._mark,
            wake=lambda: self._pump.mark(),
            selection=self._selection,
        )
        if self._session.engine is None and not self._can_load:
            self._screen.runs.without_engine()
        self._selection.observe(self._switch, "plan")
        self._runs = RunStatus(
            self._session, self._selection, self._screen.status, self._load, self._mark
        )
        self._selection.observe(lambda _: self._runs.moved(), ["token", "layer", "expert"])
        for field in (self._screen.runs.prompt, self._screen.runs.tokens):
            field.observe(lambda _: self._runs.moved(), "value")
        self._drawing = Drawing(self._session, self._screen, self._selection, self._runs)
        self._pump = self._drawing.pump
        super().__init__(self._screen.layout())
        self.add_class("fv-root")
        self.add_class(f"fv-{look.name}")
        self._cell = executing()
        self._replace()
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
        return self._session.name

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
        self._runs.moved()
        self._session.change(name, value)
        self._pump.hurry()

    def _edited(self) -> None:
        self._runs.moved()
        self._pump.hurry()

    def _act(self, action: Action) -> None:
        self._runs.moved()
        self._drawing.asked(room=action in ("keep", "clear"))
        self._session.do(action)
        self._pump.hurry()

    def _switch(self, change: Any) -> None:
        self._session.shows = change["new"]
        self._mark()

    def _mark(self) -> None:
        self._drawing.mark()

    def _guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001  (a callback's errors are seen nowhere else)
                self._runs.report(error)

        return call

    def _start(self) -> None:
        if self._session.engine is None and not self._can_load:
            raise InputError("a finished run cannot be run again: open an engine, fv.load(...)")
        asked = self._screen.runs
        self._runs.start(asked.prompt.value, asked.tokens.value)

    def _load(self) -> Any:
        """The engine; in the run's thread."""
        if self._session.engine is None:
            engine = load_demo(self.trace)
            with self._pump.paused():
                self._session.attach(engine)
        return self._session.engine

    # What tests and benchmarks do, without waiting for the pump.

    def apply(self, **changes: Any) -> None:
        """Change the plan, by arguments of :meth:`engine.hybrid.HybridEngine.replan`, and draw.

        ``pin=``, ``unpin=`` and ``reset_pins=True`` edit the placement by hand.

        Raises what the plan is refused for; everything then stays as it was.
        """
        with self._pump.paused():  # what is refused is raised here, not by the pump's thread
            for name, value in changes.items():
                self._session.change(name, value)
            self.flush()

    def flush(self) -> bool:
        """Draw now what is waiting to be drawn; True if anything was sent."""
        return self.comm is not None and self._drawing.flush()

    def close(self) -> None:
        """End threads and a run of ours, and take everything off the page.

        What was shown is let go, too: a notebook keeps the results of its cells for ever.
        """
        if "_pump" in self.__dict__ and self.comm is not None:
            self._pump.close()
            self._runs.close()
            self._selection.unobserve_all()  # it may be linked with another's, which goes on
            self._screen.close(self)
            self.layout.close()
            self.children = ()
            super().close()
            del self._screen, self._session, self._selection, self._drawing

    def __getattr__(self, name: str) -> Any:
        if name in ("_screen", "_session", "_selection", "_drawing") and "_pump" in self.__dict__:
            raise InputError("this explorer is closed: make a new one, fv.Explorer(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
