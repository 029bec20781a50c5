"""Streaming: a run whose text is looped over while another thread makes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator


def pieces(
    run: Callable[[Callable[[str], None]], object], stop: Callable[[], None]
) -> Iterator[str]:
    """What ``run`` gives to the callable that it is called with, as it comes.

    Raises what ``run`` raises. Who leaves the loop early stops the run and waits for its end.
    """
    heard: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            run(heard.put)
            heard.put(None)
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            heard.put(error)

    thread = threading.Thread(target=work, name="fiddler-generate", daemon=True)
    thread.start()
    ended = False
    try:
        while True:
            piece = heard.get()
            ended = not isinstance(piece, str)
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                return
            yield piece
    finally:
        if not ended:  # a run that was refused must not stop the other one
            stop()
        thread.join()
