"""A place in a run that moves with a clock: no drift, at every speed, under every plan."""

from __future__ import annotations

import numpy as np
import pytest

from fiddler_viz.views.playback import STEPWISE, Playback

S = 1_000_000_000
ENDS = np.array([2, 3, 7, 7, 8], dtype=np.int64) * S
"""A prompt of 2 s, then steps of 1, 4, 0 and 1 s."""


class Clock:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def playback(clock: Clock) -> Playback:
    made = Playback(clock)
    made.follow(ENDS)
    return made


def test_a_step_is_shown_when_its_end_has_passed(clock: Clock, playback: Playback) -> None:
    playback.play()
    assert (playback.place, playback.playing, playback.wait_s()) == (0, True, 2.0)
    seen: list[tuple[float, int]] = []
    for tenth in range(95):
        clock.s = 1000 + tenth / 10
        if not seen or seen[-1][1] != int(playback.place):
            seen.append((round(clock.s - 1000, 1), int(playback.place)))
    assert seen == [(0.0, 0), (2.0, 1), (3.0, 2), (7.0, 4), (8.0, 5)]
    assert not playback.playing and playback.moving and playback.wait_s() == 0.0  # draw the end
    assert (playback.at_ns, playback.end_ns, playback.pace) == (8 * S, 8 * S, 0.0)


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0, 10.0])
def test_no_drift_however_often_one_asks(clock: Clock, playback: Playback, speed: float) -> None:
    playback.play(speed)
    for number in range(1, 1000):
        clock.s += 0.0049 / speed
        assert playback.at_ns == pytest.approx(0.0049 * number * S)
        assert playback.pace == speed
    wait = playback.wait_s()
    assert wait is not None
    clock.s += wait
    assert playback.place == pytest.approx(4)  # at once, both that end then


def test_frames_that_come_late_skip_steps(clock: Clock, playback: Playback) -> None:
    playback.play(10.0)
    clock.s += 0.71
    assert int(playback.place) == 4
    clock.s += 100
    assert playback.place == 5


def test_a_step_a_second(clock: Clock, playback: Playback) -> None:
    playback.play(STEPWISE)
    paces = list[float]()
    for number in range(5):
        assert playback.place == number
        wait = playback.wait_s()
        assert wait == 1.0
        paces.append(playback.pace)
        clock.s += wait
    assert paces == [2, 1, 4, 0, 1]
    assert not playback.playing


def test_another_plan_keeps_the_text(clock: Clock, playback: Playback) -> None:
    """The same step, and the same part of the next one; then at that plan's pace."""
    playback.play()
    clock.s += 5.0  # step 2 is half through
    assert playback.place == 2.5
    playback.follow(ENDS // 4)
    assert playback.place == 2.5
    assert playback.at_ns == 1.25 * S
    assert playback.wait_s() == 0.5
    clock.s += 0.5
    assert playback.place == 4
    playback.follow(ENDS[:2])  # a shorter run
    assert playback.place == 2 and not playback.playing


def test_pausing_moving_and_speeds_in_mid_step(clock: Clock, playback: Playback) -> None:
    playback.play()
    clock.s += 1.0
    playback.pause()
    clock.s += 50
    assert (playback.place, playback.playing, playback.wait_s()) == (0.5, False, None)
    playback.play()
    clock.s += 0.5
    playback.set_speed(2.0)
    assert playback.at_ns == pytest.approx(1.5 * S)
    clock.s += 0.25
    assert playback.place == 1
    playback.move(3)
    assert playback.playing and playback.place == 4  # a step that takes no time has ended
    playback.move(99)
    assert playback.place == 5
    playback.play()  # from the end: from the start
    assert playback.place == 0
    playback.move(-3)
    assert playback.place == 0


def test_nothing_to_play(clock: Clock) -> None:
    playback = Playback(clock)
    playback.play()
    assert not playback.playing and playback.wait_s() == 0.0
    playback.pause()
    assert playback.wait_s() is None
    playback.follow(np.zeros(0, dtype=np.int64))
    assert (playback.place, playback.steps, playback.end_ns, playback.next_ns) == (0, 0, 0, 0)
