"""The explorer's detail panel: follows what is picked, works in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engine.events import Action
from engine.inspection import inspect_call
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.views.charts import hit_rates as hits_chart
from fiddler_viz.views.detail_view import BEFORE, BUNDLED, COMES, LIVE
from fiddler_viz.views.heights import LEAST_PX, Heights
from tests.fiddler_viz.fake_engine import FakeEngine
from tests.fiddler_viz.test_explorer import arrives, wait_for

WAIT_S = 60.0
SLOW = ("hit rates", "budgets", "flow", "policies")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=6)


def choose(explorer: Explorer, name: str) -> Any:
    """Choose a chart, and wait until it shows; the panel."""
    detail = explorer.screen.detail
    detail.menu.value = name
    explorer.flush()
    assert detail.background.join(WAIT_S)
    explorer.flush()
    return detail


def test_why_follows_what_is_picked(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail = explorer.screen.detail
    assert "for example" in detail.heading.value and detail.note.value == ""
    token = 3
    call = inspect_call(trace, token=token)
    explorer.selection.pick(token=token, layer=call.layer, expert=call.expert)
    explorer.flush()
    assert f"Layer {call.layer}, expert {call.expert}" in detail.heading.value
    assert f"token {token}" in detail.heading.value
    drawn = sum(len(bar.x) for bar in detail.figure.data[:10])
    assert drawn == sum(len(o.parts) for o in call.options) + len(call.took)
    assert "Resident" in detail.said and "chosen" in detail.said
    made = detail.figure._replaced
    explorer.selection.pick(token=None)  # the newest call of that expert
    explorer.flush()
    assert detail.figure._replaced == made  # in place
    explorer.apply(policy="lru")  # whose reasons are longer: the heading takes a line more
    sent = detail.figure.get_state()["_widget_layout"]
    assert detail.figure._replaced == made and sent["title"]["text"] == ""
    assert sent["height"] < detail.room.height_px
    explorer.selection.clear()
    explorer.flush()
    assert "for example" in detail.heading.value


def test_what_a_token_did_not_use_is_said(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail = explorer.screen.detail
    mine = trace.routing.where((trace.routing.token == 2) & (trace.routing.layer == 5))
    other = next(e for e in range(8) if e not in mine.experts)
    explorer.selection.pick(token=2, layer=5, expert=other)
    explorer.flush()
    assert f"token 2 did not use expert {other} in layer 5" in detail.note.value
    assert "fv-old" in detail.children[-1]._dom_classes
    explorer.selection.pick(expert=int(mine.experts[0, 0]))
    explorer.flush()
    assert detail.note.value == "" and "fv-old" not in detail.children[-1]._dom_classes


def test_a_moved_plan_moves_the_reason(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    call = inspect_call(trace, token=3)
    assert call.action == Action.CPU
    explorer.selection.pick(token=3, layer=call.layer, expert=call.expert)
    explorer.apply(gpu_memory=explorer.plan.full_bytes)
    assert "was on the GPU" in explorer.screen.detail.heading.value


@pytest.mark.parametrize("name", SLOW)
def test_slow_charts_come_from_the_background(
    opened: Callable[..., Explorer], trace: Trace, name: str
) -> None:
    explorer = opened(trace)
    detail = choose(explorer, name)
    assert detail.note.value == "" and len(detail.figure.data) > 2
    assert len(detail.said) > 200 and detail.said != explorer.screen.detail.charts[name].tip
    before = detail.figure._replaced
    choose(explorer, "why")
    again = explorer.screen.detail
    again.menu.value = name
    explorer.flush()  # coming back is instant
    assert not again.background.busy and again.figure._replaced == before + 2


def test_nothing_is_worked_out_that_is_not_shown(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    explorer.apply(gpu_memory="30GB")
    assert not explorer.screen.detail.background.busy
    assert repr(explorer.screen.detail.background) == "Background(0 answers)"


def test_of_a_moved_plan_the_latest_is_shown(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail = choose(explorer, "policies")
    for budget in range(30, 60, 3):
        explorer.apply(gpu_memory=f"{budget}GB")
    # What is shown is of another plan, or the last one's has come in already.
    with explorer._pump.paused():
        dimmed = "fv-old" in detail.children[-1]._dom_classes
        assert dimmed or "In 57.0 GB" in detail.heading.value
    assert detail.background.join(WAIT_S)
    explorer.flush()
    assert "In 57.0 GB" in detail.heading.value and detail.note.value == ""


def test_the_mark_moves_without_working_out_anew(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    detail = choose(explorer, "hit rates")
    explorer.apply(gpu_memory="60GB")
    assert not detail.background.busy and detail.note.value == ""
    star = detail.figure.data[-1]
    assert star.x[0] == len(explorer.plan.pinned) + explorer.plan.cache_slots
    assert star.y[0] == explorer.trace.summary.hit_rate


def test_the_picked_experts_flow_stands_out(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    explorer.selection.pick(layer=3, expert=2)
    detail = choose(explorer, "flow")
    assert "expert 2 of layer 3" in detail.heading.value
    explorer.selection.pick(layer=3, expert=5)
    explorer.flush()
    assert "expert 5 of layer 3" in detail.heading.value and not detail.background.busy
    explorer.selection.pick(layer=trace.model.layers - 1, expert=1)  # shown as the next one
    explorer.flush()
    assert detail.background.join(WAIT_S)
    explorer.flush()
    assert "from expert" in detail.heading.value


def test_a_click_takes_a_policy(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail = choose(explorer, "policies")
    bars = detail.figure.data[0]
    name = bars.customdata[0]
    assert name != explorer.plan.policy
    bars._dispatch_on_click(SimpleNamespace(xs=[], ys=[], point_inds=[0]), None)
    wait_for(lambda: explorer.plan.policy == name)


def test_sliders_ask_for_another_machine(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail = choose(explorer, "crossover")
    sliders = detail.charts["crossover"].sliders
    assert sliders.layout.display is None and sliders.reset.disabled
    before, plan = detail.heading.value, explorer.plan
    arrives(sliders.sliders["link_gbps"], value=25.02)  # a browser's rounding is no wish
    assert sliders.changes == {}
    arrives(sliders.sliders["link_gbps"], value=250.0)
    explorer.flush()
    assert detail.heading.value != before and "250 GB/s" in sliders.labels["link_gbps"].value
    assert "link 250 GB/s" in detail.said
    assert explorer.plan is plan  # asked, not done
    sliders.reset.click()
    explorer.flush()
    assert detail.heading.value == before and sliders.changes == {}
    arrives(sliders.sliders["cpu_gbps"], value=400.0)
    explorer.apply(hardware="h200")  # another machine: everything as it is
    assert sliders.changes == {}
    choose(explorer, "why")
    assert sliders.layout.display == "none"


def test_where_only_times_are_known_nothing_can_be_dragged(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    from dataclasses import replace

    own = replace(trace.plan, hardware="this-machine")
    explorer = opened(replace(trace, plan_list=((0, own),)))
    detail = choose(explorer, "crossover")
    sliders = detail.charts["crossover"].sliders
    assert all(slider.disabled for slider in sliders.sliders.values())
    assert "times, not its rates" in sliders.note.value
    assert detail.note.value == "" and "CPU" in detail.heading.value


def test_a_machine_of_a_what_if_can_be_dragged_on(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    explorer.apply(link_gbps=50.0)
    detail = choose(explorer, "crossover")
    sliders = detail.charts["crossover"].sliders
    assert sliders.movable and not sliders.sliders["link_gbps"].disabled
    assert "link 50 GB/s" in sliders.labels["link_gbps"].value and not sliders.note.value
    arrives(sliders.sliders["cpu_gbps"], value=3.0)
    explorer.flush()
    assert set(sliders.changes) == {"cpu_gbps"}
    assert "Drag" in detail.heading.value


def test_errors_stand_beside_the_figure(
    opened: Callable[..., Explorer], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("<b>no</b> memory")

    monkeypatch.setattr(hits_chart, "curves_of", fail)
    explorer = opened(trace)
    detail = choose(explorer, "hit rates")
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; memory" in detail.note.value
    assert not explorer.screen.status.is_error
    assert choose(explorer, "why").note.value == ""


def test_without_a_run_it_says_so(opened: Callable[..., Explorer]) -> None:
    explorer = opened(FakeEngine("qwen3-30b-a3b", gpu_memory="24GB"))
    detail = explorer.screen.detail
    assert "no expert has run in this trace" in detail.note.value
    for name in detail.charts:
        choose(explorer, name)
    assert not explorer.screen.status.is_error


def test_while_a_run_grows_the_old_is_dimmed(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.05, gpu_memory="24GB")
    explorer = opened(engine)
    detail = explorer.screen.detail
    arrives(explorer.screen.runs.tokens, value=60)
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    wait_for(lambda: LIVE.format(BUNDLED) in detail.note.value)
    assert f"of {BUNDLED}" in detail.heading.value and "for example" not in detail.heading.value
    wait_for(lambda: detail.said.startswith("Of the bundled run. "))
    detail.menu.value = "flow"
    wait_for(lambda: COMES in detail.note.value)  # of this chart nothing was drawn
    assert "Flow" in detail.heading.value and "fv-other" in detail._stage._dom_classes
    detail.menu.value = "why"
    wait_for(lambda: not engine.running)
    wait_for(lambda: detail.note.value == "")
    assert "for example" in detail.heading.value and not detail.said.startswith("Of the")
    explorer.screen.runs.run.click()
    wait_for(lambda: LIVE.format(BEFORE) in detail.note.value)
    assert "fv-other" not in detail._stage._dom_classes


def test_larger_takes_the_timeline_s_place(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    detail, timeline = explorer.screen.detail, explorer.screen.timeline
    small = detail.figure.layout.height
    arrives(detail.larger, value=True)
    explorer.flush()
    assert timeline.layout.display == "none"
    assert detail.figure.layout.height > small + timeline.figure.layout.height
    arrives(detail.larger, value=False)
    explorer.flush()
    assert timeline.layout.display is None and detail.figure.layout.height == small


def test_words_cover_the_panel(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    arrives(explorer.screen.words.button, value=True)
    detail = choose(explorer, "policies")
    assert "Nobody is faster than" in explorer.screen.words.text.value
    assert detail.said.split(":")[0] in explorer.screen.words.text.value


@pytest.mark.parametrize("total", [LEAST_PX, 780, 1200])
def test_heights_fill_the_screen(total: int) -> None:
    tall = Heights.of(total)
    assert min(tall.heatmap, tall.detail) >= 100 and tall.timeline >= 130
    assert tall.larger > tall.detail + tall.timeline
    if total >= 780:
        assert tall.detail >= 175
        asks = Heights.of(total, asks=True)
        both = Heights.of(total, asks=True, kept=True, compares=True)
        assert tall.heatmap > asks.heatmap > both.heatmap and both.detail >= 110


def test_a_closed_explorer_waits_for_nothing(trace: Trace) -> None:
    explorer = Explorer(trace)
    explorer.screen.detail.menu.value = "policies"
    explorer.flush()
    background = explorer.screen.detail.background
    explorer.close()
    assert background.join(WAIT_S)
    assert not [t for t in threading.enumerate() if t.name == "fiddler-viz-detail"]
