"""The decision inspector: what it draws, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fiddler_viz as fv
from engine.events import Action, Clock
from engine.inspection import Inspection, inspect_call
from engine.replay import replay
from engine.trace import Trace
from engine.units import format_ns
from fiddler_viz import demo, figures
from fiddler_viz.figures.inspector import inspector_figure, update_inspector
from fiddler_viz.figures.inspector_words import describe_inspection, took, why
from fiddler_viz.theme import SEGMENTS, Segment
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_trace

PREDICTED, TOOK = slice(0, 5), slice(5, 10)
"""Where the outlined bars are in ``figure.data``, and the solid ones."""
INTERVALS = 10


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace()


@pytest.fixture(scope="module")
def missing(trace: Trace) -> Inspection:
    """A call on the CPU, which was cheaper."""
    return next(call for call in calls(trace) if call.action == Action.CPU)


def calls(trace: Trace) -> list[Inspection]:
    """Every call."""
    every = trace.happened.calls
    return [
        inspect_call(trace, step=s, layer=layer, expert=e)
        for s, layer, e in zip(
            every.step.tolist(), every.layer.tolist(), every.expert.tolist(), strict=True
        )
    ]


def test_bars_are_the_parts_one_after_the_other(missing: Inspection) -> None:
    figure = inspector_figure(missing)
    for bars, wanted in (
        (figure.data[PREDICTED], [o.parts for o in missing.options]),
        (figure.data[TOOK], [missing.took]),
    ):
        rows: dict[float, list[tuple[float, float]]] = {}
        for bar in bars:
            for y, base, x in zip(bar.y, bar.base, bar.x, strict=True):
                rows.setdefault(y, []).append((base, x))
        drawn = [sorted(parts) for _, parts in sorted(rows.items())]
        assert [[x for _, x in row] for row in drawn] == [
            [pytest.approx(ns * 1e-9) for _, ns in parts] for parts in wanted
        ]
        for row in drawn:
            ends = [0, *(base + x for base, x in row)]
            assert [base for base, _ in row] == pytest.approx(ends[:-1])


def test_intervals_are_the_cost_model_s(missing: Inspection) -> None:
    marks = inspector_figure(missing).data[INTERVALS]
    for option, x, more, less in zip(
        missing.options, marks.x, marks.error_x.array, marks.error_x.arrayminus, strict=True
    ):
        assert x == pytest.approx(option.ns * 1e-9)
        assert (x - less, x + more) == pytest.approx((option.low_ns * 1e-9, option.high_ns * 1e-9))
        assert more == pytest.approx(x * option.relative_error)
    assert inspector_figure(missing).layout.xaxis.range[1] > max(marks.x) * 1.3


def test_expected_and_real_never_look_alike(missing: Inspection) -> None:
    figure = inspector_figure(missing)
    for expected, real in zip(figure.data[PREDICTED], figure.data[TOOK], strict=True):
        assert expected.marker.color.startswith("rgba(") and expected.marker.line.width > 1
        assert real.marker.color.startswith("#") and real.marker.line.width == 0
        assert expected.marker.pattern.shape == real.marker.pattern.shape
    shapes = {figure.data[i].marker.pattern.shape for i in range(5)}
    assert shapes == {SEGMENTS[kind].pattern for kind in Segment}


@pytest.mark.parametrize("action", Action)
def test_the_chosen_one_is_marked_by_words_and_an_edge(action: Action) -> None:
    policy = {Action.STREAM: "stream"}.get(action, "fiddler")
    made = next(c for c in calls(toy_trace(policy=policy)) if c.action == action)
    figure = inspector_figure(made)
    marked = [note for note in figure.layout.annotations if "chosen" in note.text]
    assert len(marked) == 1
    assert figure.layout.annotations[int(action)].text == marked[0].text
    edge = figure.layout.shapes[1]
    assert (edge.y0 + edge.y1) / 2 == pytest.approx(int(action)) and edge.line.width >= 4
    absent = [note for note in figure.layout.annotations if "had it been on" in note.text]
    assert len(absent) == (action != Action.RESIDENT)
    assert figure.data[0].opacity == (1 if action == Action.RESIDENT else 0.45)


def test_the_clock_is_said(trace: Trace, missing: Inspection) -> None:
    assert "(modelled)" in took(missing) and "(modelled)" in describe_inspection(missing)
    measured = replace(missing, clock=Clock.MEASURED)
    assert "(measured)" in inspector_figure(measured).layout.annotations[3].text
    assert "modelled" not in describe_inspection(measured)


def test_why_in_words() -> None:
    trace = demo.trace()
    cpu = inspect_call(trace, token=20, layer=17)
    assert why(cpu) == (
        "Expert 1 of layer 17 was missing; the CPU was expected to be 8.18 ms sooner than a copy."
    )
    here = next(c for c in calls(toy_trace()) if c.action == Action.RESIDENT)
    assert " was on the GPU and ran there; the CPU was expected to take " in why(here)
    assert why(here).endswith(" longer.")
    lru = inspect_call(toy_trace(policy="lru", cache_slots=2))
    assert lru.regret_ns > 0 and lru.kept
    assert " was missing and was copied to the GPU, though for this call alone the CPU" in why(lru)
    assert why(lru).endswith("; the copy stayed in a cache slot.")
    # Equals, and a difference that the costs cannot tell.
    resident, stream, on_cpu = cpu.options
    close = replace(cpu, options=(resident, stream, replace(on_cpu, parts=stream.parts)))
    assert "a copy was expected to take just as long" in why(close)
    near = replace(on_cpu, parts=(("run", stream.ns - 5_000_000),))
    assert "5.00 ms sooner than a copy (within the costs' ±30%)." in why(
        replace(cpu, options=(resident, stream, near))
    )
    late = replace(resident, parts=(("copy", 9), ("run", 7)), possible=True)
    fetched = replace(cpu, action=Action.RESIDENT, options=(late, stream, on_cpu))
    assert "was on its way to the GPU and ran there when its copy was through" in why(fetched)


def test_where_no_gpu_is_there_is_nothing_to_choose(missing: Inspection) -> None:
    host = replace(missing, on_host=True, own_costs=False, clock=Clock.MEASURED)
    assert "nothing was to choose" in describe_inspection(host)
    figure = inspector_figure(host)
    assert not any(len(bar.x) for bar in figure.data[PREDICTED])
    assert not len(figure.data[INTERVALS].x)
    assert sum(len(bar.x) for bar in figure.data[TOOK]) == len(host.took)
    assert not any("chosen" in note.text for note in figure.layout.annotations)


def test_a_measured_host_has_its_own_prediction_beside_it(missing: Inspection) -> None:
    host = replace(missing, on_host=True, own_costs=True, clock=Clock.MEASURED)
    assert host.comparable == (host.chosen,)
    figure = inspector_figure(host)
    assert sum(len(bar.x) for bar in figure.data[PREDICTED]) == len(host.chosen.parts)
    texts = [note.text for note in figure.layout.annotations]
    assert "no GPU is used" in texts[0] and "no GPU is used" in texts[1]
    assert "expected" in texts[2] and "chosen" not in texts[2] and "(measured)" in texts[3]
    said = describe_inspection(host)
    assert "On CPU: " in said and "Streamed" not in said and "nothing was to choose" in said


def test_updating_in_place_equals_building_anew(trace: Trace) -> None:
    first, *_, last = calls(trace)
    changed = inspector_figure(first, "dark", width=900)
    update_inspector(changed, last, "dark", text="word")
    fresh = inspector_figure(last, "dark", text="word", width=900)
    assert json.loads(changed.to_json()) == json.loads(fresh.to_json())


def test_hostile_text_stays_text(trace: Trace) -> None:
    token = trace.texts.index(HOSTILE)
    figure = fv.inspect(trace, token=token)
    assert "&lt;/script&gt;" in figure.layout.title.text
    narrow = fv.inspect(trace, token=token, width=400)
    for made in (figure, narrow):
        assert "<script" not in made.to_json() and "</script" not in made.to_json()
    assert "$" not in fv.inspect(trace, token=trace.texts.index(" $x$")).layout.title.text
    policy = replace(inspect_call(trace), policy="<b>mine</b>")
    assert "<b>mine" not in inspector_figure(policy).layout.title.text


def test_text_twin_has_all_the_numbers(missing: Inspection) -> None:
    said = describe_inspection(missing, "word")
    for option in missing.options:
        assert format_ns(option.ns) in said
    assert "±30%" in said and "(chosen)" in said and "had it been on the GPU" in said
    lru = inspect_call(toy_trace(policy="lru", cache_slots=2))
    assert f"Regret of this call alone: {format_ns(lru.regret_ns)}" in describe_inspection(lru)


def test_one_line(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "run.safetensors")
    assert fv.inspect(path).to_json() == fv.inspect(trace).to_json()
    assert fv.inspect(trace, token=-1).to_json() == fv.inspect(trace, token=10).to_json()
    assert fv.inspect(trace, step=-1, width=700).layout.width == 700
    assert figures.inspect is fv.inspect
    with pytest.raises(fv.InputError, match="sampled but never processed"):
        fv.inspect(trace, token=11)
    with pytest.raises(fv.InputError, match="step 99"):
        fv.inspect(trace, step=99)
    with pytest.raises(fv.InputError, match="no expert has run"):
        fv.inspect(empty_trace())
    table = fv.regrets(replay(trace, policy="stream"))
    assert table.regret_ns.max() == inspect_call(table.trace).regret_ns > 0
