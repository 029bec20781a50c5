"""The player: goes through a run step by step, or at its own speed: 3 tokens/s can be felt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import anywidget
import ipywidgets as widgets
import traitlets

from engine.errors import unknown_name
from engine.routing import Routing
from engine.trace import Trace
from fiddler_viz.views.heard import Heard
from fiddler_viz.views.playback import STEPWISE, Playback
from fiddler_viz.views.selection import Selection

SPEEDS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "real time": 1.0,
        "2x": 2.0,
        "5x": 5.0,
        "10x": 10.0,
        "0.5x": 0.5,
        "1 step a second": STEPWISE,
    }
)
"""Choices of the menu: seconds of the run in one of the reader's."""
BUSY = "a run is under way"
EMPTY = "nothing to play yet"


class Player(anywidget.AnyWidget):
    """A row of controls: step back, play, step on, a slider over the run, speed, where it is.

    It moves :attr:`Selection.playhead`, and follows it: the end of the run is None. No thread and
    no timer: the explorer's pump calls :meth:`tick` before a frame and asks :meth:`wait_s` after
    it. ``on_change`` is called, in any thread, when the reader used a control.
    """

    # As text: anywidget watches a file for changes, and the watch keeps every widget alive.
    _esm = Path(__file__).with_name("player.js").read_text(encoding="utf-8")
    view = traitlets.Dict().tag(sync=True)
    """What the row shows: see :meth:`show`."""
    speeds = traitlets.List(list(SPEEDS)).tag(sync=True)

    def __init__(
        self,
        selection: Selection,
        on_change: Callable[[], None] = lambda: None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))
        self._selection = selection
        self._on_change = on_change
        self._lock = threading.RLock()
        self._playback = Playback(now_s)
        self._speed = "real time"
        self._follower: int | None = None
        self._routing: Routing | None = None
        self._off = EMPTY
        self._heard = Heard()
        self._drawn_of: dict[str, int] = {}
        selection.observe(self._picked, "playhead")
        self.on_msg(self._message)

    def __repr__(self) -> str:
        return f"Player({'playing' if self.playing else 'still'}, {self._speed})"

    # What the reader does, in any thread.

    @property
    def playing(self) -> bool:
        """Whether the run goes on by itself."""
        with self._lock:
            return not self._off and self._playback.playing

    def play(self, speed: str | None = None) -> None:
        """Play from here on, from the start where it is at the end; ``speed``: of SPEEDS.

        Raises InputError for another speed.
        """
        with self._lock:
            chosen = self._speed if speed is None else speed
            if chosen not in SPEEDS:
                raise unknown_name("speed", chosen, SPEEDS)
            self._speed = chosen
            self._playback.play(SPEEDS[chosen])
        self._on_change()

    def pause(self) -> None:
        """Stand still, at the step that is through by then."""
        with self._lock:
            self._playback.pause()
            playhead = self._playhead()
        self._selection.playhead = playhead
        self._on_change()

    def toggle(self) -> None:
        """Play, or pause."""
        if self.playing:
            self.pause()
        else:
            self.play()

    def seek(self, place: float) -> None:
        """Go to where so many steps have ended; goes on from there where it plays."""
        with self._lock:
            self._playback.move(place)
            playhead = self._playhead()
        self._selection.playhead = playhead
        self._on_change()

    def step(self, by: int) -> None:
        """Pause, and go a step on or back."""
        with self._lock:
            self._playback.pause()
            place = self._playback.place
        self.seek(int(place) + by if by > 0 or place == int(place) else int(place) + 1 + by)

    def set_speed(self, speed: str) -> None:
        """One of SPEEDS; from here on where it plays. Raises InputError for another."""
        if speed not in SPEEDS:
            raise unknown_name("speed", speed, SPEEDS)
        with self._lock:
            self._speed = speed
            self._playback.set_speed(SPEEDS[speed])
        self._on_change()

    def _message(self, _: object, content: Any, __: object) -> None:
        """From the browser: an event, and its number among those of the page."""
        if not isinstance(content, dict):
            return
        event, value = content.get("event"), content.get("value")
        if event == "toggle":
            self.toggle()
        elif event == "seek" and type(value) is int:
            self.seek(value)
        elif event == "step" and value in (-1, 1):
            self.step(value)
        elif event == "speed" and isinstance(value, str) and value in SPEEDS:
            self.set_speed(value)
        if self._heard.note(content.get("page"), content.get("number")):
            self._on_change()  # also where nothing else changed: the page waits for it

    def _picked(self, change: Any) -> None:
        """Somebody else moved the playhead."""
        if self._follower == threading.get_ident():
            return
        with self._lock:
            playhead, steps = change["new"], self._playback.steps
            if playhead != self._playhead():
                self._playback.move(steps if playhead is None else playhead + 1)

    def _playhead(self) -> int | None:
        place = int(self._playback.place)
        return None if place >= self._playback.steps else place - 1

    # What the pump calls.

    def tick(self, trace: Trace, *, busy: bool) -> None:
        """Move the playhead of this run to where it is by now. While ``busy``, nothing is played.

        A run that was not shown before is shown to its end; under another plan, where it was.
        """
        with self._lock:
            playback = self._playback
            fresh = busy or trace.routing is not self._routing
            self._routing = trace.routing
            self._off = BUSY if busy else "" if len(trace.step_rows) else EMPTY
            moving = playback.moving
            playback.follow(trace.steps["end_ns"])
            if fresh:
                playback.move(playback.steps)
            if not playback.playing:
                playback.pause()  # at its end it stands
            playhead = self._playhead()
        if fresh or moving:
            self._follower = threading.get_ident()
            try:
                self._selection.playhead = playhead
            finally:
                self._follower = None

    def wait_s(self) -> float | None:
        """Until the next step is to be shown; None where nothing moves."""
        with self._lock:
            return self._playback.wait_s()

    def moment(self, trace: Trace) -> int | None:
        """The step at whose end a run is to be shown, -1: before the first; None: all of it."""
        self._drawn_of = self._heard.last  # before the playhead: never newer than it
        playhead = self._selection.playhead
        if self._off or playhead is None or playhead >= len(trace.step_rows) - 1:
            return None
        return max(playhead, -1)

    def state(self, state: str, moment: int | None) -> str:
        """What the header says: the explorer's own state, and how much of the run is shown."""
        if moment is None:
            return state
        shown = "before its first step" if moment < 0 else f"up to step {moment}"
        return f"{'playing' if self.playing else state}, run {shown}"

    def show(self, moment: int | None) -> bool:
        """Draw; True if anything changed. Between two calls the browser's own clock goes on."""
        before = self.view
        with self._lock:
            playback = self._playback
            place = playback.steps if moment is None else moment + 1
            self.view = {
                "off": self._off,
                "steps": playback.steps,
                "place": place,
                "playing": playback.playing,
                "speed": self._speed,
                "at_s": playback.at_ns / 1e9,
                "next_s": playback.next_ns / 1e9,
                "end_s": playback.end_ns / 1e9,
                "pace": playback.pace,
                "knows": self._drawn_of,
            }
        return self.view != before
