"""Runs the engine in a thread of its own, one run at a time, so that the notebook stays alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Runner:
    """Starts and stops ``engine.generate``. ``load`` gives the engine, when first needed.

    ``on_end`` is called in the run's thread with the error that ended it, or None.
    """

    def __init__(self, load: Callable[[], Any], on_end: Callable[[Exception | None], None]) -> None:
        self._load = load
        self._on_end = on_end
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._engine: Any = None
        self._stopped = self._busy = False

    def __repr__(self) -> str:
        return f"Runner({'busy' if self.busy else 'idle'})"

    @property
    def busy(self) -> bool:
        """Whether a run of ours is under way, loading included."""
        return self._busy

    def start(self, prompt: str, max_new_tokens: int) -> bool:
        """Begin a run; False (and nothing happens) while one is under way."""
        with self._lock:
            if self._busy:
                return False
            self._stopped, self._busy = False, True
            self._thread = threading.Thread(
                target=self._run, args=(prompt, max_new_tokens), name="fiddler-viz-run", daemon=True
            )
            self._thread.start()
            return True

    def stop(self) -> None:
        """End the run; at once where it runs, before it starts where it still loads."""
        self._stopped = True
        if self.busy and self._engine is not None:
            self._engine.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        return not self.busy

    def _run(self, prompt: str, max_new_tokens: int) -> None:
        problem: Exception | None = None
        try:
            self._engine = self._load()
            if not self._stopped:
                self._engine.generate(prompt, max_new_tokens=max_new_tokens)
        except Exception as error:  # noqa: BLE001  (shown in the status line, whatever it is)
            problem = error
        finally:
            self._busy = False
            self._on_end(problem)
