"""Questions that take longer than a frame, answered in a thread: the latest one wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Progress = Callable[[int, int], object]
"""Called with how many parts are done, and of how many; raises where nobody waits any more."""
KEPT = 24
"""Answers kept, so that coming back to one is instant."""
PATIENCE_S = 0.5
"""How long a reader waits without being told how far it is."""
JOIN_S = 2.0
POLL_S = 0.05
"""How often one that rests looks whether it is still wanted."""


class OvertakenError(Exception):
    """Another question came: nobody waits for this answer."""


class Same:
    """An object as part of a key: equal to itself alone, however alike another one is."""

    def __init__(self, it: object) -> None:
        self._it = it

    def __repr__(self) -> str:
        return f"Same({self._it!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other._it is self._it

    def __hash__(self) -> int:
        return id(self._it)


@dataclass(frozen=True)
class Question:
    """What is asked: the same ``key``, the same answer."""

    key: tuple[Any, ...]
    work: Callable[[Progress], Any]
    """Answers it, telling its progress now and then; may raise."""
    rest_s: float = 0.0
    """For so long no other one has to come before it is worked on."""
    mark: Any = None
    """What is marked in a drawing of the answer, which does not depend on it."""


@dataclass(frozen=True)
class Answer:
    """What came of a question: a value, or why there is none."""

    value: Any = None
    error: Exception | None = None


class Background:
    """Answers questions about one run at a time; ``on_news`` is called when there is more to show.

    :meth:`ask` may be called from any thread and returns at once. The thread lives only while
    there is something to answer; :meth:`close` ends it.
    """

    def __init__(self, on_news: Callable[[], None], name: str = "detail") -> None:
        self._on_news = on_news
        self._name = name
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._about: Any = None
        self._known: list[tuple[tuple[Any, ...], Answer]] = []
        self._wanted: Question | None = None
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self.progress: tuple[int, int] | None = None
        """Parts done, and of how many, of the question being answered; None: not said."""

    def __repr__(self) -> str:
        return f"Background({len(self._known)} answers{', busy' if self.busy else ''})"

    @property
    def busy(self) -> bool:
        """Whether something is being answered."""
        return self._thread is not None

    @property
    def late(self) -> bool:
        """Whether a reader has waited so long that the progress is to be shown."""
        return self.busy and time.monotonic() - self._began > PATIENCE_S

    def ask(self, about: Any, question: Question) -> Answer | None:
        """The answer if it is known; None: it is being worked on, in place of any other.

        ``about``: what answers are kept for; of another object they are forgotten.
        """
        with self._lock:
            if about is not self._about:
                self._about, self._known = about, []
            for at, (key, answer) in enumerate(self._known):
                if key == question.key:
                    self._known.append(self._known.pop(at))
                    self._wanted = None  # what was asked for before is not looked at any more
                    return answer
            if self._wanted is None or self._wanted.key != question.key:
                self._wanted, self.progress, self._began = question, None, time.monotonic()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._run, name=f"fiddler-viz-{self._name}", daemon=True
                )
                self._thread.start()
            return None

    def drop(self) -> None:
        """Nobody waits for anything any more."""
        with self._lock:
            self._wanted = None

    def join(self, timeout_s: float) -> bool:
        """Wait until nothing is being answered; whether it came to that."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        return not self.busy

    def close(self) -> None:
        """Answer nothing any more; the thread ends when it next tells its progress, or is done."""
        self._closed.set()
        self.drop()
        self.join(JOIN_S)

    def _run(self) -> None:
        while True:
            with self._lock:
                question, about = self._wanted, self._about
                if question is None or self._closed.is_set():
                    self._thread = None
                    return
                rest_s = self._began + question.rest_s - time.monotonic()
            if rest_s > 0:
                self._closed.wait(min(rest_s, POLL_S))
                continue
            answer = self._answer(question)
            if answer is None:
                continue
            with self._lock:
                if about is self._about:
                    self._known = [*self._known[1 - KEPT :], (question.key, answer)]
                if self._wanted is question:
                    self._wanted = None
            if not self._closed.is_set():
                self._on_news()

    def _answer(self, question: Question) -> Answer | None:
        """What comes of it; None where nobody waits any more."""
        late = threading.Timer(PATIENCE_S, self._on_news)
        late.daemon = True
        late.start()
        try:
            return Answer(question.work(lambda done, of: self._tell(question, done, of)))
        except OvertakenError:
            return None
        except Exception as error:  # noqa: BLE001  (shown beside the widget, whatever it is)
            return Answer(error=error.with_traceback(None))  # its frames hold large arrays
        finally:
            late.cancel()

    def _tell(self, question: Question, done: int, of: int) -> None:
        with self._lock:
            if self._wanted is not question:
                raise OvertakenError
            self.progress = (done, of)
        if self.late:
            self._on_news()
