from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from engine.errors import InputError, TraceError, UnknownNameError
from engine.events import Action, Clock, Lane
from engine.replay import replay
from engine.residency import Place
from engine.spec import ModelSpec
from engine.trace import Trace
from fiddler_viz import figures, frames
from fiddler_viz.figures.heatmap import FEW_CELLS, heatmap_figure, update_heatmap
from fiddler_viz.figures.heatmap_words import MODES, scale
from fiddler_viz.figures.memory import labels, memory_html, parts
from fiddler_viz.figures.outline import cell_dashes, cell_outlines
from fiddler_viz.figures.raster import occupancy, paint, png
from fiddler_viz.figures.timeline import GAPS, LINE, timeline_figure, update_timeline
from fiddler_viz.figures.timeline_words import WAITED_FOR
from fiddler_viz.figures.window import BARS_UP_TO, Windows, window
from fiddler_viz.theme import BLUE, MEMORY, SEGMENTS, VERMILLION, Segment, percent, theme
from fiddler_viz.views.legend import HeatmapLegend
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace

PLAIN = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(policy="lru", cache_slots=3)


@pytest.fixture(scope="module")
def long() -> Trace:
    """More segments than bars are drawn for."""
    return toy_trace(decode_tokens=60, model=toy_model(layers=8, experts=8))


# --------------------------------------------------------------------------------------- sources


def test_every_kind_of_source(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "run.safetensors")
    run = SimpleNamespace(trace=trace)
    engine = SimpleNamespace(last_run=run)
    for source in (trace, run, engine):
        assert figures.as_trace(source) is trace
    for source in (path, str(path)):
        assert len(figures.as_trace(source).work_rows) == len(trace.work_rows)


def test_an_engine_that_has_not_run_shows_its_plan(trace: Trace) -> None:
    engine = SimpleNamespace(last_run=None, model_spec=trace.model, plan=trace.plan)
    figure = figures.heatmap(engine)
    assert figure.layout.annotations[0].visible
    assert "nothing recorded yet" in figure.layout.annotations[0].text
    assert figures.memory(engine).data[3].x[0] == len(trace.plan.pinned) * trace.plan.expert_bytes


@pytest.mark.parametrize("source", [None, 3, ["a"], {"trace": 1}, "missing.safetensors", Path(".")])
def test_other_sources_are_refused_with_what_is_accepted(source: object) -> None:
    with pytest.raises(InputError, match=r"anything with \.trace.*path of a trace file"):
        figures.heatmap(source)


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"' is a folder: expected a Trace.* Give the file in it"):
        figures.as_trace(tmp_path)


def test_a_file_that_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("not a trace")
    with pytest.raises(TraceError):
        figures.timeline(path)


def test_bad_arguments(trace: Trace) -> None:
    with pytest.raises(UnknownNameError, match="light, dark, auto"):
        figures.memory(trace, theme="blue")
    with pytest.raises(InputError, match="step 99"):
        figures.timeline(trace, step=99)
    with pytest.raises(InputError, match="token 99"):
        figures.heatmap(trace, show="token", token=99)


# --------------------------------------------------------------------------------------- heatmap


def cell_of(figure: go.Figure, layer: int, expert: int) -> int:
    cells = figure.data[0]
    (index,) = np.flatnonzero((np.array(cells.y) == layer) & (np.array(cells.x) == expert))
    return int(index)


@pytest.mark.parametrize("show", frames.SHOWS)
def test_heatmap_draws_its_grid(trace: Trace, show: str) -> None:
    grid = frames.grid(trace, show=show)
    figure = heatmap_figure(grid)
    for cell in np.ndindex(*grid.shape):
        z = figure.data[0].z[cell_of(figure, *cell)]
        np.testing.assert_equal(z, grid.amount[cell])
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1 if show == "difference" else 0, 1)
    assert list(figure.layout.yaxis.range) == [2.5, -0.5]  # layer 0 on top


def test_what_ran_is_marked_by_symbol_and_colour(trace: Trace) -> None:
    grid = frames.grid(trace, show="token", token=9)
    figure = heatmap_figure(grid)
    symbols, colors = set(), set()
    for action in Action:
        marks = figure.data[7 + action]
        symbols.add(marks.marker.symbol)
        colors.add(marks.marker.color)
        where = {(int(y), int(x)) for x, y in zip(marks.x, marks.y, strict=True)}
        assert where == {tuple(cell) for cell in np.argwhere(grid.ran == action).tolist()}
    assert len(symbols) == len(colors) == len(Action)


def test_pinned_cells_are_outlined_and_cached_ones_ringed(trace: Trace) -> None:
    grid = frames.grid(trace)
    figure = heatmap_figure(grid)
    drawn = {
        (round(float(np.mean(ys[:4]))), round(float(np.mean(xs[:4]))))
        for index in (1, 3)
        for xs, ys in zip(
            np.array(figure.data[index].x).reshape(-1, 6),
            np.array(figure.data[index].y).reshape(-1, 6),
            strict=True,
        )
    }
    assert drawn == {tuple(c) for c in np.argwhere(grid.places == Place.PINNED).tolist()}
    ringed = {
        (int(y), int(x))
        for index in (4, 6)
        for x, y in zip(figure.data[index].x, figure.data[index].y, strict=True)
    }
    assert ringed == {tuple(c) for c in np.argwhere(grid.places == Place.CACHED).tolist()}


def test_marks_get_smaller_where_cells_do() -> None:
    big = toy_trace(model=toy_model(layers=48, experts=128, top_k=8), decode_tokens=2)
    assert big.model.experts_total > FEW_CELLS
    grid = frames.grid(big, show="token")
    figure = heatmap_figure(grid, width=600, height=380)
    assert figure.data[7].marker.size <= 5
    assert len(figure.layout.xaxis.title.text) and figure.layout.xaxis.dtick == 8
    dashes = sum(np.isnan(np.array(figure.data[i].x)).sum() for i in (1, 2, 3))
    assert dashes == (grid.places == Place.PINNED).sum()


def test_outlines_lift_the_pen_between_cells() -> None:
    chosen = np.zeros((2, 3), np.bool_)
    chosen[1, 2] = chosen[0, 0] = True
    x, y = cell_outlines(chosen, inset=0.25)
    assert x[:5].tolist() == [-0.25, 0.25, 0.25, -0.25, -0.25]
    assert y[6:11].tolist() == [0.75, 0.75, 1.25, 1.25, 0.75]
    assert np.isnan([x[5], y[5], x[11], y[11]]).all()
    x, y = cell_dashes(chosen)
    assert x[3:5].tolist() == [1.75, 2.25] and y[3:5].tolist() == [1, 1]


def test_updating_in_place_equals_building_anew(trace: Trace) -> None:
    first, then = frames.grid(trace), frames.grid(trace, show="token", token=7)
    changed = heatmap_figure(first, "dark")
    update_heatmap(changed, then, "dark")
    assert changed.to_json() == heatmap_figure(then, "dark").to_json()


def test_hover_texts_can_wait(trace: Trace) -> None:
    figure = heatmap_figure(frames.grid(trace))
    before = figure.data[0].text
    update_heatmap(figure, frames.grid(trace, show="token"), hover=False)
    assert figure.data[0].text == before
    assert "text" not in figure.data[0].hovertemplate, "old ones are not shown"
    update_heatmap(figure, frames.grid(trace))
    assert "%{text}" in figure.data[0].hovertemplate
    text = before[cell_of(figure, 0, 0)]
    assert "token" in text and "calls:" in text


def test_a_widget_is_updated_in_one_message(trace: Trace) -> None:
    sent = []

    class Counting(go.FigureWidget):
        def _send_update_msg(self, *args: object, **kwargs: object) -> None:
            sent.append(args)

        def _send_restyle_msg(self, *args: object, **kwargs: object) -> None:
            sent.append(args)

        def _send_relayout_msg(self, *args: object, **kwargs: object) -> None:
            sent.append(args)

    heat = Counting(heatmap_figure(frames.grid(trace)))
    time = Counting(timeline_figure(window(trace)))
    bar = Counting(figures.memory(trace))
    sent.clear()
    update_heatmap(heat, frames.grid(trace, show="token"))
    assert len(sent) == 1
    update_timeline(time, window(trace, step=2))
    assert len(sent) == 2
    figures.update_memory(bar, frames.memory_of(trace, 0))
    assert len(sent) == 3


# -------------------------------------------------------------------------------------- timeline


def slow_occupancy(found: frames.Segments, start_ns: int, end_ns: int, pixels: int) -> np.ndarray:
    shares = np.zeros((len(Lane), len(Segment), pixels))
    width = (end_ns - start_ns) / pixels
    for i in range(len(found)):
        for pixel in range(pixels):
            left, right = start_ns + pixel * width, start_ns + (pixel + 1) * width
            inside = min(right, found.end_ns[i]) - max(left, found.start_ns[i])
            shares[found.lane[i], found.kind[i], pixel] += max(0.0, inside) / width
    return shares


@pytest.mark.parametrize("part", [(0, 1), (0.2, 0.7), (0.301, 0.302), (-0.5, 1.5)])
def test_raster_is_exact(trace: Trace, part: tuple[float, float]) -> None:
    start, end = (round(share * trace.duration_ns) for share in part)
    found = frames.segments(trace.work)
    np.testing.assert_allclose(
        occupancy(found, start, end, 37), slow_occupancy(found, start, end, 37), atol=1e-9
    )


def test_raster_of_random_segments_is_exact() -> None:
    rng = np.random.default_rng(0)
    n = 200
    start = rng.integers(0, 10_000, n)
    found = frames.Segments(
        lane=rng.integers(0, 4, n),
        kind=rng.integers(0, 6, n),
        start_ns=start,
        end_ns=start + rng.integers(0, 40, n),
        step=np.zeros(n, np.int64),
        layer=np.zeros(n, np.int64),
        expert=np.zeros(n, np.int64),
        tokens=np.zeros(n, np.int64),
        critical=np.zeros(n, np.bool_),
    )
    # Made-up segments overlap, which real ones of one lane and kind do not: compare below 1.
    slow = slow_occupancy(found, 500, 9_500, 113).clip(max=1)
    np.testing.assert_allclose(occupancy(found, 500, 9_500, 113), slow, atol=1e-9)


def test_busy_shares_are_those_of_the_summary(long: Trace) -> None:
    view = window(long)
    for lane in Lane:
        assert view.busy(lane) == pytest.approx(long.summary.busy[lane.name.lower()], abs=1e-9)


def test_paint_shows_what_is_busy_and_stacks_it() -> None:
    shares = np.zeros((len(Lane), len(Segment), 3))
    shares[0, Segment.DENSE, 0], shares[0, Segment.RESIDENT, 0] = 0.5, 0.25
    shares[1, Segment.CPU, 1] = 1
    shares[2, Segment.ACTIVATIONS, 2] = 1e-4  # next to nothing, but not nothing
    picture = paint(shares, lane_pixels=40, gap_pixels=10).reshape(len(Lane), 50, 3)
    kinds = (picture.astype(int) - 1) % len(Segment)
    idle = picture == 1 + 2 * len(Segment)
    kinds[(picture == 0) | idle] = -1
    assert (kinds[0, :, 0] == Segment.DENSE).sum() == 20
    assert (kinds[0, :, 0] == Segment.RESIDENT).sum() == 10
    assert kinds[0, 44, 0] == Segment.DENSE  # at the lane's bottom
    assert (kinds[1, :, 1] == Segment.CPU).sum() == 40
    assert (kinds[2, :, 2] == Segment.ACTIVATIONS).sum() == 2
    assert idle[3, 5:45].any() and (idle | (picture == 0))[3].all()
    assert not idle[1, :, 1].any()  # busy all the time
    assert (picture[:, [*range(5), *range(45, 50)]] == 0).all()  # gaps


def test_paint_draws_the_path_under_its_lane() -> None:
    shares, path = np.zeros((len(Lane), len(Segment), 4)), np.zeros((len(Lane), 4))
    path[1] = [0, 0.1, 0.5, 1]
    picture = paint(shares, path, lane_pixels=40, gap_pixels=10).reshape(len(Lane), 50, 4)
    first = 1 + 2 * len(Segment)
    assert picture[1, 45:49].tolist() == [[0, first + 1, first + 2, first + 4]] * 4
    assert (picture[[0, 2, 3], 45:] == 0).all() and (picture[1, 49] == 0).all()


def test_png_holds_the_picture() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = png(picture, [(i, i, i) for i in range(12)])
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(image):
        (size,) = struct.unpack(">I", image[at : at + 4])
        name, content = image[at + 4 : at + 8], image[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", image[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(name + content)
        chunks[name], at = content, at + 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (4, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (rows[:, 0] == 2).all(), "each row less the one above"
    assert (np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8) == picture).all()


def test_few_segments_are_bars(trace: Trace) -> None:
    view = window(trace, step=1)
    assert view.as_bars
    figure = timeline_figure(view)
    bars = figure.data[3 : 3 + len(Segment)]
    assert sum(len(bar.x) for bar in bars) == len(view.segments)
    for segment, bar in zip(Segment, bars, strict=True):
        mine = view.segments.kind == segment
        assert len(bar.x) == mine.sum()
        if not mine.any():
            continue
        np.testing.assert_allclose(np.array(bar.base, float), view.segments.start_ns[mine] * 1e-9)
        np.testing.assert_allclose(
            bar.x, (view.segments.end_ns - view.segments.start_ns)[mine] * 1e-9
        )
        assert list(bar.y) == view.segments.lane[mine].tolist()
        assert bar.marker.pattern.shape == SEGMENTS[segment].pattern
    assert figure.layout.images[0].visible is False


def test_idle_gaps_are_hatched_and_the_path_is_a_line(trace: Trace) -> None:
    view = window(trace, step=1)
    figure = timeline_figure(view)
    gaps, line = figure.data[GAPS], figure.data[LINE]
    assert len(gaps.x) == len(view.gaps) > 0
    spent = np.bincount(gaps.y, gaps.x, len(Lane)) * 1e9 / (view.end_ns - view.start_ns)
    for lane in Lane:
        assert spent[lane] == pytest.approx(1 - view.busy(lane), abs=1e-6)
    assert "meanwhile all wait for " in gaps.hovertext[0]
    x, y = (np.asarray(values, float).reshape(-1, 3) for values in (line.x, line.y))
    assert len(x) == view.segments.critical.sum()
    assert x[0, 0] == pytest.approx(view.start_ns * 1e-9)
    assert x[-1, 1] == pytest.approx(view.end_ns * 1e-9)
    np.testing.assert_allclose(x[1:, 0], x[:-1, 1])  # one after the other
    assert sum(view.times.critical(lane) for lane in Lane) == pytest.approx(1)
    assert set(np.unique(y)) <= {lane + 0.45 for lane in Lane}


def test_what_holds_a_run_up_is_said(trace: Trace) -> None:
    view = window(trace)
    lane = view.times.bottleneck
    assert lane is not None
    said = f"{percent(view.times.critical(lane))} of the time all wait for {WAITED_FOR[lane]}"
    assert said in timeline_figure(view).layout.title.text
    words = figures.describe_timeline(view)
    assert "The critical path (what everyone waits for): " in words
    assert f"Overlap achieved: {percent(view.times.overlap)} of what is possible" in words
    assert f"Idle: GPU {percent(view.times.idle(Lane.GPU))}" in words
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    assert "estimated by end times" in figures.describe_timeline(
        window(replace(trace, step_rows=rows))
    )


def test_a_large_window_is_what_adding_up_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trace sorted once, and of one that grows."""
    trace = toy_trace(decode_tokens=40, policy="lru", cache_slots=4)
    times = [(0, trace.duration_ns), (trace.duration_ns // 3, trace.duration_ns // 2), (7, 10**12)]
    usual = [Windows(trace).at(*each, pixels=90) for each in times]
    monkeypatch.setitem(Windows.at.__globals__, "LARGE_LAYERS", 0)
    large = Windows(trace)
    for plain, each in zip(usual, times, strict=True):
        fast = large.at(*each, pixels=90)
        assert (fast.pieces, fast.times) == (plain.pieces, plain.times)
        assert (fast.step_labels, len(fast.segments)) == (plain.step_labels, 0)
        np.testing.assert_allclose(fast.shares, plain.shares, atol=1e-9)
        np.testing.assert_allclose(fast.path_shares, plain.path_shares, atol=1e-9)
    for view in (
        Windows(trace, growing=True).at(*times[0]),
        Windows(trace).at(*times[0], quick=True),
    ):
        assert view.times.bottleneck is None and view.times.busy_ns == usual[0].times.busy_ns


def test_many_segments_are_a_raster(long: Trace) -> None:
    view = window(long)
    assert len(view.segments) > BARS_UP_TO
    figure = timeline_figure(view)
    assert all(len(bar.x) == 0 for bar in figure.data[3 : 3 + len(Segment)])
    image = figure.layout.images[0]
    assert image.visible and image.source.startswith("data:image/png;base64,")
    assert (image.x, image.sizex) == (0, pytest.approx(long.duration_ns * 1e-9))
    assert np.shape(figure.data[0].z) == (len(Lane), 240)


def test_bars_and_raster_replace_each_other(long: Trace) -> None:
    whole, step = window(long), window(long, step=3)
    figure = timeline_figure(whole)
    update_timeline(figure, step)
    fresh = timeline_figure(step)
    for name in ("data", "layout"):
        changed, built = (json.loads(f.to_json())[name] for f in (figure, fresh))
        if name == "data":  # the hover raster keeps where it was: it is not drawn
            changed, built = changed[1:], built[1:]
        else:
            changed.pop("images"), built.pop("images")
        assert changed == built
    assert figure.layout.images[0].visible is False and figure.data[0].z is None
    update_timeline(figure, whole)
    assert figure.layout.images[0].visible
    assert all(len(bar.x) == 0 for bar in figure.data[3 : 3 + len(Segment)])


def test_the_reader_s_range_is_kept(trace: Trace) -> None:
    figure = timeline_figure(window(trace))
    before = figure.layout.xaxis.range
    update_timeline(figure, window(trace, step=1), move=False)
    assert figure.layout.xaxis.range == before


def test_the_clock_is_named(trace: Trace) -> None:
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    for shown, clock in ((trace, "modelled clock"), (replace(trace, step_rows=rows), "measured")):
        assert clock in figures.timeline(shown).layout.title.text
        assert clock in figures.describe_timeline(window(shown))


def test_steps_are_labelled_where_there_is_room(trace: Trace, long: Trace) -> None:
    assert window(trace).step_labels[0] == "prefill, 5 tokens"
    assert window(trace, step=1).step_labels == ("“$x$”",)
    assert window(long).step_labels == ()
    rows = trace.step_rows.copy()
    rows[1, 3] = 2  # sequences
    both = replace(trace, step_rows=rows)
    assert window(both, step=1).step_labels == ("step 1",), "none of several texts stands for it"


# ---------------------------------------------------------------------------------------- memory


def test_memory_bar_adds_up_to_the_budget(trace: Trace) -> None:
    memory = frames.memory_of(trace)
    figure = figures.memory(trace)
    assert [bar.x[0] for bar in figure.data] == list(parts(memory).values())
    assert sum(bar.x[0] for bar in figure.data) == memory.budget == figure.layout.xaxis.range[1]
    assert len(figure.data) == len(MEMORY)


def test_labels_inside_only_where_they_fit(trace: Trace) -> None:
    figure = figures.memory(trace)
    budget = figure.layout.xaxis.range[1]
    for bar in figure.data:
        assert (bar.text[0] == "") == (bar.x[0] / budget < 0.02)
    names = labels(frames.memory_of(trace), trace.plan.expert_bytes)
    assert [bar.name for bar in figure.data] == list(names.values())
    assert "(3 experts)" in names["cached"]


def test_memory_as_html_says_the_same(trace: Trace) -> None:
    memory = frames.memory_of(trace)
    shown = memory_html(memory, "dark", expert_bytes=trace.plan.expert_bytes)
    for label in labels(memory, trace.plan.expert_bytes).values():
        assert label in shown
    assert "<script" not in shown and len(shown) < 4000


def test_memory_beyond_the_card_says_so(trace: Trace) -> None:
    """The plan of the step shown, not of the last one."""
    last = len(trace.step_rows) - 1
    assert "more than" not in figures.memory(trace).layout.title.text
    bigger = replace(trace.plan, gpu_memory=trace.plan.gpu_memory + 1, card_bytes=5_000_000_000)
    steps = trace.step_rows.copy()
    steps[last, 6] = 1
    replanned = replace(trace, plan_list=(*trace.plan_list, (last, bigger)), step_rows=steps)
    assert "(more than the card's 5.00 GB) used" in figures.memory(replanned).layout.title.text
    assert "more than" not in figures.memory(replanned, step=0).layout.title.text
    words = figures.describe_memory(frames.memory_of(replanned), figures.room_of(replanned))
    assert "more than the card's 5.00 GB" in words


def test_memory_of_a_run_without_a_gpu_is_the_host_s(trace: Trace) -> None:
    steps = trace.step_rows.copy()
    steps[:, -1] = Clock.MEASURED
    host = replace(trace, step_rows=steps, meta={"device": "host"})
    title = figures.memory(host).layout.title.text
    assert "Host memory" in title and "no GPU is used" in title and "GPU memory" not in title
    assert figures.room_of(replace(host, meta={"device": "cuda"})).name == "GPU memory"
    assert figures.room_of(replace(host, step_rows=trace.step_rows)).name == "GPU memory", "what if"
    engine = SimpleNamespace(
        last_run=None, model_spec=trace.model, plan=trace.plan, device=SimpleNamespace(name="host")
    )
    assert "Host memory" in figures.memory(engine).layout.title.text


# ----------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
@pytest.mark.parametrize("draw", [figures.heatmap, figures.timeline, figures.memory])
def test_figures_are_plain_and_valid(trace: Trace, draw: object, theme: str) -> None:
    figure = draw(trace, theme=theme, width=600, height=380)  # type: ignore[operator]
    assert type(figure) is go.Figure
    assert (figure.layout.width, figure.layout.height) == (600, 380)
    json.loads(figure.to_json())


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("draw", [figures.heatmap, figures.timeline, figures.memory])
def test_nothing_and_one_step_can_be_drawn(draw: object, steps: int) -> None:
    trace = toy_trace(decode_tokens=0) if steps else empty_trace()
    figure = draw(trace)  # type: ignore[operator]
    notes = [note for note in figure.layout.annotations if note.visible]
    assert len(notes) == (0 if steps or draw is figures.memory else 1)
    assert all(note.text == "nothing recorded yet" for note in notes)


def test_words_for_nothing() -> None:
    trace = empty_trace()
    assert figures.describe_timeline(window(trace)) == "Nothing recorded yet."
    words = figures.describe_heatmap(frames.grid(trace))
    assert words.startswith("Nothing recorded yet. Of 12 experts, 6 are pinned")


def test_words_say_what_figures_show(trace: Trace) -> None:
    grid = frames.grid(trace)
    words = figures.describe_heatmap(grid)
    assert "Whole run, 11 tokens" in words and "3 cached" in words
    layer, expert = np.argwhere(grid.tokens == grid.tokens.max())[0]
    assert f"layer {layer}, expert {expert}" in words
    memory = figures.describe_memory(frames.memory_of(trace), expert_bytes=trace.plan.expert_bytes)
    assert "cached 1.06 GB (3 experts)" in memory
    assert "h2d" in figures.describe_timeline(window(trace))


def test_hostile_tokens_stay_text() -> None:
    trace = toy_trace(decode_tokens=10)
    row = trace.texts.index(HOSTILE, 5)  # a generated one
    title = figures.heatmap(trace, show="token", token=row).layout.title.text
    assert "&lt;/script&gt;" in title and "<script" not in title
    labels_shown = timeline_figure(window(trace, step=int(trace.tokens["step"][row]))).data[2].text
    assert "&lt;" in labels_shown[0] and "<" not in labels_shown[0]
    named = replace(trace.model, name=HOSTILE)
    assert "<script" not in figures.heatmap(replace(trace, model=named)).to_json()


def test_drawing_needs_neither_torch_nor_pandas(tmp_path: Path) -> None:
    path = toy_trace(model=ModelSpec.preset("mixtral-8x7b")).save(tmp_path / "run.safetensors")
    code = f"""
import sys
from fiddler_viz import figures
for draw in (figures.heatmap, figures.timeline, figures.memory):
    draw({str(path)!r}).to_json()
print([name for name in ("torch", "pandas", "transformers", "ipywidgets") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PLAIN, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


# ---------------------------------------------------------------------- colours of the heatmap


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("show", frames.SHOWS)
def test_every_colour_says_what_it_is(trace: Trace, show: str, look: str) -> None:
    figure = figures.heatmap(trace, show=show, theme=look)
    mode, bar = MODES[show], figure.data[0].colorbar
    assert bar.title.text == mode.unit
    assert len(bar.ticktext) == len(bar.tickvals) == 5
    assert (min(bar.tickvals), max(bar.tickvals)) == (figure.data[0].zmin, figure.data[0].zmax)
    assert mode.title in figure.layout.title.text and mode.look_for[:20] in figure.layout.title.text
    words = [trace.name for trace in figure.data if trace.showlegend is None]
    assert (mode.dots in words) is bool(mode.dots)
    assert ("on CPU" in words) is mode.runs
    said = figures.describe_heatmap(frames.grid(trace, show=show))
    assert "Expert calls:" in said and "nan" not in said
    assert "nan" not in "".join(figure.data[0].text)


def test_a_time_s_scale_has_one_unit() -> None:
    grid = frames.grid(toy_trace(), show="time")
    _, labels = scale(grid)
    assert labels[0] == "0" and len({label.split()[1] for label in labels[1:]}) == 1


def test_a_difference_s_scale_is_alike_on_both_sides(trace: Trace) -> None:
    other = toy_trace(prompt_tokens=9, decode_tokens=3)
    figure = figures.heatmap(trace, against=other)
    values, labels = figure.data[0].colorbar.tickvals, figure.data[0].colorbar.ticktext
    assert values == (-1, -0.5, 0, 0.5, 1) and labels[2] == "0"
    assert labels[0] == labels[4].replace("+", "\N{MINUS SIGN}")
    colors = [color for _, color in figure.data[0].colorscale]
    assert colors[0] == BLUE and colors[2] == VERMILLION
    assert "a recorded run" in figure.layout.title.text
    same = figures.heatmap(trace, show="difference", against=trace.plan.profile)
    assert same.to_json() == figures.heatmap(trace, show="difference").to_json()
    with pytest.raises(InputError, match="against= is for show='difference'"):
        figures.heatmap(trace, show="hits", against=other)
    with pytest.raises(InputError, match="expected a Trace"):
        figures.heatmap(trace, against=3)


def test_a_hostile_prompt_stays_text(trace: Trace) -> None:
    other = replace(trace, meta={"prompt": HOSTILE})
    assert "<script" not in figures.heatmap(trace, against=other).to_json()


@pytest.mark.parametrize("layers", [3, 48])
def test_edits_by_hand_have_marks_and_words(layers: int) -> None:
    experts = 4 if layers == 3 else 128
    made = toy_trace(model=toy_model(layers=layers, experts=experts), decode_tokens=2)
    grid = frames.grid(replay(made, pin=[(1, 0), (2, 3)], unpin=(0, 1)).trace)
    figure = heatmap_figure(grid)
    for marks in figure.data[11:13]:
        assert [round(x) for x in marks.x] == [0, 3, 1] and list(marks.y) == [1, 2, 0]
        assert marks.marker.symbol == ("cross-thin-open", "cross-thin-open", "line-ne-open")
    names = [trace.name for trace in figure.data]
    assert "pinned by hand" in names and "unpinned by hand" in names
    assert "(2 pinned and 1 unpinned by hand)" in figures.describe_heatmap(grid)
    assert "by hand" in figure.data[0].text[experts]
    assert "unpinned by hand" in figure.data[0].text[1]
    plain = heatmap_figure(frames.grid(made))
    assert "pinned by hand" not in [trace.name for trace in plain.data]
    update_heatmap(plain, grid)
    assert plain.data[12].marker.symbol == figure.data[12].marker.symbol


def test_dots_show_in_cells_of_any_size() -> None:
    for model in (toy_model(), toy_model(layers=48, experts=128, top_k=8)):
        grid = frames.grid(toy_trace(model=model, policy="lru", cache_slots=3), show="hits")
        dots = heatmap_figure(grid).data[10]
        where = {(round(y), round(x)) for x, y in zip(dots.x, dots.y, strict=True)}
        assert where == {tuple(cell) for cell in np.argwhere(grid.coloured.dots).tolist()}
        assert dots.marker.size >= 3
        dark = grid.amount[grid.coloured.dots] < 0.5
        assert list(dots.marker.color) == ["#fff" if is_dark else "#000" for is_dark in dark]


def test_what_was_never_called_is_hatched_and_named() -> None:
    made = toy_trace(prompt_tokens=1, decode_tokens=1)
    for show, named in (("time", True), ("hits", True), ("popularity", False)):
        figure = heatmap_figure(frames.grid(made, show=show))
        image = figure.layout.images[0]
        assert image.visible is named
        blank = int(np.isnan(frames.grid(made, show=show).amount).sum())
        assert (image.source or "").count("%3Crect") == (blank if named else 0)
        assert ("never called" in [trace.name for trace in figure.data]) is named
        entries = HeatmapLegend(theme("light"), 12)
        entries.show(MODES[show], [], blank=True)
        assert ("never called" in entries.value) is named
        entries.show(MODES[show], [], blank=False)
        assert "never called" not in entries.value


# ---------------------------------------------------------------- what callers give that is none

DRAWN: dict[str, Callable[..., go.Figure]] = {
    "heatmap": figures.heatmap,
    "timeline": figures.timeline,
    "memory": figures.memory,
    "inspect": figures.inspect,
    "memory_over_time": figures.memory_over_time,
    "crossover": figures.crossover,
    "routing_flow": figures.routing_flow,
    "policy_lab": partial(figures.policy_lab, policies="lru"),
    "budget_speeds": partial(figures.budget_speeds, policies="lru"),
    "hit_rates": partial(figures.hit_rates, policies="lru"),
    "plans": lambda trace, **sizes: figures.plans(trace, b={"policy": "cpu"}, **sizes),
    "scenarios": lambda trace, **sizes: figures.scenarios({"a": trace, "b": trace}, **sizes),
    "difference": lambda trace, **sizes: figures.specialisation({"a": trace, "b": trace}, **sizes),
    "domains": lambda trace, **sizes: figures.specialisation(
        {"a": trace, "b": trace}, show="domains", **sizes
    ),
}
"""Every function that draws a figure of some size."""


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_sizes_are_whole_numbers_of_pixels(
    trace: Trace, draw: Callable[..., go.Figure], side: str
) -> None:
    for size in (700, np.int64(700), np.array(700)):
        assert draw(trace, **{side: size}).layout[side] == 700
    if side == "width" or draw is not DRAWN["plans"]:
        assert draw(trace, **{side: 10}).layout[side] == 10
    else:
        with pytest.raises(InputError, match=r"their table take at least \d+, got 10"):
            draw(trace, height=10)
    wrong: list[Any] = [0, -1, 9, 1.5, "x", "", [], True, float("nan"), 2**70, np.array([1, 2])]
    for size in wrong:
        with pytest.raises(InputError, match=rf"{side} \(CSS pixels\): expected a whole number"):
            draw(trace, **{side: size})


@pytest.mark.parametrize("side", ["start_ns", "end_ns"])
def test_times_are_whole_numbers_of_nanoseconds(trace: Trace, side: str) -> None:
    given = figures.timeline(trace, **{side: np.int64(5)})  # type: ignore[arg-type]
    assert given == figures.timeline(trace, **{side: 5})  # type: ignore[arg-type]
    for far in (-(2**61), 2**61):
        figures.timeline(trace, **{side: far})  # type: ignore[arg-type]
    wrong: list[Any] = [
        "x",
        [],
        "",
        1.5,
        True,
        float("nan"),
        np.array([1, 2]),
        2**70,
        -(2**70),
        2**62,
    ]
    for value in wrong:
        with pytest.raises(InputError, match=rf"{side}.*: expected"):
            figures.timeline(trace, **{side: value})


@pytest.mark.parametrize("wrong", ["x", [], "", 1.5, True, float("nan"), np.array([1, 2])])
def test_steps_and_tokens_are_whole_numbers(trace: Trace, wrong: Any) -> None:
    for draw in (figures.heatmap, figures.timeline, figures.memory, figures.inspect):
        with pytest.raises(InputError, match="step: expected a whole number"):
            draw(trace, step=wrong)
    with pytest.raises(InputError, match="token: expected a whole number"):
        figures.heatmap(trace, show="token", token=wrong)


def test_what_a_heatmap_shows_has_a_name(trace: Trace) -> None:
    wrong: list[Any] = [np.array([1, 2]), [], {}, "hit", 3]
    for value in wrong:
        with pytest.raises(UnknownNameError, match="unknown show"):
            figures.heatmap(trace, show=value)


def test_sources_whose_name_no_system_has() -> None:
    for path in ("a" * 5000, Path("a" * 5000), "a/" * 3000, "a\0b"):
        with pytest.raises(InputError, match="no file"):
            figures.heatmap(path)
