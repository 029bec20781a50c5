from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from fiddler_viz.views.pump import Pump


class Counter:
    """Draws by counting; remembers in which threads, and whether two ever drew at once."""

    def __init__(self, *, wait_s: float | None = None, draw_s: float = 0.0) -> None:
        self.frames = 0
        self.errors: list[Exception] = []
        self.threads: set[str] = set()
        self.fail = self.overlapped = self._inside = False
        self._wait_s, self._draw_s = wait_s, draw_s

    def draw_frame(self) -> bool:
        self.overlapped |= self._inside
        self._inside = True
        time.sleep(self._draw_s)
        self.threads.add(threading.current_thread().name)
        self._inside = False
        if self.fail:
            self.fail = False
            raise ValueError("no such plan")
        self.frames += 1
        return True

    def wait_s(self) -> float | None:
        return self._wait_s

    def report(self, error: Exception) -> None:
        self.errors.append(error)


def wait_for(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail("did not happen in time")
        time.sleep(0.005)


def test_latest_state_wins_and_idle_costs_nothing() -> None:
    counter = Counter()
    pump = Pump(counter, period_s=0.02, answer_s=0.05)
    pump.start()
    wait_for(lambda: counter.frames == 1)
    for _ in range(500):
        pump.mark()
    wait_for(lambda: counter.frames >= 2)
    time.sleep(0.3)
    drawn = counter.frames
    assert drawn <= 4  # 500 marks are one or two frames
    time.sleep(0.2)
    assert counter.frames == drawn  # nothing marked, nothing drawn
    assert counter.threads == {"fiddler-viz-pump"}
    pump.close()
    assert not pump.alive


def test_one_frame_in_flight_until_answered_or_timed_out() -> None:
    counter = Counter(wait_s=0.0)
    pump = Pump(counter, period_s=0.0, answer_s=0.15)
    pump.start()
    time.sleep(0.5)
    unanswered = counter.frames
    assert unanswered <= 4  # the timeout, and as long again for the browser itself
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pump.answered(pump.frames)
        time.sleep(0.002)
    assert counter.frames - unanswered > 10
    pump.close()


def test_an_old_answer_does_not_open_the_gate() -> None:
    counter = Counter(wait_s=0.0)
    pump = Pump(counter, period_s=0.0, answer_s=30.0)
    pump.start()
    wait_for(lambda: counter.frames == 1)
    pump.answered(0)
    time.sleep(0.1)
    assert counter.frames == 1
    pump.answered(1)
    wait_for(lambda: counter.frames == 2)
    pump.close()


def test_flush_draws_here_and_never_beside_the_pump() -> None:
    counter = Counter(wait_s=0.0, draw_s=0.003)
    pump = Pump(counter, period_s=0.0, answer_s=0.001)
    pump.start()
    for _ in range(40):
        assert pump.flush()
    with pump.paused():
        before = counter.frames
        time.sleep(0.05)
        assert counter.frames == before
    pump.close()
    assert not counter.overlapped
    assert threading.current_thread().name in counter.threads


def test_an_error_is_reported_and_drawing_goes_on() -> None:
    counter = Counter()
    counter.fail = True
    pump = Pump(counter, period_s=0.01, answer_s=0.01)
    pump.start()
    wait_for(lambda: len(counter.errors) == 1)
    pump.mark()
    wait_for(lambda: counter.frames == 1)
    pump.close()


@pytest.mark.parametrize("wait_s", [None, 0.01])
def test_ends_when_its_drawer_is_gone(wait_s: float | None) -> None:
    counter = Counter(wait_s=wait_s)
    pump = Pump(counter, period_s=0.01, answer_s=0.01)
    pump.start()
    wait_for(lambda: pump.frames >= 1)
    del counter
    gc.collect()
    wait_for(lambda: not pump.alive)
    assert not pump.flush()


def test_can_be_closed_from_its_own_thread_and_twice() -> None:
    class Closing(Counter):
        def draw_frame(self) -> bool:
            pump.close()
            return super().draw_frame()

    closing = Closing()
    pump = Pump(closing, period_s=0.01, answer_s=0.01)
    pump.start()
    wait_for(lambda: not pump.alive)
    pump.close()
    pump.start()
    assert not pump.alive


def test_small_frames_go_ahead_of_their_answers() -> None:
    """So many may be on their way; then it waits for an answer, and goes on with it."""
    counter = Counter(wait_s=0.0)
    pump = Pump(counter, period_s=0.005, answer_s=30.0)
    pump.ahead = 4
    pump.start()
    wait_for(lambda: pump.frames == 5)
    time.sleep(0.1)
    assert pump.frames == 5 and pump.unanswered
    pump.answered(4)
    wait_for(lambda: pump.frames == 9)
    pump.answered(2)  # late, and of the past
    time.sleep(0.1)
    assert pump.frames == 9 and pump.shown == 4
    pump.close()
