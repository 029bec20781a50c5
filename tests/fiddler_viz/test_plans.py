"""Two plans as a figure, as a table and in words."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

import fiddler_viz as fv
from engine.comparison import compare_plans
from engine.events import Lane
from fiddler_viz.figures import comparison, describe_plans, plans_figure
from fiddler_viz.figures.plans_words import times
from fiddler_viz.theme import SEGMENTS, Segment
from fiddler_viz.views.plans_view import PlansView, plans_html
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_trace

A, B = {"gpu_memory": "30%"}, {"gpu_memory": "80%", "link_gbps": 100}


def test_both_timelines_are_on_one_axis() -> None:
    trace = toy_trace()
    found, figure = comparison(trace, A, B), fv.plans(trace, A, B)
    length = {"A": found.a.duration_ns, "B": found.b.duration_ns}
    assert figure.layout.xaxis.range[1] == pytest.approx(max(length.values()) * 1.01e-9)
    bars = [t for t in figure.data if t.type == "bar" and t.showlegend is False]
    many = sum(len(bar.x) for bar in bars)
    assert many == len(found.a.work_rows) + len(found.b.work_rows)
    tracks = [shape.x1 for shape in figure.layout.shapes]
    assert sorted(set(tracks)) == sorted({ns * 1e-9 for ns in length.values()})
    assert len(tracks) == 2 * len(Lane) == len(figure.layout.yaxis.tickvals)
    headings = [note.text for note in figure.layout.annotations]
    assert [text[:8] for text in headings] == ["<b>A</b>", "<b>B</b>"]
    assert "what if: link 100 GB/s" in headings[1] and "modelled" in headings[0]


def test_kinds_have_a_second_cue() -> None:
    figure = fv.plans(toy_trace(), A, B)
    legend = [t for t in figure.data if t.type == "bar" and t.showlegend is not False]
    assert [t.name for t in legend] == [SEGMENTS[s].label for s in Segment]
    assert len({(t.marker.color, t.marker.pattern.shape) for t in legend}) == len(legend)


def test_many_pieces_are_a_picture() -> None:
    figure = fv.plans(toy_trace(decode_tokens=60), A, B)
    assert len(figure.layout.images) == 2
    assert not [t for t in figure.data if t.type == "bar" and t.showlegend is False]


def test_one_step() -> None:
    trace = toy_trace()
    figure = fv.plans(trace, A, B, step=-1)
    steps = comparison(trace, A, B).a.steps
    wide = int(steps["end_ns"][-1] - steps["start_ns"][-1])
    assert figure.layout.shapes[0].x1 == pytest.approx(wide * 1e-9)
    assert f"step {len(steps['step']) - 1}" in figure.layout.title.text
    with pytest.raises(fv.InputError, match="step 99"):
        fv.plans(trace, step=99)


def test_without_changes_it_is_the_run() -> None:
    trace = toy_trace()
    found = comparison(trace, B)
    assert found.b.summary == trace.summary
    assert "A and B are the same plan" in describe_plans(comparison(trace))
    plans_figure(comparison(empty_trace())).to_json()


def test_the_numbers_stand_in_table_figure_and_words() -> None:
    found = comparison(toy_trace(), A, B)
    table = plans_figure(found).data[0]
    speed = found["speed"]
    cells = json.dumps(table.to_plotly_json()["cells"]["values"], ensure_ascii=False)
    text = describe_plans(found)
    html = plans_html(found, "A")
    for told in (f"×{speed.ratio:.3g}", "points", " to "):
        assert told in cells and told in text and told in html
    assert "GPU memory" in text and "link 100 GB/s" in text
    assert html.count("<tr>") == 4


def test_signs_and_units() -> None:
    trace = toy_trace()
    more, less = comparison(trace, A, B), comparison(trace, B, A)
    assert re.search(r"\+\d+ \(×", describe_plans(more))
    assert re.search(r"−\d+ \(×0\.", describe_plans(less))
    assert "±0.00 tok/s (×1)" in describe_plans(comparison(trace))


def test_ratios_are_told_in_plain_digits() -> None:
    ratios = (0.5961, 1.0, 999.9, 23_211.0, 4.312e-5)
    assert [*map(times, ratios)] == ["0.596", "1", "1,000", "23,200", "0.0000431"]


def test_meeting_intervals_are_said() -> None:
    trace = toy_trace()
    near = comparison(trace, A, {"gpu_memory": "35%"})
    assert "not certain" in describe_plans(near)
    far = comparison(trace, A, {"gpu_memory": "100%"})
    assert far["speed"].overlap == ("not certain" in describe_plans(far))


def test_names_stay_text() -> None:
    trace = toy_trace()
    plan = replace(trace.plan, hardware=HOSTILE, hardware_title=HOSTILE, policy=HOSTILE)
    found = compare_plans(trace, replace(trace, plan_list=((0, plan),)))
    assert "<script" not in plans_figure(found).to_json()
    assert "<script" not in plans_html(found, "A")


def test_the_switch_shows_once_there_is_an_a() -> None:
    heard: list[str] = []
    view = PlansView(heard.append, heard.append)
    assert view.row.layout.display == "none"
    found = comparison(toy_trace(), A, B)
    assert view.show(found, "B", kept=True) and not view.show(found, "B", kept=True)
    assert view.row.layout.display == "" and "B − A" in view.table.value
    view.show(found, "A", kept=True)
    assert heard == []  # following is no wish
    view.switch.set_state({"index": 1})
    view.keep.click()
    view.clear.click()
    assert heard == ["B", "keep", "clear"]
    assert view.show(None, "B", kept=False)
    assert view.table.value == "" and view.row.layout.display == "none"
    assert "a run that has ended" in plans_html(None, "B")


def test_what_is_no_change_is_refused() -> None:
    trace = toy_trace()
    with pytest.raises(fv.InputError, match=r"a: expected what is changed, by name.* got 3"):
        fv.plans(trace, a=3)  # type: ignore[arg-type]
    with pytest.raises(fv.InputError, match=r"change in b 'x'.* Valid names: gpu_memory, "):
        fv.plans(trace, b={"x": 1})
