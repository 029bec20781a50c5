"""What share of the speed of light is reached, worked out beside the drawing: it may take longer
than a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.bounds import Bound, Reuse, bound
from engine.trace import Trace
from fiddler_viz.views.background import Background, Question, Same

SOON_ROWS, LONG_ROWS = 1_000, 20_000
"""Choices of the router up to which a bound is at hand within a frame, and from which on it takes
long enough to slow the frames of moves meanwhile."""
_REST_S, _LONG_REST_S = 0.15, 1.2
"""So long the controls have to rest before one is worked out, and before a long one is."""


class Light:
    """Bounds of traces, by what they depend on. ``mark`` is called when one has come in.

    A short trace's is computed when asked for; a long one's comes from the background.
    """

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark = mark
        self._background = Background(self._news, "light")
        self._soon: tuple[tuple[Any, ...], Bound] | None = None
        self._reuse = Reuse()
        """Moves of a slider ask about the same routing again and again."""
        self.came_in = False
        """Whether one has come in that nobody has asked for since."""

    def __repr__(self) -> str:
        return f"Light({self._background!r})"

    def of(self, trace: Trace) -> Bound | None:
        """The bound of a trace under its own plans; None while it is not known yet.

        Only for traces that used a device, and have run.
        """
        key, rows, self.came_in = _key(trace), len(trace.routing), False
        if rows <= SOON_ROWS:
            self._background.drop()
            if self._soon is None or self._soon[0] != key:
                self._soon = key, bound(trace, reuse=self._reuse)
            return self._soon[1]
        rest_s = _LONG_REST_S if rows > LONG_ROWS else _REST_S
        question = Question(key, lambda _: bound(trace, reuse=self._reuse), rest_s)
        answer = self._background.ask(self, question)
        return None if answer is None else answer.value

    def close(self) -> None:
        """End the thread, after the bound that it is at."""
        self._background.close()

    def _news(self) -> None:
        self.came_in = True
        self._mark()


def _key(trace: Trace) -> tuple[Any, ...]:
    """What a bound depends on; plans hold all of it, times in the run the share."""
    plans = tuple((step, plan.room, plan.costs) for step, plan in trace.plan_list)
    return Same(trace.routing), trace.model.name, plans, trace.duration_ns
