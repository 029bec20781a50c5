"""What share of the speed of light is reached, worked out beside the drawing: it may take longer
than a frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from engine.bounds import Bound, bound
from engine.trace import Trace
from fiddler_viz.views.background import Same

SOON_ROWS, LONG_ROWS = 1_000, 20_000
"""Choices of the router up to which a bound is at hand within a frame, and from which on it takes
long enough to slow the frames of moves meanwhile."""
_REST_S, _LONG_REST_S = 0.15, 0.8
"""So long the controls have to rest before one is worked out, and before a long one is."""
_KEPT = 64


@dataclass(frozen=True)
class _Wish:
    key: Hashable
    trace: Trace


class Light:
    """Bounds of traces, by what they depend on. ``mark`` is called when one has come in.

    A short trace's is computed when asked for; for a long one a thread is started, which takes the
    newest wish and ends when there is none. :meth:`close` ends it.
    """

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark = mark
        self._lock = threading.Lock()
        self._known: dict[Hashable, Bound] = {}
        self._wish: _Wish | None = None
        self._asked_s = 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.came_in = False
        """Whether one has come in that nobody has asked for since."""

    def __repr__(self) -> str:
        return f"Light({len(self._known)} known)"

    def of(self, trace: Trace) -> Bound | None:
        """The bound of a trace under its own plans; None while it is not known yet.

        Only for traces that used a device, and have run.
        """
        key = _key(trace)
        with self._lock:
            self._wish, self.came_in = None, False
            if key in self._known:
                return self._known[key]
        if len(trace.routing) <= SOON_ROWS:
            self._learn(key, bound(trace))
            return self._known[key]
        with self._lock:
            self._wish, self._asked_s = _Wish(key, trace), time.monotonic()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="fiddler-viz-light", daemon=True
                )
                self._thread.start()
        return None

    def close(self) -> None:
        """End the thread, after the bound that it is at."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)

    def _learn(self, key: Hashable, found: Bound) -> None:
        with self._lock:
            while len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = found

    def _run(self) -> None:
        while True:
            with self._lock:
                wish = self._wish
                if wish is None or self._closed.is_set():
                    self._thread = None
                    return
                long = len(wish.trace.routing) > LONG_ROWS
                rest_s = self._asked_s - time.monotonic() + (_LONG_REST_S if long else _REST_S)
                if rest_s <= 0:
                    self._wish = None
            if rest_s > 0:
                self._closed.wait(rest_s)
                continue
            self._learn(wish.key, bound(wish.trace))
            self.came_in = True
            self._mark()


def _key(trace: Trace) -> Hashable:
    """What a bound depends on; plans hold all of it, times in the run the share."""
    plans = tuple((step, plan.room, plan.costs) for step, plan in trace.plan_list)
    return Same(trace.routing), trace.model.name, plans, trace.duration_ns
