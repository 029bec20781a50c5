"""The one thread of an explorer that draws: latest state wins, one frame in flight.

Why one: plotly's ``batch_update`` mixes messages when two threads use it, without an exception.
Why gated: a browser renders every frame it is sent, so frames sent faster than it draws pile up
and a slider then lags by seconds. The pump sends the next frame when the browser has said that it
showed the last one (:class:`~fiddler_viz.views.beat.Beat`), or after a timeout where none answers.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from engine.garbage import uncollected

PERIOD_S = 0.08
"""Least time between two frames: 12.5 a second, beyond which a lecture sees no difference."""
ANSWER_S = 0.25
"""How long to wait for a browser's answer; without one the pump goes on, at 3 frames a second."""
SOON_S = 0.02
"""The same where more of what was drawn is about to come."""
REST_SHARE = 0.33
"""Pause after a frame, as a share of the time that the browser took for it."""
JOIN_S = 2.0


class Drawer(Protocol):
    """What a pump drives."""

    def draw_frame(self) -> bool:
        """Draw what changed; True if anything was sent. Raises what went wrong."""
        ...

    def wait_s(self) -> float | None:
        """How long to sleep unless marked: None sleeps until then and costs nothing."""
        ...

    def report(self, error: Exception) -> None:
        """Show an error beside the widget."""
        ...


class Pump:
    """Draws for one :class:`Drawer`, which it does not keep alive; ends when that is gone.

    :meth:`mark`, :meth:`hurry` and :meth:`answered` return at once, in any thread. :meth:`flush`
    draws in the calling thread, never at the same time as the pump's own.
    """

    def __init__(
        self, drawer: Drawer, *, period_s: float = PERIOD_S, answer_s: float = ANSWER_S
    ) -> None:
        self.period_s = period_s
        self.answer_s = answer_s
        self.frames = 0
        """Frames sent so far; the number of the last one."""
        self.shown = 0
        """The newest frame that a browser has said it has shown."""
        self.ahead = 0
        """How many frames may be on their way: what a drawer sends may be small enough for some."""
        self.soon = False
        """Whether a drawer wants to draw again right after: what it drew leads to more."""
        self.unanswered = False
        """Whether no browser has shown the last frame, yet or ever."""
        self._drawing = threading.RLock()
        self._marked = threading.Event()
        self._answered = threading.Event()
        self._hurried = threading.Event()
        self._closed = threading.Event()
        self._drawer = weakref.ref(drawer, lambda _: self.close())
        self._thread = threading.Thread(target=self._run, name="fiddler-viz-pump", daemon=True)
        self._started = False

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "open"
        return f"Pump({state}, {self.frames} frames)"

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to draw; again is without effect."""
        if not self._started:
            self._started = True
            self._thread.start()

    def mark(self) -> None:
        """Something changed: draw soon."""
        self._marked.set()

    def hurry(self) -> None:
        """Somebody moved something: draw as soon as a browser can take it."""
        self._hurried.set()
        self._marked.set()

    def answered(self, frame: int) -> None:
        """A browser has shown this frame."""
        self.shown = max(self.shown, frame)
        self.unanswered &= frame < self.frames
        if frame >= self.frames - self.ahead:
            self._answered.set()

    def flush(self) -> bool:
        """Draw now, in this thread; True if anything was sent."""
        drawer = self._drawer()
        return drawer is not None and not self._closed.is_set() and self._draw(drawer)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is drawn, so what is drawn from may be changed."""
        with self._drawing:
            yield

    def close(self) -> None:
        """End the thread. From any thread, and from the drawer's own callbacks."""
        self._closed.set()
        self._marked.set()
        self._hurried.set()
        self._answered.set()
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join(JOIN_S)

    def _draw(self, drawer: Drawer) -> bool:
        with self._drawing:
            self._marked.clear()  # before reading the state: what comes later marks again
            self._hurried.clear()
            self._answered.clear()
            self.soon = False
            # In a kernel with many objects a full collection takes 0.1 s and more, longer than a
            # frame, and a slider then stutters.
            with uncollected():
                self.unanswered |= (sent := drawer.draw_frame())
            self.frames += sent
            return sent

    def _run(self) -> None:
        wait_s: float | None = 0.0
        while not self._closed.is_set():  # a frame that began before may have cleared the mark
            self._marked.wait(wait_s)
            drawer = self._drawer()
            if drawer is None or self._closed.is_set():
                return
            began = time.monotonic()
            try:
                sent = self._draw(drawer)
            except Exception as error:  # noqa: BLE001  (a thread's errors are seen nowhere else)
                drawer.report(error)
                sent = False
            wait_s = drawer.wait_s()
            del drawer  # while it sleeps, the thread keeps nobody alive
            drawn = time.monotonic()
            if sent and self.frames - self.shown > self.ahead:
                self._answered.wait(self.answer_s)
            now = time.monotonic()
            # A slow browser gets time for itself too, so that its buttons and sliders answer.
            rest_s = (now - drawn) * REST_SHARE if sent else 0.0
            self._closed.wait(rest_s)
            period_s = SOON_S if self.soon else self.period_s
            self._hurried.wait(max(began + period_s - now - rest_s, 0.0))
