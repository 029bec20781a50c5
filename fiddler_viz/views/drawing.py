"""What is drawn of a session, and when: drawings of all of it, and frames of a run between them."""

from __future__ import annotations

import threading
import time

from fiddler_viz.views.beat import AHEAD
from fiddler_viz.views.pump import PERIOD_S, Pump
from fiddler_viz.views.run_status import RunStatus
from fiddler_viz.views.screen import Screen
from fiddler_viz.views.selection import Selection
from fiddler_viz.views.session import Session

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
_IDLE_S = 0.25
"""How often an engine that does not run is asked whether it does by now."""


class Drawing:
    """Draws a session on a screen: what a :class:`~fiddler_viz.views.pump.Pump` drives, its own."""

    def __init__(
        self, session: Session, screen: Screen, selection: Selection, runs: RunStatus
    ) -> None:
        self._session, self._screen, self._selection = session, screen, selection
        self._runs = runs
        self._dirty = threading.Event()
        self._drawn_s = self._figures_s = 0.0
        self.asked_s = 0.0
        """When a plan was asked for last."""
        self.framed_s = 0.0
        """When the last frame was sent."""
        self.framed = False
        """Whether frames have shown more than figures since these were drawn."""
        self._ticking: int | None = None
        """The thread in which the playhead moves on by itself, just before a frame."""
        self.pump = Pump(self)
        screen.beat.observe(lambda change: self._painted(change["new"]), "shown")

    def __repr__(self) -> str:
        return f"Drawing({self.pump})"

    def mark(self) -> None:
        """Something is to be drawn that the session knows nothing of."""
        self._dirty.set()
        if self._ticking != threading.get_ident():  # that frame is being drawn
            self.pump.mark()

    def flush(self) -> bool:
        """Draw now what is waiting to be drawn; True if anything was sent."""
        sent = self.pump.flush()
        if self._screen.behind:
            self._dirty.set()
            self.asked_s = 0.0
            sent |= self.pump.flush()
        return sent

    def asked(self, *, room: bool) -> None:
        """A plan was asked for; ``room``: a row opens or closes with it, charts make room."""
        self.asked_s = time.monotonic()
        if room:
            self._dirty.set()

    def _painted(self, frame: int) -> None:
        self.pump.answered(frame)
        if self._screen.player.wait_s() is not None:  # it plays only to who looks
            self.pump.mark()

    # What the pump calls.

    def draw_frame(self) -> bool:
        """Bring the session up to date and draw what changed; True if anything was sent."""
        now_s, asked_s, plan = time.monotonic(), self.asked_s, self._session.view.plan
        if self._session.wanted:
            self.asked_s = now_s
        self.pump.soon = self._soon(now_s)
        later = now_s - self.asked_s > _LATER_S
        owes_figure = later and self._screen.behind
        if self.pump.soon and now_s - self.framed_s < PERIOD_S and self._waits():
            return False
        framed = self._glance(now_s)
        if framed and not owes_figure and not self._screen.owes_numbers:
            return True
        try:
            changed = self._session.advance()
        except Exception:
            self._screen.follow(self._session)  # back to what is in force
            raise
        if self._session.view.plan == plan:  # it changes nothing: no progress waits for it
            self.asked_s = asked_s
            self.pump.soon = self._soon(now_s)
        self._selection.plan = self._session.shows  # a move leads back to B, and so does no A
        self._ticking = threading.get_ident()
        self._screen.player.tick(self._session.view.trace, busy=self._runs.busy)
        self._ticking = None
        dirty = self._dirty.is_set()
        if not changed and not dirty and not owes_figure:
            return self._acknowledged(self._screen.draw_late(self._session))
        self._dirty.clear()
        busy = self._runs.follow()
        self._drawn_s = now_s
        recent = now_s - self._figures_s < _FIGURES_S or not later
        still = self.framed and self._session.view.live and recent and not dirty
        asked = self.pump.soon and now_s - self.framed_s < _UNSEEN_S
        asked = asked and not self._screen.took_effect(self._session)
        if still and not framed and not asked:  # a page sees this before what takes it longer
            still = self._send_frame()
        sent = self._screen.draw(
            self._session,
            name=self._session.name,
            state=self._runs.state,
            busy=busy,
            still=still,
            later=later,
        )
        if not still:
            behind = self._screen.behind  # the page keeps a frame in the figure's place
            if self.framed and not behind:  # where a figure has not changed, it would go on to
                self._screen.beat.send_drawn()
            self.framed, self._figures_s = behind, now_s
        if self._screen.owes:
            self._dirty.set()
        return self._acknowledged(sent or still, ahead=AHEAD if still else 0)

    def _soon(self, now_s: float) -> bool:
        """Whether a run under way was just asked for a plan."""
        return self._session.view.live and now_s - self.asked_s < _AFTER_S

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
            self.framed, self.framed_s, self.pump.ahead = True, time.monotonic(), AHEAD
        return sent

    def _acknowledged(self, sent: bool, *, ahead: int = 0) -> bool:
        """Ask the browser to say when it has painted what was sent, if anything was.

        ``ahead``: how many frames may be on their way before it has.
        """
        if sent:
            self.pump.ahead = ahead
            self._screen.beat.sent = self.pump.frames + 1
        return sent

    def wait_s(self) -> float | None:
        """How long the pump may sleep: not while a run is live, for ever where nothing can run."""
        if self._runs.busy:
            return 0.0
        if self._screen.owes:  # a slider that moves on comes first
            return _REST_S
        if self._screen.behind:
            return max(self.asked_s + _LATER_S - time.monotonic(), 0.0) + _REST_S
        playing_s = None if self.pump.unanswered else self._screen.player.wait_s()
        waits = (playing_s, _IDLE_S if self._session.engine is not None else None)
        return min((wait for wait in waits if wait is not None), default=None)

    def report(self, error: Exception) -> None:
        """Show an error in the status line; everything else stays usable."""
        self._runs.report(error)
