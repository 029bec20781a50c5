from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fiddler_viz as fv
from engine.curves import hit_curves
from engine.events import Clock
from engine.replay import replay
from engine.trace import Trace
from fiddler_viz.figures import describe_hit_rates, hit_rates_figure
from fiddler_viz.figures.budget_speeds import now
from fiddler_viz.figures.hit_rates import POLICIES, here
from tests.fiddler_viz.make_trace import empty_trace, toy_model, toy_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(decode_tokens=40, model=toy_model(layers=6, experts=8))


def test_every_curve_is_drawn_and_told_apart(trace: Trace) -> None:
    figure = fv.hit_rates(trace)
    drawn = figure.data[: len(POLICIES)]
    curves = hit_curves(trace, ("opt", "lru", "static"))
    for line, curve in zip(drawn, curves.curves.values(), strict=False):
        np.testing.assert_allclose(line.y, curve.hit_rate)
        assert list(line.x) == curve.slots.tolist()
    looks = {(line.line.color, line.line.dash, line.marker.symbol) for line in drawn}
    assert len(looks) == len(POLICIES) == len({line.line.color for line in drawn})


def test_pinned_experts_move_the_axis(trace: Trace) -> None:
    pinned = trace.plan.pinned
    figure = fv.hit_rates(trace, policies="opt", pinned=pinned)
    assert figure.data[0].x[0] == len(pinned) and figure.data[0].x[-1] == trace.model.experts_total
    cliff = hit_curves(trace, "opt", pinned=pinned).cliff
    assert figure.layout.shapes[1].x0 == len(pinned) + cliff


def test_the_run_is_marked(trace: Trace) -> None:
    star = fv.hit_rates(trace, policies="opt").data[-1]
    plan = trace.plan
    assert star.x[0] == len(plan.pinned) + plan.cache_slots
    assert star.y[0] == trace.summary.hit_rate


def test_the_run_that_keeps_the_profile_s_best_lies_on_static(trace: Trace) -> None:
    """Popularity pins what ``static`` keeps, so the mark is on that line."""
    run, static = here(trace), hit_curves(trace, "static")["static"]
    assert run is not None and trace.plan.cache_slots == 0
    assert static.hit_rate[run.on_device] == pytest.approx(run.hit_rate)


def test_the_cliff_is_marked_and_explained(trace: Trace) -> None:
    figure, cliff = fv.hit_rates(trace), hit_curves(trace, "lru").cliff
    assert cliff == 12  # 6 layers, top-2
    assert figure.layout.shapes[1].x0 == cliff
    words = figure.layout.annotations[0]
    assert "one step: 12" in words.text
    near = [
        y
        for line in figure.data
        for x, y in zip(line.x, line.y, strict=True)
        if abs(x - cliff) <= 0.4 * trace.model.experts_total
        and (x <= cliff) == (words.xanchor == "right")
    ]
    assert (min(near) > 1 - max(near)) == (words.y == 0), "where there is more room"
    assert "an LRU drops each expert" in figure.layout.title.text.replace("<br>", " ")
    assert "Below one step's 12 experts an LRU's hit rate falls from" in describe_hit_rates(
        hit_curves(trace, "lru")
    )


def test_curves_made_before(trace: Trace) -> None:
    found = fv.curves(trace, policies=("lru", "random"))
    figure = fv.hit_rates(found)
    assert [line.name for line in figure.data] == ["LRU", "random"]
    with pytest.raises(fv.InputError, match="made already"):
        fv.hit_rates(found, policies="opt")
    wrong: dict[str, Any] = {"pinned": 3, "policies": np.array(["lru"]), "half_life": np.ones(2)}
    for name, value in wrong.items():
        with pytest.raises(fv.InputError, match="made already"):
            fv.hit_rates(found, **{name: value})
    for value in (3, "", b"24GB"):
        with pytest.raises(fv.InputError, match="pinned: expected several whole numbers"):
            fv.hit_rates(trace, pinned=value)
    with pytest.raises(fv.InputError, match="unknown policy"):
        fv.hit_rates(trace, policies="best")


def test_many_experts_are_thinned_out() -> None:
    big = toy_trace(model=toy_model(layers=16, experts=64), decode_tokens=2)
    line = fv.hit_rates(big, policies="opt").data[0]
    assert len(line.x) == 400 and (line.x[0], line.x[-1]) == (0, 1024)


def test_a_host_s_run_has_no_place_on_a_device(trace: Trace) -> None:
    steps = trace.step_rows.copy()
    steps[:, -1] = Clock.MEASURED
    host = replace(trace, step_rows=steps, meta={"device": "host"})
    assert here(host) is None and len(fv.hit_rates(host, policies="lru").data) == 1


def test_words(trace: Trace) -> None:
    found = hit_curves(trace, ("opt", "lru"))
    words = describe_hit_rates(found, here(trace))
    assert "best possible (OPT)" in words and "This run (fiddler)" in words
    assert "With 12 experts on the device" in describe_hit_rates(hit_curves(trace, "opt"))
    nothing = hit_curves(empty_trace(), "lru")
    assert describe_hit_rates(nothing) == "Nothing recorded yet."
    assert "nothing recorded yet" in hit_rates_figure(nothing).layout.annotations[0].text


def test_of_a_run_whose_plan_changed_the_last_plan_is_marked(trace: Trace) -> None:
    other = replay(trace, gpu_memory="80%", policy="stream").trace.plan
    mixed = replace(trace, plan_list=((0, trace.plan), (len(trace.step_rows) - 2, other)))
    whole, mark, speed = replay(trace, gpu_memory="80%", policy="stream"), here(mixed), now(mixed)
    assert mark is not None and speed is not None and mark.words == speed.words == "its last plan"
    assert mark.hit_rate == whole.summary.hit_rate
    assert speed.tokens_per_s == whole.summary.tokens_per_s
    assert "Its last plan (stream" in describe_hit_rates(hit_curves(trace), mark)
    unused = replace(trace, plan_list=((0, other), (0, trace.plan)))  # no step ran under it
    assert now(unused) == now(trace)
