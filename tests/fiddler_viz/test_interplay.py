"""What one part of the explorer does to another: player, plans side by side, edits, charts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import traitlets
from ipywidgets.widgets.widget import _instances

from engine.errors import InputError
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.views import light
from fiddler_viz.views.detail_view import PLAYING
from fiddler_viz.views.session import Session
from fiddler_viz.views.tiles import LIGHT
from tests.fiddler_viz.fake_engine import FakeEngine


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=16, policy="lru")


@pytest.fixture
def opened() -> Iterator[Callable[..., Explorer]]:
    explorers: list[Explorer] = []

    def make(*args: Any) -> Explorer:
        explorers.append(Explorer(*args))
        return explorers[-1]

    yield make
    for explorer in explorers:
        explorer.close()


def settled(explorer: Explorer) -> None:
    """Wait until nothing is worked out beside the drawing any more."""
    end = time.monotonic() + 20
    explorer.flush()
    while explorer.screen.detail.background.busy or explorer.screen.light.came_in:
        if time.monotonic() > end:
            pytest.fail("it works on and on")
        time.sleep(0.02)
        explorer.flush()
    explorer.flush()


def status_of(explorer: Explorer) -> str:
    return explorer.screen.status.value


# --------------------------------------------------------------------- the player and the rest


def test_of_a_cut_run_the_same_trace_is_drawn(trace: Trace) -> None:
    session = Session(trace=trace)
    cut = session.until(4).view.trace
    assert session.until(4).view.trace is cut and session.until(5).view.trace is not cut
    assert session.until(None) is session


def test_charts_of_a_cut_run_are_worked_out_once(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    detail = explorer.screen.detail
    detail.menu.value = "hit rates"
    settled(explorer)
    whole = detail.said
    explorer.selection.playhead = 6
    settled(explorer)
    assert detail.said != whole and "hit rate" in detail.said
    assert repr(detail.background) == "Background(2 answers)"
    explorer.selection.playhead = None
    settled(explorer)
    assert detail.said == whole and repr(detail.background) == "Background(2 answers)"


def test_while_it_plays_no_chart_is_worked_out(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    detail, player = explorer.screen.detail, explorer.screen.player
    player._playback._now_s = lambda: 50.0
    explorer.selection.playhead = 3
    player.play()
    detail.menu.value = "budgets"
    explorer.flush()
    assert PLAYING in detail.note.value and not detail.background.busy
    player.pause()
    settled(explorer)
    assert PLAYING not in detail.note.value and "tok/s" in detail.said


def test_the_bound_of_a_cut_run_comes_in(
    opened: Callable[..., Explorer], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "SOON_ROWS", 0)
    monkeypatch.setattr(light, "_REST_S", 0.01)
    explorer = opened(trace)
    explorer.selection.playhead = 6
    end = time.monotonic() + 20
    while "…" in (tile := explorer.screen.tiles.value.split(LIGHT)[-1]) or " old" in tile:
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
        explorer.flush()


def test_two_plans_are_compared_up_to_the_step_in_play(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    session, table = explorer._session, explorer.screen.plans.table
    session.do("keep")
    explorer.apply(gpu_memory="48GB")
    whole = table.value
    for shown in ("B", "A"):
        explorer.selection.plan = shown
        explorer.selection.playhead = 4
        explorer.flush()
        cut = session.until(4).comparison
        assert cut is not None and len(cut.a.step_rows) == len(cut.b.step_rows) == 5
        assert "<table" in table.value and table.value != whole
        explorer.selection.playhead = None
    explorer.selection.plan = "B"
    explorer.flush()
    assert table.value == whole


def test_the_timeline_stays_at_the_token_under_another_plan(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)

    def step_s() -> tuple[int, int]:
        steps, step = explorer.trace.steps, int(explorer.trace.tokens["step"][34])
        return int(steps["start_ns"][step]), int(steps["end_ns"][step])

    explorer.selection.token = 34
    explorer.flush()
    assert explorer.selection.time == explorer.screen.timeline.in_view == step_s()
    before = step_s()
    explorer.apply(gpu_memory="90GB")
    assert before != step_s() == explorer.selection.time == explorer.screen.timeline.in_view
    explorer.selection.time = (9, 7_000_000)  # the reader's own stays
    explorer.apply(gpu_memory="40GB")
    assert explorer.selection.time == explorer.screen.timeline.in_view == (9, 7_000_000)


# ------------------------------------------------------------------- edits, plans and the engine


def test_only_an_edit_is_told_as_one(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    explorer._session.do("keep")
    explorer.apply(pin=[(3, 1)])
    assert "Pinned (3, 1)" in status_of(explorer)
    explorer.selection.plan = "A"
    explorer.flush()
    assert "Plan A is shown." in status_of(explorer) and "planner" not in status_of(explorer)
    explorer.selection.plan = "B"
    explorer.flush()
    assert "Pinned" not in status_of(explorer) and "Plan B is shown." in status_of(explorer)
    explorer.apply(gpu_memory="30GB")
    explorer._session.do("reset")  # edits and budget at once: neither alone made the difference
    explorer.flush()
    assert "planner" not in status_of(explorer) and "24.0 GB hold" in status_of(explorer)


def test_a_plan_with_edits_is_a_sentence(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    explorer.apply(pin=[(3, 1)])
    explorer.apply(policy="fiddler")
    assert "of 256 experts, 1 pinned by hand. Shown" in status_of(explorer)


def test_an_edit_s_words_are_of_the_whole_run(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    explorer.apply(pin=[(3, 1)])
    words = status_of(explorer)
    explorer.apply(reset_pins=True)
    explorer.selection.playhead = 4
    explorer.apply(pin=[(3, 1)])
    assert status_of(explorer) == words and "predicted" in words


def test_a_placement_by_hand_is_a_difference(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    explorer._session.do("keep")
    explorer.apply(pin=[(3, 1), (4, 2)])
    assert "by hand nothing in A, 2 pinned in B" in explorer.screen.plans.table.value


def test_what_the_engine_refuses_stays_asked() -> None:
    class Picky(FakeEngine):
        def replan(self, plan: Any = None, **changes: Any) -> Any:
            if plan is not None and plan.policy == "belady":
                raise InputError("belady needs to know the whole run")
            return super().replan(plan, **changes)

    engine = Picky(gpu_memory="24GB")
    engine.device = SimpleNamespace(offloads=True)  # type: ignore[attr-defined]
    engine.generate("go", 6)
    session = Session(engine=engine)
    session.do("ask")
    session.change("policy", "belady")
    session.advance()
    session.do("live")
    with pytest.raises(InputError, match="belady"):
        session.advance()
    assert not session.at_once
    session.change("gpu_memory", "30GB")
    session.advance()
    assert session.view.plan.policy == "belady" and engine.plan.gpu_memory == 24 * 10**9


def test_a_run_that_begins_is_seen(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB", pause_s=0.02)
    engine.generate("go", 6)
    explorer = opened(engine)
    explorer._session.do("keep")
    explorer.apply(gpu_memory="48GB")
    explorer.selection.plan = "A"
    explorer.flush()
    explorer.screen.runs.prompt.value = "again"
    explorer._start()
    assert explorer.selection.plan == "B"
    assert explorer._runs.runner.join(20)
    explorer.flush()
    assert explorer.selection.plan == "B" and explorer._session.kept is not None


def test_nothing_is_left_of_what_is_not_in_view(trace: Trace) -> None:
    before = set(_instances)
    for panel in ("lanes", "memory"):
        explorer = Explorer(trace)
        explorer.screen.timeline.panel.value = "memory"
        explorer.flush()
        explorer.screen.timeline.panel.value = panel
        explorer.screen.detail.larger.value = True
        explorer.flush()
        explorer.close()
    assert [_instances[key] for key in set(_instances) - before] == []


def test_a_closed_explorer_lets_a_link_go_on(opened: Callable[..., Explorer], trace: Trace) -> None:
    one, other = opened(trace), opened(trace)
    one._session.do("keep")
    one.apply(gpu_memory="48GB")
    for name in ("plan", "playhead"):
        traitlets.link((one.selection, name), (other.selection, name))
    other.close()
    one.selection.plan = "A"
    one.selection.playhead = 3
    one.flush()
    assert one._session.shows == "A"
