"""What goes on: ready, a run under way, an error; and how each run ended, whoever began it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fiddler_viz.views.runner import Runner
from fiddler_viz.views.selection import Selection
from fiddler_viz.views.session import Session
from fiddler_viz.views.status import Status

_END = {
    "stopped": "Stopped; what was generated is kept.",
    "length": "Done.",
    "eos": "Done: the model ended the text.",
    "criterion": "Done: a stopping criterion ended the run.",
}


class RunStatus:
    """Begins and stops runs, and says in the status line how they end.

    ``load`` gives the engine, when it is first needed; ``mark`` is called where there is something
    to draw. Called from the reader's threads, the run's and the pump's.
    """

    def __init__(
        self,
        session: Session,
        selection: Selection,
        status: Status,
        load: Callable[[], Any],
        mark: Callable[[], None],
    ) -> None:
        self._session, self._selection, self._status = session, selection, status
        self._mark = mark
        self._load = load
        self.state = "ready"
        self.runner = Runner(self._opened, self._ended)
        self._told = session.base
        """The run whose end was told."""
        self._begun = False
        """Whether a run was asked for here that shows nothing yet."""
        self._closed = False

    def __repr__(self) -> str:
        return f"RunStatus({self.state})"

    @property
    def busy(self) -> bool:
        """Whether a run is under way, or its model is being loaded."""
        return self._session.running or self.runner.busy

    def start(self, prompt: str, max_new_tokens: int) -> None:
        """Begin a run, unless one is under way."""
        if self.busy:
            self._status.say("A run is under way; stop it first.")
            return
        self.state = "running" if self._session.engine is not None else "loading the model"
        self._status.say("")
        self._begun = True
        self._selection.plan = "B"  # a run that begins is seen
        self.runner.start(prompt, max_new_tokens)
        self._mark()

    def stop(self) -> None:
        """End the run that is under way, whoever began it."""
        self._status.say("Stopping ...")
        self._begun &= self.state != "loading the model"  # nothing of it will show
        if self.runner.busy:
            self.runner.stop()
        elif self._session.engine is not None:
            self._session.engine.stop()

    def report(self, error: Exception) -> None:
        """Show an error; everything else stays usable."""
        self.state = "error"
        self._status.error(error)
        self._mark()

    def moved(self) -> None:
        """The reader goes on: what was refused before is over."""
        if self.state == "error":
            self.state = "ready"
            self._status.say("")
            self._mark()

    def follow(self) -> bool:
        """Tell of a run that began or ended since, also in a cell; whether one is under way."""
        busy = self.busy
        ended = not busy and self._session.base is not self._told
        if self._begun and (ended or self._session.view.live):
            self._begun = False
            self._selection.clear()  # it was of another run
        if busy and self.state == "ready":
            self.state = "running"
            self._status.say("")
        elif not busy and self.state == "running":  # perhaps without a run to show for it
            self.state = "ready"
            self._status.say("")
        if ended:
            self._told = self._session.base
        if ended and self.state != "error":
            how = self._session.explored.meta.get("ended", "length")
            said = [_END.get(how, f"Done ({how})."), self._session.dropped]
            if self._session.asks:
                said.append("It is shown under the plan that is asked about, not as it ran.")
            self._status.say(" ".join(filter(None, said)))
        return busy

    def close(self) -> None:
        """End a run that was begun here; say nothing more."""
        self._closed = True
        self.runner.stop()

    # What the run's thread calls.

    def _opened(self) -> Any:
        engine = self._load()
        self.state = "running"
        return engine

    def _ended(self, error: Exception | None) -> None:
        if self._closed:
            return
        if error is not None:
            self._begun = False  # what is picked of the run shown stays
            self.report(error)
            return
        self.state = "ready"
        self._mark()
