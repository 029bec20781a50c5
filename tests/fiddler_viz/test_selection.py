"""One selection in all views: a token, an expert; picked in one of them, shown by the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import traitlets

from engine.events import TOKENS, Action, Lane
from engine.spans import layer_span
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.figures.timeline import BARS, GAPS
from fiddler_viz.theme import Segment
from fiddler_viz.views.selection import Picked, Selection


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=24)


@pytest.fixture
def open_(trace: Trace) -> Iterator[Callable[..., Explorer]]:
    opened: list[Explorer] = []

    def make() -> Explorer:
        opened.append(Explorer(trace))
        return opened[-1]

    yield make
    for explorer in opened:
        explorer.close()


def framed(figure: Any) -> set[tuple[int, int]]:
    """Cells with a frame: (layer, expert)."""
    frame = figure.data[-1]
    x, y = (np.asarray(values, float).reshape(-1, 6)[:, :4] for values in (frame.x, frame.y))
    ends = zip(y.mean(axis=1).tolist(), x.min(axis=1).tolist(), x.max(axis=1).tolist(), strict=True)
    return {
        (round(layer), expert)
        for layer, left, right in ends
        for expert in range(round(left + 0.5), round(right - 0.5) + 1)
    }


def click(trace: Any, **points: Any) -> None:
    """As plotly's widget hands a click on."""
    usual = {"xs": [], "ys": [], "point_inds": []}
    trace._dispatch_on_click(SimpleNamespace(**usual | points), None)


def says(explorer: Explorer, **content: Any) -> None:
    """As the browser's side of the text does."""
    text = explorer.screen.text
    text._handle_custom_msg({"event": "pick", **content}, [])


def test_a_selection_holds_what_was_picked_at_once() -> None:
    of, heard = Selection(), list[tuple[Any, ...]]()
    of.observe(lambda _: heard.append((of.layer, of.expert)))
    of.pick(layer=3, expert=5)
    assert heard == [(3, 5), (3, 5)]
    assert repr(of) == "Selection(layer 3, expert 5)"
    of.clear()
    assert repr(of) == "Selection(nothing)"
    with pytest.raises(traitlets.TraitError):
        of.token = "first"


def test_what_a_trace_does_not_have_is_not_picked(trace: Trace) -> None:
    last = int((trace.tokens["step"] >= 0).sum()) - 1
    of = Selection(token=last, layer=31, expert=7)
    assert of.within(trace) == Picked(last, int(trace.tokens["step"][last]), 31, 7)
    of.pick(token=10**6, layer=31, expert=8)
    assert of.within(trace) == Picked(layer=31)
    of.pick(token=-1, layer=32, expert=0)
    assert of.within(trace) == Picked()
    of.pick(layer=None, expert=3)
    assert of.within(trace) == Picked()


def test_a_token_picked_in_the_text_is_shown_everywhere(
    open_: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = open_()
    screen = explorer.screen
    first = 1  # of the prompt: long before the last steps
    says(explorer, token=first)
    explorer.flush()
    assert explorer.selection.token == first
    assert (screen.heatmap.show.value, screen.heatmap.token.value) == ("token", first)
    assert f"token {first}" in screen.heatmap.heading.value
    assert f' data-t="{first}"' in screen.text.value.split('class="p s"')[1][:60]
    span = Picked(first, int(trace.tokens["step"][first])).span(trace)
    assert span is not None
    drawn = screen.timeline.drawn
    assert (drawn.start_ns, drawn.end_ns) == span
    assert len(screen.timeline.figure.data[-2].x) == 0  # all that is in view
    screen.timeline.moves["−"].click()
    explorer.flush()
    band = screen.timeline.figure.data[-2]
    assert (min(band.x), max(band.x)) == (span[0] * 1e-9, span[1] * 1e-9)
    says(explorer, token=None)  # Escape
    explorer.flush()
    assert explorer.selection.token is None
    assert 's"' not in screen.text.value.split("<i ", 1)[1]
    assert len(screen.timeline.figure.data[-2].x) == 0
    assert screen.heatmap.show.value == "popularity", "as before"


def test_escape_leads_back_from_the_step_that_a_token_brought(
    open_: Callable[..., Explorer],
) -> None:
    explorer = open_()
    timeline, shown = explorer.screen.timeline, explorer.screen.heatmap.show
    before = (timeline.drawn.start_ns, timeline.drawn.end_ns)
    shown.value = "hits"
    says(explorer, token=1)
    explorer.flush()
    assert explorer.selection.time is not None and shown.value == "token"
    says(explorer, token=None)
    explorer.flush()
    assert explorer.selection.time is None and shown.value == "hits"
    assert (timeline.drawn.start_ns, timeline.drawn.end_ns) == before
    shown.value = "token"  # by hand: it stays
    says(explorer, token=1)
    says(explorer, token=None)
    assert shown.value == "token"


def test_a_token_in_view_moves_nothing(open_: Callable[..., Explorer], trace: Trace) -> None:
    explorer = open_()
    timeline = explorer.screen.timeline
    before = (timeline.drawn.start_ns, timeline.drawn.end_ns)
    explorer.selection.token = int((trace.tokens["step"] >= 0).sum()) - 1
    explorer.flush()
    assert (timeline.drawn.start_ns, timeline.drawn.end_ns) == before
    assert len(timeline.figure.data[-2].x) == 5


def test_an_expert_clicked_in_the_heatmap_is_framed(open_: Callable[..., Explorer]) -> None:
    explorer = open_()
    screen = explorer.screen
    cells = screen.heatmap.figure.data[0]
    click(cells, xs=[5], ys=[3])
    explorer.flush()
    assert (explorer.selection.layer, explorer.selection.expert) == (3, 5)
    assert framed(screen.heatmap.figure) == {(3, 5)}
    assert (screen.picks.layer.value, screen.picks.expert.value) == (3, 5)
    click(cells, xs=[5], ys=[3])  # again: no longer
    explorer.flush()
    assert explorer.selection.layer is None and framed(screen.heatmap.figure) == set()
    assert (screen.picks.layer.value, screen.picks.expert.value) == (-1, -1)
    click(cells)  # beside the cells
    assert explorer.selection.layer is None


def test_an_expert_picked_with_the_menus(open_: Callable[..., Explorer]) -> None:
    explorer = open_()
    picks = explorer.screen.picks
    assert picks.clear.disabled
    picks.layer.set_state({"index": 31})
    explorer.flush()
    assert framed(explorer.screen.heatmap.figure) == {(30, expert) for expert in range(8)}
    picks.expert.set_state({"index": 3})
    explorer.flush()
    assert framed(explorer.screen.heatmap.figure) == {(30, 2)}
    picks.clear.click()
    explorer.flush()
    assert repr(explorer.selection) == "Selection(nothing)"
    picks.expert.set_state({"index": 5})
    explorer.flush()
    assert framed(explorer.screen.heatmap.figure) == {(0, 4)}
    picks.layer.set_state({"index": 0})
    explorer.flush()
    assert repr(explorer.selection) == "Selection(nothing)"


def test_a_bar_of_the_timeline_picks_its_expert(
    open_: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = open_()
    screen, last = explorer.screen, len(trace.step_rows) - 1
    start, end = (int(trace.steps[name][last]) for name in ("start_ns", "end_ns"))
    explorer.selection.time = (start, start + (end - start) // 8)
    explorer.flush()
    shown = screen.timeline.drawn.segments
    assert screen.timeline.drawn.as_bars
    bars = np.flatnonzero(shown.kind == Segment.RESIDENT + Action.CPU)
    click(screen.timeline.figure.data[BARS + Segment.CPU], point_inds=[1])
    explorer.flush()
    layer, expert = int(shown.layer[bars[1]]), int(shown.expert[bars[1]])
    assert (explorer.selection.layer, explorer.selection.expert) == (layer, expert)
    assert framed(screen.heatmap.figure) == {(layer, expert)}
    frames = np.asarray(screen.timeline.figure.data[-1].x, float).reshape(-1, 6)
    mine = (shown.layer == layer) & (shown.expert == expert)
    assert len(frames) == int(mine.sum()) >= 1
    assert frames[:, 0].tolist() == (shown.start_ns[mine] * 1e-9).tolist()
    click(screen.timeline.figure.data[BARS + Segment.CPU], point_inds=[10**6])  # of an older frame


def test_two_explorers_can_be_linked(open_: Callable[..., Explorer]) -> None:
    one, other = open_(), open_()
    for name in ("token", "layer", "expert"):
        traitlets.link((one.selection, name), (other.selection, name))
    one.selection.pick(layer=7, expert=1)
    other.flush()
    assert framed(other.screen.heatmap.figure) == {(7, 1)}


def test_the_time_in_view_is_a_trait_that_can_be_linked(open_: Callable[..., Explorer]) -> None:
    one, other = open_(), open_()
    traitlets.link((one.selection, "time"), (other.selection, "time"))
    one.screen.timeline.moves["+"].click()
    one.flush()
    other.flush()
    seen = one.screen.timeline.in_view
    assert one.selection.time == other.screen.timeline.in_view == seen
    assert "Selection(" in repr(one.selection) and " to " in repr(one.selection)
    other.selection.time = (1_000, 2_000)
    one.flush()
    assert one.screen.timeline.in_view == (1_000, 2_000)
    menus = [explorer.screen.timeline.span for explorer in (one, other)]
    assert [menu.value for menu in menus] == ["a range"] * 2
    menus[0].value = "whole run"
    assert other.selection.time is None
    assert [menu.value for menu in menus] == ["whole run", "last 8 steps"]
    menus[1].value = "a range"  # stays where it looks
    assert one.selection.time == other.screen.timeline.in_view
    menus[1].value = "last 8 steps"
    assert one.selection.time is None and menus[0].value == "whole run"
    with pytest.raises(traitlets.TraitError, match="start_ns < end_ns"):
        one.selection.time = (5, 5)
    one.selection.time = (10**18, 10**18 + 1)  # long after the run: shown by no view
    assert one.selection.within(one.trace).time is None
    one.flush()
    assert one.selection.time is None and menus[0].value == "whole run"


def test_zoom_to_one_layer_of_one_token(open_: Callable[..., Explorer], trace: Trace) -> None:
    explorer = open_()
    timeline = explorer.screen.timeline
    timeline.span.value = "one layer"
    explorer.selection.pick(token=5, layer=7, expert=None)
    explorer.flush()
    step = int(trace.tokens["step"][5])
    assert timeline.in_view == layer_span(trace, step, 7)
    shown = timeline.drawn
    assert shown.as_bars and set(shown.segments.layer.tolist()) == {7}
    assert sum(shown.times.critical(lane) for lane in Lane) == pytest.approx(1)
    timeline.span.value = "one step"
    explorer.flush()
    assert timeline.in_view == tuple(trace.steps[name][step] for name in ("start_ns", "end_ns"))


def test_a_lane_far_out_picks_the_step_and_the_layer(
    open_: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = open_()
    timeline = explorer.screen.timeline
    timeline.span.value = "whole run"
    explorer.flush()
    assert not timeline.drawn.as_bars
    start, end = layer_span(trace, 9, 4)
    click(timeline.figure.data[0], xs=[(start + end) / 2 * 1e-9], ys=[1])
    of = explorer.selection
    assert (of.token, of.layer, of.expert) == (int(trace.steps["token"][9]), 4, None)
    click(timeline.figure.data[0], xs=[1e9], ys=[1])  # beside the run
    click(timeline.figure.data[0])
    assert of.layer == 4


def test_an_idle_gap_picks_what_ran_meanwhile(open_: Callable[..., Explorer], trace: Trace) -> None:
    explorer = open_()
    timeline = explorer.screen.timeline
    timeline.span.value = "one layer"
    explorer.selection.pick(layer=3)
    explorer.flush()
    explorer.selection.layer = None
    click(timeline.figure.data[GAPS], point_inds=[0])
    assert explorer.selection.layer == 3


def test_the_memory_takes_the_lanes_place_over_the_same_time(
    open_: Callable[..., Explorer], trace: Trace
) -> None:
    explorer = open_()
    timeline = explorer.screen.timeline
    seen = timeline.in_view
    lanes = timeline.children
    timeline.panel.value = "memory"
    explorer.flush()
    assert timeline.figure not in timeline.children
    figure = timeline.memory.figure
    assert figure in timeline.children
    assert tuple(round(edge * 1e9) for edge in figure.layout.xaxis.range) == seen
    assert "GPU memory over time" in timeline.heading.value
    timeline.moves["+"].click()
    explorer.flush()
    assert timeline.in_view == explorer.selection.time != seen
    timeline.panel.value = "lanes"
    explorer.flush()
    assert timeline.children == lanes and timeline.in_view == explorer.selection.time
    explorer.close()
    assert figure.comm is None


def test_nonsense_from_the_browser_is_not_picked(open_: Callable[..., Explorer]) -> None:
    explorer = open_()
    for token in ("1", 2.5, [1], True, 10**9, -5):
        says(explorer, token=token)
        explorer.flush()
        assert explorer.selection.within(explorer.trace).token is None
    explorer.screen.text._handle_custom_msg("pick", [])
    explorer.screen.text._handle_custom_msg({"event": "else", "token": 1}, [])
    assert explorer.selection.within(explorer.trace).token is None


def test_of_several_texts_one_can_be_read(trace: Trace) -> None:
    many = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", requests=3, decode_tokens=4)
    rows = many.token_rows.copy()
    rows[:, (TOKENS.names or ()).index("sequence")] = np.arange(len(rows)) % 3
    explorer = Explorer(replace(many, token_rows=rows))
    try:
        text, menu = explorer.screen.text, explorer.screen.picks.text
        assert menu.layout.display is None and len(menu.options) == 4
        assert all(f"text {number}: " in text.value for number in (1, 2, 3))
        menu.set_state({"index": 2})
        explorer.flush()
        assert explorer.selection.sequence == 1 and "text 2: " in text.value
        assert "text 1: " not in text.value and "text 3: " not in text.value
        assert ' data-t="1"' in text.value and ' data-t="0"' not in text.value
        explorer.selection.sequence = 7  # none of this trace: all
        explorer.flush()
        assert "text 1: " in text.value and menu.value == -1
        explorer.selection.clear()
        explorer.flush()
        assert explorer.selection.sequence is None and explorer.screen.picks.clear.disabled
    finally:
        explorer.close()
    alone = Explorer(trace)
    assert alone.screen.picks.text.layout.display == "none"
    alone.close()
