"""The placement edited by hand on the heatmap: by clicks, by keys, on a trace and on an engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.by_hand import ByHand
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from tests.fiddler_viz.fake_engine import FakeEngine
from tests.fiddler_viz.test_explorer import pinned_cells, wait_for
from tests.fiddler_viz.test_selection import click


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=24)


def cell(explorer: Explorer, *, pinned: bool) -> tuple[int, int]:
    """The first expert that is pinned, or is not."""
    layer, expert = np.argwhere(explorer.plan.pinned_grid == pinned)[0].tolist()
    return layer, expert


def press(explorer: Explorer, layer: int, expert: int) -> None:
    """A click on a cell, and what comes of it."""
    click(explorer.screen.heatmap.figure.data[0], xs=[expert], ys=[layer])
    explorer.flush()


def marked(explorer: Explorer) -> int:
    """Marks of edits by hand."""
    return len(explorer.screen.heatmap.figure.data[12].x)


def test_clicks_edit_while_the_switch_is_on(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    heatmap, status = explorer.screen.heatmap, explorer.screen.status
    layer, expert = cell(explorer, pinned=False)
    press(explorer, layer, expert)
    assert not explorer.plan.by_hand, "a click picks"
    heatmap.pins.switch.value = True
    assert heatmap.pins.on and repr(heatmap.pins) == "PinControls(on)"
    many, tiles = len(explorer.plan.pinned), explorer.screen.tiles.value
    press(explorer, layer, expert)
    assert explorer.plan.pinned_grid[layer, expert]
    assert explorer.plan.by_hand == ByHand((layer * 8 + expert,))
    assert len(explorer.plan.pinned) == many == pinned_cells(explorer)
    assert marked(explorer) == 1
    assert status.text.startswith(f"Pinned ({layer}, {expert}) instead of (")
    assert "tok/s predicted" in status.text
    assert explorer.screen.tiles.value != tiles
    assert "pinned by hand" in heatmap.legend.value and "unpinned by" not in heatmap.legend.value
    assert (explorer.selection.layer, explorer.selection.expert) == (layer, expert)
    press(explorer, layer, expert)
    assert not explorer.plan.pinned_grid[layer, expert]
    assert status.text.startswith(f"Unpinned ({layer}, {expert}), (")
    assert "unpinned by hand" in heatmap.legend.value
    heatmap.pins.reset.click()
    explorer.flush()
    assert explorer.plan == trace.plan and explorer.trace is trace
    assert status.text.startswith("The placement is the planner's again: ")
    assert marked(explorer) == 0 and heatmap.pins.reset.disabled


def test_two_quick_clicks_are_two_edits(opened: Callable[..., Explorer], trace: Trace) -> None:
    """The second one knows what the first asked for, though nothing was drawn between them."""
    explorer = opened(trace)
    explorer.screen.heatmap.pins.switch.value = True
    layer, expert = cell(explorer, pinned=False)
    with explorer._pump.paused():
        for _ in range(2):
            click(explorer.screen.heatmap.figure.data[0], xs=[expert], ys=[layer])
        click(explorer.screen.heatmap.figure.data[0], xs=[7], ys=[31])
    explorer.flush()
    hand = explorer.plan.by_hand
    assert layer * 8 + expert in hand.unpinned
    assert len(hand.pinned) + len(hand.unpinned) == 2


def test_keys_alone_edit_an_expert_or_a_layer(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    pins, picks = explorer.screen.heatmap.pins, explorer.screen.picks
    assert pins.bar.layout.display == "none" and pins.pin.disabled
    pins.switch.value = True
    picks.layer.value = 4
    explorer.flush()
    assert pins.bar.layout.display == "" and not pins.pin.disabled
    pins.pin.click()
    explorer.flush()
    assert explorer.plan.pinned_grid[4].all()
    assert explorer.screen.status.text.startswith("Pinned all of layer 4 instead of ")
    picks.expert.value = 2
    pins.unpin.click()
    explorer.flush()
    assert explorer.plan.pinned_grid[4].sum() == 7
    assert explorer.plan.by_hand == ByHand(tuple(n for n in range(32, 40) if n != 34), (34,))
    assert "7 pinned and 1 unpinned by hand" in pins.reset.tooltip


def test_no_room_is_an_error_and_nothing_is_lost(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    pins = explorer.screen.heatmap.pins
    explorer.apply(pin=[0, 1, 2, 3, 4, 5])
    before = explorer.plan
    assert len(before.by_hand.pinned) == 48
    explorer.selection.layer = 6
    explorer.flush()
    pins.pin.click()
    wait_for(lambda: explorer.screen.status.is_error)
    assert "56 pinned by hand do not fit: 24.0 GB have room for 55" in explorer.screen.status.text
    assert explorer.plan is before
    with pytest.raises(ValueError, match="48 pinned by hand do not fit"):
        explorer.apply(gpu_memory="20GB")
    assert explorer.plan is before
    explorer.apply(gpu_memory="30GB")
    assert explorer.plan.by_hand == before.by_hand
    assert "48 pinned by hand. Shown" in explorer.screen.status.text
    with pytest.raises(ValueError, match="pin: layer 99"):
        explorer.apply(pin=99)


def test_a_running_engine_takes_edits_at_its_next_step(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(pause_s=0.04, gpu_memory="24GB")
    explorer = opened(engine)
    explorer.screen.runs.run.click()
    wait_for(lambda: explorer.draws_live)
    layer, expert = cell(explorer, pinned=False)
    explorer.screen.heatmap.pins.switch.value = True
    click(explorer.screen.heatmap.figure.data[0], xs=[expert], ys=[layer])
    wait_for(lambda: engine.plan.pinned_grid[layer, expert])
    assert engine.running
    wait_for(lambda: marked(explorer) == 1)
    wait_for(lambda: explorer.screen.status.text.startswith("Pinned ("))
    wait_for(lambda: len(engine.recorder.plans) == 2)
    explorer.screen.runs.stop.click()
    wait_for(lambda: not engine.running)
    assert engine.last_run.trace.plan.by_hand


def test_where_nothing_is_planned_nothing_is_edited(opened: Callable[..., Explorer]) -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=2)
    explorer = opened(trace)
    pins = explorer.screen.heatmap.pins
    pins.switch.value = True
    pins.show(explorer.plan, able=False)
    assert pins.switch.disabled and pins.pin.disabled and pins.reset.disabled
    press(explorer, 1, 1)
    assert not explorer.plan.by_hand


def test_every_colour_in_the_explorer(opened: Callable[..., Explorer], trace: Trace) -> None:
    explorer = opened(trace)
    heatmap = explorer.screen.heatmap
    words = {
        "popularity": "by popularity", "token": "this token", "residency": "time on the GPU",
        "hits": "by hit rate", "time": "lanes went", "difference": "used more, or less",
    }  # fmt: skip
    for index, (name, title) in enumerate(words.items()):
        heatmap.show.set_state({"index": index})
        explorer.flush()
        assert heatmap.show.value == name and title in heatmap.heading.value
        assert (heatmap.token.layout.display == "") is (name == "token")
        assert (heatmap.against.layout.display == "") is (name == "difference")
    assert "less the profile<" in heatmap.heading.value


def test_runs_before_can_be_compared_with(opened: Callable[..., Explorer]) -> None:
    engine = FakeEngine(gpu_memory="24GB")
    explorer = opened(engine)
    for tokens in (10, 14, 6):
        run = engine.generate("go", tokens)
        wait_for(lambda run=run: explorer.trace is run.trace)
    heatmap = explorer.screen.heatmap
    heatmap.show.value = "difference"
    explorer.flush()
    names = [name for _, name in heatmap.against.options]
    assert names[0] == "the profile" and len(names) >= 3
    heatmap.against.value = names[1]
    explorer.flush()
    assert f"less {names[1][:5]}" in heatmap.heading.value
    engine.generate("go", 3)
    wait_for(lambda: len(heatmap.against.options) == len(names) + 1)
    assert heatmap.against.value == names[1], "what was chosen stays"


@pytest.mark.parametrize("show", ["residency", "hits", "time", "difference"])
def test_colours_follow_a_run_as_it_grows(opened: Callable[..., Explorer], show: str) -> None:
    engine = FakeEngine(pause_s=0.03, gpu_memory="24GB", policy="lru", cache_slots=20)
    explorer = opened(engine)
    heatmap = explorer.screen.heatmap
    heatmap.show.value = show
    explorer.screen.runs.run.click()
    wait_for(lambda: re.search(r"live, after step (\d\d|[3-9])", heatmap.heading.value) is not None)
    amounts = np.asarray(heatmap.figure.data[0].z, float)
    assert np.isfinite(amounts).any()
    explorer.screen.runs.stop.click()
    wait_for(lambda: not engine.running)


def test_a_selection_that_is_not_there_pins_nothing(
    opened: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = opened(trace)
    explorer.selection.pick(layer=99, expert=1)
    explorer.flush()
    assert explorer.screen.heatmap.pins.pin.disabled
    explorer.screen.heatmap.pins._edit(pin=True)
    explorer.flush()
    assert explorer.plan == trace.plan


def test_the_demo_engine_keeps_edits(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    """What was edited on the bundled run holds for the engine that Run then loads."""
    from fiddler_viz.views.opening import load_demo

    hybrid = pytest.importorskip("engine.hybrid")
    asked: list[dict[str, Any]] = []
    fake = SimpleNamespace(replan=lambda **changes: asked.append(changes))
    monkeypatch.setattr(hybrid.HybridEngine, "load", lambda *_, **__: fake)
    explorer = Explorer(trace)
    try:
        load_demo(explorer.trace)
        assert asked == []
        explorer.apply(pin=(17, 3), unpin=[(0, 1)])
        load_demo(explorer.trace)
    finally:
        explorer.close()
    assert asked == [{"pin": [(17, 3)], "unpin": [(0, 1)], "cache_slots": 0}]
