"""Frames of a run under way: what they carry, when they are sent, and that a drawing follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.residency import Place
from engine.synthetic import synthetic_trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.figures import heatmap_figure
from fiddler_viz.figures.heatmap import FEW_CELLS, TRACES
from fiddler_viz.figures.raster import occupancy
from fiddler_viz.figures.window import Windows
from fiddler_viz.frames import amounts, grid
from fiddler_viz.theme import Segment, Theme, theme
from fiddler_viz.views.addressed import as_addressed, within
from fiddler_viz.views.beat import Beat
from fiddler_viz.views.live_frame import MOST_SEGMENTS, LiveFrame, heatmap_frame, timeline_frame
from fiddler_viz.views.text_view import TextView
from fiddler_viz.views.timeline_view import LAYER, MEMORY
from tests.fiddler_viz.fake_engine import FakeEngine
from tests.fiddler_viz.make_trace import empty_trace
from tests.fiddler_viz.test_explorer import wait_for

LIGHT = theme("light")
TRACE = synthetic_trace("mixtral-8x7b", prompt_tokens=6, decode_tokens=40, cache_slots=8)


def test_a_heatmap_frame_is_the_grid() -> None:
    shown = grid(TRACE)
    frame = heatmap_frame(shown, LIGHT)
    amount, places, ran = frame.buffers[:3]
    assert np.array_equal(np.frombuffer(places, np.uint8).reshape(32, 8), shown.places)
    labels = heatmap_figure(shown, LIGHT).data[0].colorbar.ticktext
    assert frame.content == {"shape": [32, 8], "labels": list(labels)}
    assert np.array_equal(
        np.frombuffer(amount, np.float32).reshape(32, 8),
        shown.amount.astype(np.float32),
        equal_nan=True,
    )
    assert np.array_equal(np.frombuffer(ran, np.int8).reshape(32, 8), shown.ran)
    assert [len(each) for each in frame.buffers[3:]] == [32 * 8]
    marked = heatmap_frame(grid(TRACE, show="hits"), LIGHT).buffers[3:]
    assert [len(each) for each in marked] == [32 * 8, 32 * 8]


@pytest.mark.parametrize("look", [LIGHT, theme("dark")])
def test_marks_of_a_difference_are_inked_as_plotlys(look: Theme) -> None:
    of = synthetic_trace("qwen3-30b-a3b", prompt_tokens=6, decode_tokens=12)
    half = replace(of, routing=of.routing.where(of.routing.step < 4))
    shown = grid(of, show="difference", against=amounts.shares(half))
    assert shown.amount.size > FEW_CELLS
    dark = np.frombuffer(heatmap_frame(shown, look).buffers[3], np.uint8).reshape(shown.shape) == 1
    inks = heatmap_figure(shown, look).data[1:4]
    whites, blacks = ({*zip(*cells(ink), strict=True)} for ink in inks[1:])
    pinned = np.argwhere(shown.places == Place.PINNED)
    of_dark = {(e, r) for r, e in pinned.tolist() if dark[r, e]}
    assert whites == of_dark and blacks, "white on what is dark"
    assert blacks == {(e, r) for r, e in pinned.tolist() if not dark[r, e]}


def cells(dashes: Any) -> tuple[list[int], list[int]]:
    """Columns and rows that a figure's dashes are in."""
    x, y = (np.asarray(each)[::3] for each in (dashes.x, dashes.y))
    return np.round(x + 0.25).astype(int).tolist(), y.astype(int).tolist()


@pytest.mark.parametrize("steps", [1, 8])
def test_a_timeline_frame_holds_what_the_raster_shows(steps: int) -> None:
    start, end = int(TRACE.steps["start_ns"][-steps]), TRACE.duration_ns
    frame = timeline_frame(TRACE, start, end)
    assert frame is not None
    code = np.frombuffer(frame.buffers[0], np.uint8)
    edges = [np.frombuffer(each, np.float32).astype(np.float64) for each in frame.buffers[1:]]
    window = Windows(TRACE).at(start, end, pixels=600)
    shown = window.segments
    assert np.array_equal(code >> 4, shown.lane) and np.array_equal(code & 15, shown.kind)
    ns = [edge * (end - start) + start for edge in edges]
    assert np.allclose(ns[0], shown.start_ns, atol=(end - start) * 1e-6)
    rough = occupancy(
        type(shown)(**{**vars(shown), "start_ns": ns[0], "end_ns": ns[1]}), start, end, 600
    )
    assert np.allclose(rough, window.shares, atol=2e-3)
    assert max(Segment) < 16, "a kind has four bits"
    assert [at for at, _ in frame.content["steps"]] == pytest.approx(
        (window.step_start_ns * 1e-9).tolist()
    )
    assert [label for _, label in frame.content["steps"]] == list(window.step_labels)


def test_what_a_frame_cannot_show_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timeline_frame(empty_trace(), 0, 1) is None
    assert timeline_frame(TRACE, 5, 5) is None
    monkeypatch.setattr("fiddler_viz.views.live_frame.MOST_SEGMENTS", 100)
    assert MOST_SEGMENTS > 100
    assert timeline_frame(TRACE, 0, TRACE.duration_ns) is None


def test_a_frame_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    beat = Beat()
    monkeypatch.setattr(beat, "send", lambda content, buffers: sent.append((content, buffers)))
    a = LiveFrame({"x": 1}, [b"one", b"two"])
    b = LiveFrame({"y": 2}, [b"three"])
    beat.send_frame({"heatmap": a, "timeline": b})
    content, buffers = sent[0]
    assert content == {
        "heatmap": {"x": 1, "buffers": [0, 1]},
        "timeline": {"y": 2, "buffers": [2]},
    }
    assert buffers == [b"one", b"two", b"three"]
    for nonsense in (None, {}, {"shown": "3"}, {"shown": True}, {"shown": None}):
        beat._heard(beat, nonsense, [])
    assert beat.shown == 0
    beat._heard(beat, {"shown": 3}, [])
    assert beat.shown == 3


class Counted:
    """An explorer of an engine under way, and what it sent."""

    def __init__(self) -> None:
        self.engine = FakeEngine(pause_s=0.05)
        self.explorer = Explorer(self.engine)
        self.frames: list[dict[str, Any]] = []
        self.drawn = 0
        self.updates: list[float] = []
        screen = self.explorer.screen
        for figure in (screen.heatmap.figure, screen.timeline.figure):
            figure._send_update_msg = lambda *_: self.updates.append(time.monotonic())
        screen.beat.send = self._sent
        screen.beat.observe(lambda change: screen.beat._heard(None, {"shown": change["new"]}, []))
        self.thread = threading.Thread(
            target=lambda: self.engine.generate("On", 600)
        )  # stopped at the end

    def _sent(self, content: dict[str, Any], _: object) -> None:
        if "drawn" in content:
            self.drawn += 1
        else:
            self.frames.append(content)

    def framed(self, more: int = 3) -> None:
        count = len(self.frames)
        wait_for(lambda: len(self.frames) >= count + more)


@pytest.fixture
def counted() -> Iterator[Counted]:
    made = Counted()
    made.thread.start()
    yield made
    made.engine.stop()
    made.thread.join()
    made.explorer.close()


def test_a_run_under_way_is_shown_in_frames_and_drawn_at_its_end(counted: Counted) -> None:
    counted.framed(5)
    assert {"heatmap", "timeline"} <= set(counted.frames[-1])
    assert len(counted.updates) <= 4, "its figures were drawn as it began, and then no more"
    counted.engine.stop()
    counted.thread.join()
    wait_for(lambda: not counted.explorer.draws_live)
    wait_for(
        lambda: counted.explorer.screen.timeline.drawn.end_ns == counted.explorer.trace.duration_ns
    )
    seen = len(counted.frames)
    time.sleep(0.3)
    assert len(counted.frames) == seen, "nothing goes on"
    cells = counted.explorer.screen.heatmap.figure._data[0]["z"]
    expected = grid(counted.explorer.trace).amount.astype(np.float32).ravel()
    assert np.array_equal(cells, expected, equal_nan=True)


def test_a_change_is_drawn_at_once_between_frames(counted: Counted) -> None:
    counted.framed()
    before = len(counted.updates)
    counted.explorer.apply(gpu_memory="30GB")
    assert len(counted.updates) > before, "what is pinned now"
    assert counted.explorer.plan.gpu_memory == 30_000_000_000
    counted.framed()
    drawn = len(counted.updates)
    counted.explorer.screen.heatmap.show.value = "hits"
    wait_for(lambda: len(counted.updates) > drawn)
    counted.framed()


def test_where_frames_cannot_show_a_run_a_moving_slider_does_not_stop_it(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted.framed()
    monkeypatch.setattr("fiddler_viz.views.live_frame.MOST_SEGMENTS", 0)
    before, seen = len(counted.updates), len(counted.frames)
    for number in range(8):
        counted.explorer._change("gpu_memory", (28 + number % 2) * 10**9)
        time.sleep(0.1)
    assert counted.explorer.draws_live and len(counted.frames) <= seen + 1
    assert len(counted.updates) > before + 2


def test_a_run_goes_on_under_a_slider_that_changes_nothing(counted: Counted) -> None:
    """Plans that are to take effect come before it, but not for ever."""
    counted.framed()
    budget = counted.explorer.plan.gpu_memory
    seen, end = len(counted.frames), time.monotonic() + 1.0
    while time.monotonic() < end:
        counted.explorer._change("gpu_memory", budget)
        time.sleep(0.005)
    assert counted.explorer.draws_live and len(counted.frames) >= seen + 2


def test_the_timeline_s_sentence_is_of_what_frames_show(counted: Counted) -> None:
    counted.framed()
    explorer = counted.explorer
    heading = explorer.screen.timeline.heading
    wait_for(lambda: "wait for the CPU" in heading.value, timeout_s=3.0)
    explorer._change("policy", "stream")
    wait_for(lambda: "wait for copies to the GPU" in heading.value, timeout_s=4.0)
    assert explorer.draws_live, "before the run ends"


def test_marks_by_hand_follow_where_nothing_else_is_pinned(counted: Counted) -> None:
    counted.framed()
    explorer = counted.explorer
    marked = explorer.plan.pinned[0]
    explorer._change("pin", [divmod(marked, explorer.plan.grid[1])])
    wait_for(lambda: explorer.plan.by_hand.pinned == (marked,))

    data = explorer.screen.heatmap.figure._data
    wait_for(lambda: all(len(data[at]["x"]) == 1 for at in TRACES["by_hand"]), timeout_s=3.0)
    assert explorer.draws_live, "before the run ends"


def test_a_closed_explorer_has_nothing_to_draw(counted: Counted) -> None:
    counted.framed()
    counted.explorer.close()
    assert counted.explorer.flush() is False


def test_at_the_end_the_page_hears_of_a_figure_that_stays_as_it_is(counted: Counted) -> None:
    wait_for(lambda: len(counted.explorer.trace.step_rows) > 6)
    steps, timeline = counted.explorer.trace.steps, counted.explorer.screen.timeline
    start, end = int(steps["start_ns"][1]), int(steps["end_ns"][3])
    counted.explorer.selection.time = (start, end)
    wait_for(lambda: (timeline.drawn.start_ns, timeline.drawn.end_ns) == (start, end))
    counted.framed()
    told = counted.drawn
    timeline.figure.change = lambda _: False  # as where nothing of it is new
    counted.engine.stop()
    counted.thread.join()
    wait_for(lambda: not counted.explorer.draws_live)
    wait_for(lambda: counted.drawn == told + 1)


def test_cells_are_not_painted_under_a_note_that_there_are_none() -> None:
    counted = Counted()
    begin, step = threading.Event(), counted.engine._step

    def late(*given: Any) -> None:
        begin.wait(9)
        step(*given)

    counted.engine._step = late  # type: ignore[method-assign]
    figure, text = counted.explorer.screen.heatmap.figure, counted.explorer.screen.text
    counted.thread.start()
    wait_for(lambda: figure._layout["annotations"][0]["visible"])
    wait_for(lambda: text.texts == 0)  # nothing is left of the texts before
    begin.set()
    counted.framed(1)
    assert not figure._layout["annotations"][0]["visible"]
    assert text.texts == 1
    counted.engine.stop()
    counted.thread.join()
    counted.explorer.close()


@pytest.mark.parametrize("how", ["memory", "layer"])
def test_panels_without_frames_are_drawn_as_before(counted: Counted, how: str) -> None:
    timeline = counted.explorer.screen.timeline
    counted.framed()
    if how == "memory":
        timeline.panel.value = MEMORY
    else:
        timeline.span.value = LAYER
    time.sleep(0.3)
    seen, drawn = len(counted.frames), len(counted.updates)
    time.sleep(0.8)
    assert len(counted.frames) == seen and len(counted.updates) > drawn


def test_progress_waits_for_a_plan_that_was_asked_for(counted: Counted) -> None:
    counted.framed()
    explorer = counted.explorer
    with explorer._pump.paused():
        drawing = explorer._drawing
        drawing.asked_s = drawing.framed_s = time.monotonic() + 9  # just now, for a while
        steps, sent = counted.engine.recorder.step_count, len(counted.frames)
        wait_for(lambda: counted.engine.recorder.step_count > steps)
        assert not drawing.draw_frame(), "there is progress, and the plan is not in force"
        assert len(counted.frames) == sent and explorer._pump.soon
        wait_for(lambda: counted.engine.recorder.step_count > steps + 1)
        explorer.screen.took_effect = lambda _: True
        assert drawing.draw_frame()
        assert len(counted.frames) == sent + 1
        del explorer.screen.took_effect
        drawing.framed_s = 0.0  # long ago: where a plan pins as before, progress goes on
        wait_for(lambda: counted.engine.recorder.step_count > steps + 2)
        assert drawing.draw_frame()
        drawing.asked_s = 0.0


def test_a_glance_leaves_the_rest_to_a_whole_look(counted: Counted) -> None:
    counted.framed()
    with counted.explorer._pump.paused():
        session = counted.explorer._session
        session.advance()
        view = session.view
        wait_for(lambda: session.glance() is not None)
        assert session.view is view, "only taken in"
        session.change("cache_slots", 2)
        assert session.glance() is None, "a plan is asked for"
        session.advance()
        wait_for(lambda: session.glance() is not None)
        counted.engine.replan(gpu_memory="26GB")
        assert session.glance() is None, "somebody else gave the engine another plan"
        assert session.advance()
        assert session.view.plan.gpu_memory == 26_000_000_000


def test_messages_are_handled_where_they_were_sent() -> None:
    explorer = Explorer(TRACE)
    slider = explorer.screen.controls.memory
    assert slider in list(within(explorer))
    slider.comm._reply_subshell_for = lambda data, subshell: None  # as ipykernel 7.4: the main one
    as_addressed(explorer)
    assert slider.comm._reply_subshell_for({}, "one") == "one"
    assert slider.comm._reply_subshell_for({}, None) is None
    explorer.close()
    as_addressed(slider)  # closed: nothing to mend


def test_a_text_frame_adds_the_tokens_after_the_last_drawing() -> None:
    text = TextView(100)
    assert text.frame(TRACE) is None, "nothing was drawn yet"
    part = replace(TRACE, texts=tuple(f"t{at}" for at in range(len(TRACE.token_rows))))
    text.show(part, None, live=True)
    assert text.frame(part) is None, "all of it was drawn"
    more = replace(part, texts=(*part.texts, " a<b", "end\n"))
    frame = text.frame(more)
    assert frame is not None
    assert frame.content["cells"] == [" a<b", "end↵\n"], "the page escapes, and breaks the line"
    text.texts = 2
    assert text.frame(more) is None, "of several texts only a drawing can tell which"


def test_a_search_of_many_beams_is_read_by_a_drawing_only() -> None:
    table = TRACE.token_rows.copy()
    table[1::2, 2] = 1  # every other row is of a second beam, continued from the first
    table[2:, 5] = np.arange(len(table) - 2)
    beams = replace(TRACE, token_rows=table, texts=tuple(f"t{at}" for at in range(len(table))))
    text = TextView(100)
    text.show(beams, None, live=True)
    assert text.texts == 1, "the leading beam's"
    assert text.frame(replace(beams, texts=(*beams.texts, "more"))) is None


def test_an_empty_run_forgets_the_rows_of_the_one_before() -> None:
    text, part = TextView(100), replace(TRACE, texts=("t",) * len(TRACE.token_rows))
    text.show(part, None)
    text.show(empty_trace(), None, live=True)
    longer = replace(part, texts=("t",) * (len(TRACE.token_rows) + 2))
    assert text.frame(longer) is None, "not without its beginning"


def test_many_cells_come_as_a_frame_before_their_figure() -> None:
    explorer = Explorer(synthetic_trace("qwen3-30b-a3b", gpu_memory="30%", decode_tokens=450))
    try:
        explorer.flush()
        heatmap, dashes = explorer.screen.heatmap.figure, TRACES["places"][int(Place.PINNED)]
        sent: list[tuple[str, bool]] = []
        explorer.screen.beat.send = lambda content, _: sent.append(
            ("drawn" if "drawn" in content else "frame", explorer.screen.behind)
        )
        changed: list[float] = []
        heatmap._send_update_msg = lambda *_: changed.append(time.monotonic())
        explorer._change("gpu_memory", "45%")
        wait_for(lambda: [what for what, _ in sent] == ["frame"])
        wait_for(lambda: [what for what, _ in sent] == ["frame", "drawn"])
        assert len(changed) == 1, "the figure, once"
        assert not explorer.screen.behind
        ends = 3 * len(explorer.plan.pinned)  # a dash of two ends and a gap each
        assert sum(len(heatmap._data[at]["x"]) for at in dashes) == ends
        explorer.apply(gpu_memory="35%")
        explorer.flush()  # the first one draws what a slider is watched for
        ends = 3 * len(explorer.plan.pinned)
        assert sum(len(heatmap._data[at]["x"]) for at in dashes) == ends, (
            "nothing is left for later"
        )
    finally:
        explorer.close()
