"""The player in an explorer: all views show the run as it was, and move with the clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import traitlets

from engine.by_hand import ByHand
from engine.errors import InputError
from engine.history import places_at
from engine.residency import Place
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.views.live_state import LiveState
from fiddler_viz.views.picture import _live_grid, grid_of
from fiddler_viz.views.player import BUSY, EMPTY, Player
from fiddler_viz.views.selection import Selection
from fiddler_viz.views.session import Session
from tests.fiddler_viz.fake_engine import FakeEngine
from tests.fiddler_viz.make_trace import empty_trace
from tests.fiddler_viz.test_explorer import wait_for


class Clock:
    def __init__(self) -> None:
        self.s = 50.0

    def __call__(self) -> float:
        return float(self.s)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace(
        "mixtral-8x7b", gpu_memory="24GB", decode_tokens=24, policy="lru", cache_slots=12
    )


@pytest.fixture
def opened(opened: Callable[..., Explorer]) -> Callable[..., Explorer]:
    """With a clock of the test's own."""

    def make(*args: Any, **options: Any) -> Explorer:
        explorer = opened(*args, **options)
        explorer.clock = explorer.screen.player._playback._now_s = Clock()  # type: ignore[attr-defined]
        return explorer

    return make


def says(player: Player, event: str, value: Any = None, page: str = "a", number: int = 1) -> None:
    """As the browser's side of the row does."""
    content = {"event": event, "value": value, "page": page, "number": number}
    player._handle_custom_msg(content, [])


def paints(explorer: Explorer) -> None:
    """A browser that paints every frame at once."""
    explorer.screen.beat.observe(
        lambda change: explorer.screen.beat.set_trait("shown", change["new"]), "sent"
    )
    explorer.screen.beat.shown = explorer.screen.beat.sent


def test_all_views_show_the_run_as_it_was(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    screen, cut = explorer.screen, trace.until(9)
    whole = screen.text.value.count("data-t=")
    says(screen.player, "seek", 10)
    explorer.flush()
    assert explorer.selection.playhead == 9
    assert explorer.trace is trace  # what is explored stays the whole run
    assert "up to step 9" in screen.heatmap.heading.value
    z = np.asarray(screen.heatmap.figure.data[0].z, float)
    flat = cut.routing.flat(8)
    counts = np.bincount(flat, minlength=256).reshape(32, 8)
    np.testing.assert_allclose(z.reshape(32, 8), counts / counts.max(), rtol=1e-6)
    cached = int((places_at(trace, 9) == Place.CACHED).sum())
    assert f"({cached} experts)" in screen.memory.value
    assert screen.text.value.count("data-t=") == whole - (len(trace.step_rows) - 10)
    assert screen.timeline.drawn.end_ns == trace.steps["end_ns"][9]
    cursor = screen.timeline.figure.layout.shapes[-1]
    assert cursor.visible and cursor.x0 == cursor.x1 == trace.steps["end_ns"][9] * 1e-9
    assert (
        f"{cut.summary.calls['cpu']:,} of {sum(cut.summary.calls.values()):,}" in screen.tiles.value
    )
    assert "run up to step 9" in screen.header.value
    assert ">this run up to step 9<" in screen.tiles.value
    assert ">predicted for the whole run<" in screen.tiles.value
    assert screen.player.view["place"] == 10 and screen.player.view["steps"] == 25
    says(screen.player, "seek", 25)
    explorer.flush()
    assert explorer.selection.playhead is None
    assert screen.text.value.count("data-t=") == whole
    assert not screen.timeline.figure.layout.shapes[-1].visible
    assert "up to" not in screen.header.value
    assert ">predicted<" in screen.tiles.value and ">this run<" in screen.tiles.value


def test_before_the_first_step(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    says(explorer.screen.player, "seek", 0)
    explorer.flush()
    assert explorer.selection.playhead == -1
    assert "The text appears here" in explorer.screen.text.value
    assert "before its first step" in explorer.screen.header.value
    drawn = explorer.screen.timeline.drawn
    assert drawn.is_empty and drawn.end_ns == trace.steps["end_ns"][0]
    assert "Nothing has run yet" in explorer.screen.detail.note.value


def test_it_plays_at_the_runs_own_speed(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    player, clock = explorer.screen.player, explorer.clock  # type: ignore[attr-defined]
    ends = trace.steps["end_ns"] / 1e9
    says(player, "toggle")
    explorer.flush()
    assert explorer.selection.playhead == -1 and player.playing
    assert "playing" in explorer.screen.header.value
    for step in (0, 1, 5, 17):  # steps between are skipped
        clock.s = 50 + ends[step] + 1e-6
        explorer.flush()
        assert explorer.selection.playhead == step
        assert player.view["playing"] and player.view["pace"] == 1.0
        assert player.view["at_s"] == pytest.approx(ends[step], abs=1e-4)
        assert player.wait_s() == pytest.approx(ends[step + 1] - ends[step], abs=1e-4)
    clock.s = 50 + ends[-1] + 1
    explorer.flush()
    assert explorer.selection.playhead is None and not player.playing
    assert not player.view["playing"] and player.wait_s() is None


def test_a_plan_moved_while_playing_keeps_the_step(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    player, clock = explorer.screen.player, explorer.clock  # type: ignore[attr-defined]
    says(player, "speed", "2x")
    says(player, "toggle")
    clock.s += trace.steps["end_ns"][6] / 2e9 + 1e-6
    explorer.flush()
    assert explorer.selection.playhead == 6
    texts = explorer.screen.text.value.count("data-t=")
    explorer.apply(gpu_memory="80GB")
    what_if = explorer.trace
    assert what_if is not trace and explorer.selection.playhead == 6 and player.playing
    assert explorer.screen.text.value.count("data-t=") == texts
    assert "what if" in explorer.screen.header.value
    assert player.view["end_s"] == what_if.duration_ns / 1e9
    ends = what_if.steps["end_ns"]
    clock.s += float(ends[9] - ends[6]) / 2e9 + 1e-6
    explorer.flush()
    assert explorer.selection.playhead == 9  # at the new plan's pace
    assert ">predicted up to step 9<" in explorer.screen.tiles.value
    ran = trace.until(9).summary
    assert f"{ran.tokens_per_s:.2f}" in explorer.screen.tiles.value  # beside it, what ran


def test_steps_speed_and_nonsense(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    player = explorer.screen.player
    says(player, "step", -1)
    explorer.flush()
    assert explorer.selection.playhead == 23
    says(player, "step", -1)
    assert explorer.selection.playhead == 22
    says(player, "step", 1)
    assert explorer.selection.playhead == 23
    says(player, "toggle")
    explorer.clock.s += 1e-3  # type: ignore[attr-defined]
    says(player, "step", 1)  # pauses, and ends the step under way
    assert explorer.selection.playhead is None and not player.playing
    for event, value in (("seek", "3"), ("step", 7), ("speed", "warp"), ("speed", [1]), ("x", 1)):
        says(player, event, value)
    player._handle_custom_msg("toggle", [])
    explorer.flush()
    assert explorer.selection.playhead is None and player.view["speed"] == "real time"
    with pytest.raises(InputError, match="unknown speed 'warp'"):
        player.play("warp")
    says(player, "seek", 10**9)
    explorer.flush()
    assert player.view["place"] == 25


def test_pausing_stands_at_the_step_of_that_moment(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    player, ends = explorer.screen.player, trace.steps["end_ns"]
    says(player, "seek", 4)
    says(player, "toggle")
    explorer.flush()
    explorer.clock.s += float(ends[9] - ends[3]) / 1e9 + 1e-6  # type: ignore[attr-defined]
    says(player, "toggle")
    explorer.flush()
    assert explorer.selection.playhead == 9 and player.view["place"] == 10
    says(player, "step", -1)
    assert explorer.selection.playhead in (8, 9), "back is never forward"


def test_a_page_hears_which_of_its_events_a_drawing_knows(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    says(explorer.screen.player, "seek", 25, page="b", number=7)  # changes nothing
    explorer.flush()
    assert explorer.screen.player.view["knows"] == {"b": 7}


def test_it_follows_the_selection_and_links(opened: Callable[..., Explorer], trace: Trace) -> None:
    one, other = opened(trace), opened(trace)
    traitlets.link((one.selection, "playhead"), (other.selection, "playhead"))
    says(one.screen.player, "seek", 4)
    other.flush()
    assert "up to step 3" in other.screen.heatmap.heading.value
    assert other.screen.player.view["place"] == 4
    other.selection.playhead = 10**6  # more than there is: all of it
    one.flush()
    assert "up to" not in one.screen.header.value
    assert repr(Selection(playhead=3)) == "Selection(up to step 3)"


def test_it_sleeps_where_nobody_looks(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    explorer.screen.player._playback._now_s = time.monotonic
    explorer.screen.player.play("10x")
    wait_for(lambda: explorer.screen.player.view["playing"])
    time.sleep(0.7)  # no browser answers
    sent = explorer.screen.beat.sent
    assert explorer._drawing.wait_s() is None
    time.sleep(0.5)
    assert explorer.screen.beat.sent == sent
    paints(explorer)  # a page opens
    wait_for(lambda: explorer.screen.beat.sent > sent + 3)
    assert (explorer.selection.playhead or 0) > 0
    wait_for(lambda: explorer.selection.playhead is None)
    assert not explorer.screen.player.playing


def test_while_the_engine_runs_nothing_is_played(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.05, gpu_memory="24GB")
    explorer = opened(engine)
    engine.generate("go", 6)
    wait_for(lambda: explorer.trace is engine.last_run.trace)
    explorer.flush()
    player = explorer.screen.player
    says(player, "seek", 3)
    explorer.flush()
    assert explorer.selection.playhead == 2
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    wait_for(lambda: player.view["off"] == BUSY)
    assert explorer.selection.playhead is None and not player.playing
    explorer.screen.runs.stop.click()
    wait_for(lambda: not engine.running)
    wait_for(lambda: player.view["off"] == "")
    assert player.view["place"] == player.view["steps"] == len(explorer.trace.step_rows)


def test_a_run_of_a_cell_is_shown_to_its_end(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    engine.generate("go", 12)
    explorer.flush()
    says(explorer.screen.player, "seek", 3)
    engine.generate("again", 9)
    explorer.flush()
    assert explorer.selection.playhead is None
    assert explorer.screen.player.view["steps"] == 10


def test_nothing_to_play(opened: Callable[..., Explorer]) -> None:
    explorer = opened(empty_trace())
    assert explorer.screen.player.view["off"] == EMPTY
    says(explorer.screen.player, "toggle")
    explorer.flush()
    assert not explorer.screen.player.playing and explorer.selection.playhead is None


def test_a_cut_run_is_what_the_live_view_showed() -> None:
    """After each step: the trace, the heatmap and the memory of a viewer that pulled then."""
    engine = FakeEngine(gpu_memory="24GB", policy="lru", cache_slots=9)
    live = LiveState(engine)
    seen: list[tuple[Any, ...]] = []
    step = engine._step

    def stepping(*args: Any) -> None:
        step(*args)
        live.pull()
        then = live.trace()
        places = engine._driver.residency.places()
        kept = [
            rows.copy()
            for rows in (then.step_rows, then.token_rows, then.work_rows, then.move_rows)
        ]
        grid = copy.deepcopy(_live_grid(live, places, "popularity", None, ByHand()))
        seen.append((kept, then.texts, then.summary, grid))

    engine._step = stepping  # type: ignore[method-assign]
    whole = engine.generate("go", 8).trace
    session = Session(trace=whole)
    for number, (rows, texts, summary, grid) in enumerate(seen):
        cut = whole.until(number)
        known = len(cut.token_rows) - len(rows[1])  # the token sampled, which is next
        assert known == (number < len(seen) - 1)
        ours = (cut.step_rows, cut.token_rows[: len(rows[1])], cut.work_rows, cut.move_rows)
        for one, other in zip(ours, rows, strict=True):
            np.testing.assert_array_equal(one, other)
        assert cut.texts[: len(texts)] == texts
        np.testing.assert_equal(cut.summary.to_dict(), summary.to_dict())  # nan equals nan
        shown = grid_of(session.until(number), "popularity", None)
        for name in ("amount", "tokens", "places", "actions"):
            np.testing.assert_array_equal(getattr(shown, name), getattr(grid, name), err_msg=name)


def test_the_end_is_shown_that_comes_between_two_frames(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    """The last step ends after a frame was sent and before the browser has shown it."""
    explorer = opened(trace)
    player = explorer.screen.player
    clock = player._playback._now_s = Clock()
    player.play()
    wait_for(lambda: player.view["playing"])
    time.sleep(0.7)  # all is drawn, and nothing answers
    clock.s += 1e6
    explorer.screen.beat.shown = explorer.screen.beat.sent
    wait_for(lambda: not player.view["playing"])
    assert explorer.selection.playhead is None
