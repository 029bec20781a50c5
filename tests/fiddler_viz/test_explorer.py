"""The explorer without a browser: with a trace, with an engine, with bad input."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import InputError, TraceError
from engine.policies import LIVE, POLICIES
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.page import to_html
from tests.fiddler_viz.fake_engine import FakeEngine


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=24)


def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail("did not happen in time")
        time.sleep(0.01)


def pinned_cells(explorer: Explorer) -> int:
    """Outlined cells of the heatmap, as sent to the browser."""
    lines = explorer.screen.heatmap.figure.data[2].x
    blank = explorer.screen.heatmap.figure.data[1].x
    return (len(lines) + len(blank)) // 6


def arrives(widget: Any, **state: Any) -> None:
    """As if the browser had sent it."""
    widget.set_state(state)


# ------------------------------------------------------------------------------- with a trace


def test_its_page_is_of_the_run_whatever_plan_is_asked_about(
    opened: Callable[..., Explorer], trace: Trace, tmp_path: Path
) -> None:
    explorer = opened(trace)
    explorer.apply(gpu_memory="40GB")
    assert explorer.trace is not trace
    page = explorer.to_html(tmp_path / "run.html").read_text(encoding="utf-8")
    assert page == to_html(trace, tmp_path / "same.html").read_text(encoding="utf-8")
    assert page == explorer.to_html()
    with pytest.raises(InputError, match="cannot write"):
        explorer.to_html(tmp_path)


def test_a_trace_shows_its_run(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    assert repr(explorer) == "Explorer(mixtral-8x7b, 32 x 8 experts)"
    assert explorer.trace is trace
    assert "24.0 GB" in explorer.screen.memory.value
    assert pinned_cells(explorer) == len(trace.plan.pinned)
    assert explorer.screen.runs.run.disabled
    assert "modelled clock" in explorer.screen.header.value
    assert "what if" not in explorer.screen.header.value


def test_moving_the_memory_slider_moves_all_views(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    screen = explorer.screen
    before = (screen.memory.value, screen.tiles.value, pinned_cells(explorer))
    arrives(screen.controls.memory, value=48.0)
    explorer.flush()
    assert explorer.plan.gpu_memory == 48_000_000_000
    assert screen.controls.memory_label.value == "48.0 GB"
    assert "48.0 GB (more than the card's 24.0 GB)" in screen.memory.value
    assert "48.0 GB, more than the card's 24.0 GB, hold" in screen.status.text
    assert pinned_cells(explorer) == len(explorer.plan.pinned) > before[2]
    assert screen.tiles.value != before[1]
    assert "what if" in screen.header.value
    assert f"{len(explorer.plan.pinned)} of 256" in screen.status.text
    arrives(screen.controls.memory, value=24.0)
    explorer.flush()
    assert explorer.trace is trace
    assert screen.memory.value == before[0]


def test_the_pump_follows_without_being_flushed(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    for value in range(240, 400, 5):
        arrives(explorer.screen.controls.memory, value=value / 10)
    wait_for(lambda: explorer.plan.gpu_memory == 39_500_000_000)
    wait_for(lambda: pinned_cells(explorer) == len(explorer.plan.pinned))
    assert explorer.screen.controls.memory.value == 39.5


def test_cache_slider_has_an_effect_only_where_the_policy_admits(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    controls = explorer.screen.controls
    explorer.apply(policy="cpu")
    assert controls.cache.disabled
    assert "No effect" in controls.cache.tooltip
    explorer.apply(policy="lru")
    assert not controls.cache.disabled
    assert controls.cache.value == controls.cache.max == explorer.plan.room
    arrives(controls.cache, value=8)
    explorer.flush()
    assert explorer.plan.cache_slots == 8
    assert "cache slots" in explorer.screen.status.text
    arrives(controls.memory, value=8.0)  # room for fewer than it had
    explorer.flush()
    assert explorer.plan.cache_slots == controls.cache.value <= explorer.plan.room == 9
    assert controls.cache.max == 9


def test_a_refused_plan_is_explained_and_nothing_changes(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    before = explorer.plan
    with pytest.raises(ValueError, match="smallest budget"):
        explorer.apply(gpu_memory="1GB")
    assert explorer.plan is before
    arrives(explorer.screen.controls.memory, min=0.5, value=1.0)
    wait_for(lambda: explorer.screen.status.is_error)
    assert "smallest budget" in explorer.screen.status.text
    wait_for(lambda: explorer.screen.controls.memory.value == 24.0)
    explorer.apply(gpu_memory="30GB")  # the rest keeps working
    assert not explorer.screen.status.is_error


def test_this_token_and_popularity(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    heatmap = explorer.screen.heatmap
    assert heatmap.token.disabled
    arrives(heatmap.show, index=1)
    explorer.flush()
    assert not heatmap.token.disabled
    assert heatmap.token.max == heatmap.token.value == len(trace.token_rows) - 1
    arrives(heatmap.token, value=3)
    explorer.flush()
    assert "token 3" in heatmap.heading.value
    assert 'class="p s"' in explorer.screen.text.value
    arrives(heatmap.show, index=0)
    explorer.flush()
    assert 'class="p s"' in explorer.screen.text.value  # still picked
    explorer.selection.clear()
    explorer.flush()
    assert 'class="p s"' not in explorer.screen.text.value


def test_timeline_zooms_moves_and_comes_back(opened: Callable[..., Explorer], trace: Trace) -> None:
    timeline = opened(trace).screen.timeline
    followed = (timeline.drawn.start_ns, timeline.drawn.end_ns)
    message = {"xaxis.range[0]": 1.0, "xaxis.range[1]": 1.5}
    arrives(timeline.figure, _js2py_relayout={"relayout_data": message, "source_view_id": "a"})
    wait_for(lambda: (timeline.drawn.start_ns, timeline.drawn.end_ns) == (10**9, 15 * 10**8))
    timeline.moves["▶"].click()
    wait_for(lambda: timeline.drawn.start_ns == 1_125_000_000)
    timeline.moves["−"].click()
    wait_for(lambda: timeline.drawn.start_ns == 875_000_000)
    timeline.moves["+"].click()
    wait_for(lambda: timeline.drawn.end_ns - timeline.drawn.start_ns == 500_000_000)
    message = {"xaxis.autorange": True}
    arrives(timeline.figure, _js2py_relayout={"relayout_data": message, "source_view_id": "a"})
    wait_for(lambda: (timeline.drawn.start_ns, timeline.drawn.end_ns) == followed)
    timeline.span.value = "whole run"
    wait_for(lambda: timeline.drawn.start_ns == 0)


def test_figures_in_words(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    words = explorer.screen.words
    assert words.text.layout.display == "none"
    arrives(words.button, value=True)
    explorer.flush()
    assert "55 are pinned" in words.text.value
    assert "24.0 GB" in words.text.value
    assert "Busy" in words.text.value
    explorer.apply(gpu_memory="48GB")
    assert "48.0 GB" in words.text.value
    arrives(words.button, value=False)
    explorer.flush()
    assert words.text.layout.display == "none"


def test_what_is_opened_later_shows_the_present(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    """A reloaded page asks for the state; plotly's own widget gives that of the first display."""
    explorer = opened(trace)
    figure = explorer.screen.heatmap.figure
    explorer.apply(gpu_memory="60GB")
    state = figure.get_state()
    assert state["_widget_data"][2]["x"]["shape"] == figure.data[2].x.shape
    opened_before = figure._opened
    figure._handle_custom_msg({"event": "open"}, [])
    assert figure._opened == opened_before + 1


# ----------------------------------------------------------------------------- with an engine


def test_an_engine_that_has_not_run(opened: Callable[..., Explorer]) -> None:
    explorer = opened(FakeEngine("qwen3-30b-a3b", gpu_memory="24GB"))  # no bundled run of its grid
    assert not len(explorer.trace.step_rows)
    assert pinned_marks(explorer)
    assert "press Run" in explorer.screen.tiles.value
    assert not explorer.screen.runs.run.disabled


def pinned_marks(explorer: Explorer) -> bool:
    return any(len(trace.x) for trace in explorer.screen.heatmap.figure.data[1:4])


def test_run_is_shown_while_it_grows(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.03, gpu_memory="24GB")
    explorer = opened(engine)
    screen = explorer.screen
    arrives(screen.runs.tokens, value=40)
    screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    wait_for(lambda: "live, after step" in screen.heatmap.heading.value)
    wait_for(lambda: "running" in screen.header.value)
    assert screen.runs.run.disabled
    assert not screen.runs.stop.disabled
    assert "<b>" not in screen.text.value.split("<div>")[1]  # tokens are escaped
    wait_for(lambda: not engine.running)
    wait_for(lambda: explorer.trace is engine.last_run.trace)
    wait_for(lambda: screen.status.text == "Done.")
    wait_for(lambda: not screen.runs.run.disabled)
    wait_for(lambda: "ready" in screen.header.value)


def test_enter_in_the_prompt_runs(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    explorer.screen.runs.prompt._handle_custom_msg({"event": "submit"}, [])
    wait_for(lambda: engine.last_run is not None)


def test_replan_while_running(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.04, gpu_memory="24GB")
    explorer = opened(engine)
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    before = pinned_cells(explorer)
    arrives(explorer.screen.controls.memory, value=48.0)
    wait_for(lambda: engine.plan.gpu_memory == 48_000_000_000)
    assert engine.running
    wait_for(lambda: pinned_cells(explorer) == len(engine.plan.pinned) > before)
    wait_for(lambda: "48.0 GB" in explorer.screen.memory.value)  # drawn after the heatmap
    wait_for(lambda: len(engine.recorder.plans) == 2)  # the next step has begun
    explorer.screen.runs.stop.click()
    wait_for(lambda: not engine.running)
    wait_for(lambda: "Stopped" in explorer.screen.status.text)
    assert len(engine.last_run.trace.plan_list) == 2


def test_replan_when_idle_predicts_from_the_last_run(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    run = engine.generate("go", 10)  # in a cell, not by our button
    wait_for(lambda: explorer.trace is run.trace)
    arrives(explorer.screen.controls.memory, value=60.0)
    wait_for(lambda: engine.plan.gpu_memory == 60_000_000_000)
    wait_for(lambda: "what if" in explorer.screen.header.value)
    assert len(explorer.trace.step_rows) == len(run.trace.step_rows)
    assert "fv-tile predicted" in explorer.screen.tiles.value


def test_a_run_of_a_cell_is_told_of_as_our_own(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.04, gpu_memory="24GB")
    explorer = opened(engine)
    status = explorer.screen.status
    assert "Press Run" in status.text or "press Run" in status.text
    engine.generate("go", 3)
    wait_for(lambda: status.text == "Done.")
    cell = threading.Thread(target=engine.generate, args=("go", 60))
    cell.start()
    wait_for(lambda: explorer.draws_live)
    assert status.text == "", "nothing of the run before"
    explorer.screen.runs.stop.click()
    wait_for(lambda: status.text == "Stopping ...")
    wait_for(lambda: status.text.startswith("Stopped;"))
    cell.join()


def test_an_engine_of_another_model_has_nothing_to_show_yet(
    opened: Callable[..., Explorer],
) -> None:
    explorer = opened(FakeEngine("qwen3-30b-a3b", gpu_memory="24GB"))
    assert "Nothing has run yet: press Run." in explorer.screen.status.text
    assert "bundled" not in explorer.screen.status.text


def test_the_plan_may_be_changed_in_a_cell(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    engine.replan(gpu_memory="40GB", policy="lru")
    wait_for(lambda: explorer.screen.controls.memory.value == 40.0)
    assert explorer.screen.controls.policy.value == "lru"
    assert engine.plan.cache_slots == explorer.screen.controls.cache.value


def test_without_memory_to_plan_only_predictions_follow(opened: Callable[..., Explorer]) -> None:
    """A host device runs all on the CPU: the sliders ask what a GPU would change."""
    engine = FakeEngine(gpu_memory="24GB")
    engine.device = SimpleNamespace(offloads=False)
    explorer = opened(engine)
    run = engine.generate("go", 10)
    wait_for(lambda: explorer.trace is run.trace)
    before = engine.plan
    explorer.apply(gpu_memory="60GB")
    assert engine.plan is before
    assert explorer.plan.gpu_memory == 60_000_000_000
    time.sleep(0.6)  # and stays, when the pump looks at the engine again
    assert explorer.plan.gpu_memory == 60_000_000_000
    assert "what if" in explorer.screen.header.value


def test_the_policy_menu_is_an_engines_once_one_is_there(
    opened: Callable[..., Explorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled run may be replayed under all policies, until Run loads its engine."""
    engine = FakeEngine(gpu_memory="24GB", policy="stream")
    monkeypatch.setattr("fiddler_viz.explorer.load_demo", lambda _: engine)
    explorer = opened()
    menu = explorer.screen.controls.policy
    assert "belady" in dict(menu.options).values()
    explorer.apply(policy="belady")
    assert (menu.value, explorer.plan.policy) == ("belady", "belady")
    explorer.apply(policy="stream")
    explorer.screen.runs.run.click()
    wait_for(lambda: engine.last_run is not None and explorer.trace is engine.last_run.trace)
    assert list(dict(menu.options).values()) == list(LIVE)
    assert menu.value == "stream"
    arrives(menu, index=list(LIVE).index("lru"))
    wait_for(lambda: engine.plan.policy == "lru")
    assert not explorer.screen.status.is_error


@pytest.mark.parametrize("offloads", [True, False])
def test_only_an_engine_that_is_planned_narrows_the_menu(
    opened: Callable[..., Explorer], offloads: bool
) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    engine.device = SimpleNamespace(offloads=offloads)
    menu = opened(engine).screen.controls.policy
    assert list(dict(menu.options).values()) == list(LIVE if offloads else POLICIES)


def test_errors_of_a_run_stand_beside_it(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    explorer.selection.pick(layer=3, expert=2)
    arrives(explorer.screen.runs.prompt, value="")
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.screen.status.is_error)
    assert "prompt is empty" in explorer.screen.status.text
    wait_for(lambda: "error" in explorer.screen.header.value)
    assert explorer.selection.layer == 3, "what is shown is as it was"
    explorer.selection.expert = 1
    wait_for(
        lambda: "ready" in explorer.screen.header.value and not explorer.screen.status.is_error
    )
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.screen.status.is_error)
    arrives(explorer.screen.runs.prompt, value="again")
    wait_for(lambda: not explorer.screen.runs.run.disabled)
    explorer.screen.runs.run.click()
    wait_for(lambda: engine.last_run is not None)
    wait_for(lambda: not explorer.screen.status.is_error)
    wait_for(lambda: explorer.selection.layer is None)


def test_a_second_run_waits_for_the_first(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.02, gpu_memory="24GB")
    explorer = opened(engine)
    explorer.screen.runs.run.click()
    wait_for(lambda: engine.running)
    explorer.screen.runs.prompt._handle_custom_msg({"event": "submit"}, [])
    assert "under way" in explorer.screen.status.text
    explorer.screen.runs.stop.click()
    wait_for(lambda: not engine.running)


def test_close_ends_the_threads_and_the_run(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.05, gpu_memory="24GB")
    explorer = Explorer(engine)
    explorer.screen.runs.run.click()
    wait_for(lambda: engine.running)
    explorer.close()
    wait_for(lambda: not engine.running)
    wait_for(lambda: not any(t.name.startswith("fiddler-viz") for t in threading.enumerate()))
    explorer.close()


# ------------------------------------------------------------------------------------ what if


def test_another_link_moves_all_views(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    screen, what_if = explorer.screen, explorer.screen.what_if
    arrives(what_if.toggle, value=True)
    assert what_if.row.layout.display == ""
    before = screen.tiles.value
    arrives(what_if.link, index=[v for _, v in what_if.link.options].index(100))
    explorer.flush()
    assert "what if: link 100 GB/s" in screen.header.value
    assert "A question about other hardware: modelled, never measured." in screen.status.text
    assert explorer.plan.costs.copy_ns < trace.plan.costs.copy_ns / 3
    assert screen.controls.hardware.value == "rtx-4090"
    assert screen.tiles.value != before
    assert what_if.apply.disabled and not what_if.reset.disabled  # nothing runs here
    what_if.reset.click()
    explorer.flush()
    assert explorer.trace is trace
    assert what_if.link_label.value == "25.2 GB/s (own)"


def test_a_refused_what_if_goes_back(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    with pytest.raises(InputError, match="same grid"):
        explorer.apply(as_model="olmoe-1b-7b")
    assert explorer.trace is trace
    explorer.apply(link_gbps=50, planner="layers", cpu_cores=8)
    assert explorer.screen.what_if.planner.value == "layers"
    assert explorer.screen.what_if.cores_label.value == "8 cores"


def test_costed_as_fewer_bits(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    costed = explorer.screen.what_if.costed
    arrives(costed, index=list(costed.options).index("mixtral-8x7b-int4"))
    explorer.flush()
    assert explorer.plan.gpu_memory == trace.plan.gpu_memory
    assert len(explorer.plan.pinned) > 3 * len(trace.plan.pinned)
    assert "<b>mixtral-8x7b</b>" in explorer.screen.header.value
    assert "costed as mixtral-8x7b-int4" in explorer.screen.header.value
    assert f"{len(explorer.plan.pinned)} of 256" in explorer.screen.status.text


def test_two_plans_side_by_side(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    plans, screen = explorer.screen.plans, explorer.screen
    assert plans.row.layout.display == "none"
    tall = screen.heatmap.figure.layout.height, screen.detail.figure.layout.height
    arrives(screen.what_if.toggle, value=True)
    explorer.flush()
    asking = screen.heatmap.figure.layout.height, screen.detail.figure.layout.height
    assert asking[0] < tall[0] and asking[1] < tall[1], "the row takes its room from the charts"
    plans.keep.click()
    arrives(screen.controls.memory, value=48.0)
    explorer.flush()
    assert plans.row.layout.display == "" and "48.0 GB in B" in plans.table.value
    assert "Plan B is shown" in screen.status.text
    assert screen.tiles.layout.display == "none", "the table has their place"
    assert screen.heatmap.figure.layout.height < asking[0]
    arrives(plans.switch, index=0)
    explorer.flush()
    assert explorer.selection.plan == "A" and explorer.trace is trace
    assert screen.controls.memory.value == 24.0
    assert pinned_cells(explorer) == len(trace.plan.pinned)
    explorer.selection.plan = "B"  # a trait: to be set and linked
    explorer.flush()
    assert explorer.plan.gpu_memory == 48 * 10**9 and plans.switch.value == "B"
    explorer.selection.plan = "A"
    arrives(screen.controls.memory, value=30.0)  # what is shown is what is changed
    explorer.flush()
    assert explorer.selection.plan == plans.switch.value == "B"
    assert screen.status.text.endswith("Plan B is shown.")
    plans.clear.click()
    arrives(screen.what_if.toggle, value=False)
    explorer.flush()
    assert "Plan B" not in screen.status.text
    assert plans.row.layout.display == "none" and screen.tiles.layout.display is None
    assert (screen.heatmap.figure.layout.height, screen.detail.figure.layout.height) == tall
    explorer.selection.plan = "A"  # there is none
    explorer.flush()
    explorer.flush()
    assert explorer.selection.plan == "B"


def test_reset_leads_back_from_a_machine_that_is_in_force(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    engine.generate("go", 6)
    explorer = opened(engine)
    what_if, own = explorer.screen.what_if, explorer.plan.costs
    assert what_if.reset.disabled
    arrives(what_if.link, index=len(what_if.link.options) - 1)
    explorer.flush()
    assert explorer.plan.basis.hardware.changed and engine.plan == explorer.plan
    assert not what_if.reset.disabled and "own link" in what_if.reset.tooltip
    what_if.reset.click()
    explorer.flush()
    assert not explorer.plan.basis.hardware.changed and engine.plan.costs == own
    assert what_if.reset.disabled and not explorer.screen.status.is_error


def test_a_token_picked_while_a_run_is_live_stays_picked(opened: Callable[..., Explorer]) -> None:
    explorer = opened(FakeEngine(pause_s=0.04, gpu_memory="24GB"))
    screen = explorer.screen
    screen.runs.run.click()
    wait_for(lambda: explorer.draws_live and len(explorer.trace.step_rows) > 4)
    assert screen.plans.keep.disabled, "what grows cannot be kept"
    explorer.selection.token = 3
    explorer.flush()
    assert screen.heatmap.show.value == "popularity", "its experts are not known yet"
    # another thread may be drawing what was before it
    wait_for(lambda: "Token 3 is picked: its experts come" in screen.text.value)
    wait_for(lambda: len(explorer.trace.step_rows) > 12)
    explorer._mark()
    explorer.flush()
    picked = re.compile('class="[^"]* s"[^>]*data-t="([0-9]+)"')
    wait_for(lambda: picked.findall(screen.text.value) == ["3"])
    explorer.selection.token = None
    explorer.flush()
    wait_for(lambda: not re.findall('class="[^"]* s"', screen.text.value))
    explorer.selection.token = 5
    explorer._runs.stop()
    wait_for(lambda: not explorer.draws_live)
    explorer.flush()
    wait_for(lambda: not screen.plans.keep.disabled and "token 5" in screen.detail.heading.value)


def test_charts_have_their_room_again_while_a_run_is_live(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.04, gpu_memory="24GB")
    engine.generate("go", 6)
    explorer = opened(engine)
    screen = explorer.screen
    arrives(screen.what_if.toggle, value=True)
    explorer.flush()
    tall = screen.heatmap.figure.layout.height
    screen.plans.keep.click()
    explorer.flush()
    screen.runs.run.click()
    wait_for(lambda: explorer.draws_live and explorer._drawing.framed)
    assert screen.heatmap.figure.layout.height < tall
    screen.plans.clear.click()
    explorer.flush()
    assert screen.heatmap.figure.layout.height == tall, "and not with the next figures"
    explorer._runs.stop()


def test_asked_of_an_engine_that_runs(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.04, gpu_memory="24GB")
    engine.generate("go", 6)
    explorer = opened(engine)
    what_if, screen = explorer.screen.what_if, explorer.screen
    arrives(what_if.live, value=False)
    screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    before, force = screen.tiles.value, engine.plan
    arrives(screen.controls.memory, value=48.0)
    wait_for(lambda: "Only asked" in screen.status.text or screen.tiles.value != before)
    wait_for(lambda: not what_if.apply.disabled)
    assert engine.plan is force and engine.running
    what_if.apply.click()
    wait_for(lambda: engine.plan.gpu_memory == 48 * 10**9)
    wait_for(lambda: what_if.apply.disabled)
    screen.runs.stop.click()
    wait_for(lambda: not engine.running)


def test_without_memory_to_plan_other_hardware_is_only_predicted(
    opened: Callable[..., Explorer],
) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    engine.device = SimpleNamespace(offloads=False)
    engine.generate("go", 6)
    explorer = opened(engine)
    explorer.apply(cpu_cores=64)
    assert "Only predicted: this engine measures" in explorer.screen.status.text
    assert explorer.screen.what_if.apply.disabled and explorer.screen.what_if.live.disabled
    explorer.screen.what_if.apply.disabled = False
    explorer.screen.what_if.apply.click()  # a stale page
    wait_for(lambda: "no engine whose plan" in explorer.screen.status.text)


# ---------------------------------------------------------------------------------- bad input


def test_what_cannot_be_explored(tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(InputError, match="no file"):
        Explorer(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a trace")
    with pytest.raises(TraceError):
        Explorer(broken)
    with pytest.raises(InputError, match=r"expected a Trace.*got int"):
        Explorer(7)
    with pytest.raises(InputError, match="unknown theme"):
        Explorer(trace, theme="neon")
    with pytest.raises(InputError, match="height"):
        Explorer(trace, height=100)


def test_opens_a_file_without_torch(tmp_path: Path, trace: Trace) -> None:
    path = trace.save(tmp_path / "run.safetensors")
    code = (
        "import sys; from fiddler_viz.explorer import Explorer;"
        f"e = Explorer({str(path)!r}); e.apply(gpu_memory='40GB'); e.close();"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
