from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

import fiddler_viz as fv
from engine.cost import CostModel
from engine.crossover import Crossover, crossover
from engine.spec import HardwareSpec, ModelSpec
from fiddler_viz.figures import crossing, crossover_figure, describe_crossover
from fiddler_viz.figures.crossover_calls import calls_of, shares
from fiddler_viz.theme import ACTIONS
from tests.engine.test_measured import MODEL, calibrated
from tests.fiddler_viz.make_trace import HOSTILE, toy_trace


def lines(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.showlegend is not False]


def test_three_lines_differ_in_colour_dash_and_marker() -> None:
    found, figure = crossing(), fv.crossover()
    drawn = lines(figure)
    assert len(drawn) == 3
    for trace, field in zip(drawn, ("cpu_ns", "stream_ns", "resident_ns"), strict=True):
        np.testing.assert_allclose(trace.y, getattr(found, field) * 1e-9)
        assert list(trace.x) == found.tokens.tolist()
    for cue in ("line.color", "line.dash", "marker.symbol"):
        assert len({trace[cue] for trace in drawn}) == 3
    assert {trace.line.color for trace in drawn} == {kind.color for kind in ACTIONS.values()}
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_bands_are_the_stated_error() -> None:
    found, band = crossing(), fv.crossover().data[0]
    many, error = len(found.tokens), found.relative_error
    np.testing.assert_allclose(band.y[:many], found.cpu_ns * (1 - error) * 1e-9)
    np.testing.assert_allclose(band.y[many:][::-1], found.cpu_ns * (1 + error) * 1e-9)


def test_the_crossing_is_marked_and_named() -> None:
    found, figure = crossing(), fv.crossover()
    assert found.break_even is not None
    assert f"Up to {found.break_even - 1} tokens the CPU is sooner" in figure.layout.title.text
    assert f"copy from {found.break_even}" in figure.layout.annotations[0].text
    maybe, line = figure.layout.shapes
    assert (maybe.x0, maybe.x1) == (found.earliest, found.latest)
    assert line.x0 == line.x1 == found.break_even


def test_uncalibrated_is_said() -> None:
    assert "±30%, uncalibrated" in fv.crossover().layout.title.text
    mine = fv.crossover(hardware=calibrated(), model=MODEL)
    assert "calibrated on this machine" in mine.layout.title.text
    assert "uncalibrated" not in mine.layout.title.text


def test_without_a_gpu_there_is_one_line_with_its_points() -> None:
    figure = fv.crossover(hardware=calibrated(), model=MODEL)
    _, points = lines(figure)
    assert points.name == "calibration ± residual" and list(points.x) == [1]
    assert points.y[0] == pytest.approx(3.25e-3)
    assert points.error_y.array[0] == pytest.approx(3.25e-3 * 0.013)
    assert "Without a GPU" in figure.layout.title.text and not figure.layout.shapes
    words = describe_crossover(crossing(hardware=calibrated(), model=MODEL))
    assert "copied" not in words
    assert "Calibrated at 1 token count, residuals up to 1.3%." in words


def test_a_run_s_own_costs_or_another_machine_s() -> None:
    trace = toy_trace()
    own = crossing(trace)
    assert own.break_even == trace.plan.costs.break_even_tokens and own.model == "toy"
    other = crossing(trace, hardware="h200")
    assert other.copy_ns == CostModel.of(trace.model, HardwareSpec.preset("h200")).copy_ns
    assert crossing(trace, hardware="rtx-4090").cpu_ns.tolist() == own.cpu_ns.tolist()


def test_what_ifs_move_the_crossing() -> None:
    trace = toy_trace()
    faster = crossing(trace, link_gbps=60)
    assert (faster.break_even or 0) < (crossing(trace).break_even or 0)
    title = fv.crossover(trace, link_gbps=60, cpu_cores=4).layout.title.text
    assert "but with link 60 GB/s, 4 CPU cores" in re.sub("<br>", " ", title)


def test_a_what_if_needs_the_rates() -> None:
    trace = toy_trace()
    for plan in (
        replace(trace.plan, hardware="mine"),
        replace(trace.plan, costs=replace(trace.plan.costs, copy_ns=1)),
    ):
        foreign = replace(trace, plan_list=((0, plan),))
        fv.crossover(foreign)
        with pytest.raises(fv.InputError, match="give hardware= its profile"):
            fv.crossover(foreign, link_gbps=60)
        fv.crossover(foreign, hardware="rtx-4090", link_gbps=60)


def test_a_run_has_its_model() -> None:
    with pytest.raises(fv.InputError, match="got both"):
        fv.crossover(toy_trace(), model="mixtral-8x7b")
    with pytest.raises(fv.InputError, match="unknown hardware"):
        fv.crossover(hardware="abacus")


def of(**changes: int) -> Crossover:
    costs = CostModel.of(ModelSpec.preset("mixtral-8x7b"), HardwareSpec.preset("rtx-4090"))
    return crossover(replace(costs, **changes), most_tokens=64)


def test_words_for_every_case() -> None:
    never, at_once = of(copy_ns=10**12), of(copy_ns=0)
    assert describe_crossover(never).startswith("The CPU always beats copying")
    assert describe_crossover(at_once).startswith("Copying a missing expert always beats")
    for found in (never, at_once, of()):
        crossover_figure(found).to_json()
    usual = describe_crossover(of())
    assert "1 token: CPU 6.24 ms, copied 14.4 ms, resident 431 µs" in usual
    assert "64 tokens: CPU" in usual


def test_names_stay_text() -> None:
    found = replace(of(), model=HOSTILE, machine=HOSTILE)
    assert "<script" not in crossover_figure(found).to_json()


def test_the_run_s_calls_are_stems_in_the_colour_of_the_sooner_way() -> None:
    trace = toy_trace(prompt_tokens=200)
    tokens, calls = calls_of(trace)
    assert calls.sum() == len(trace.happened.calls.step)
    assert (tokens * calls).sum() == trace.routing.experts.size
    found = crossing(trace)
    figure = fv.crossover(trace)
    stems = [made for made in figure.data if made.yaxis == "y2"]
    assert [tuple(made.x) for made in stems] == [
        tuple(tokens[tokens < found.break_even]),
        tuple(tokens[tokens >= found.break_even]),
    ]
    assert sum(sum(made.y) for made in stems) == pytest.approx(1)
    assert stems[0].marker.color != stems[1].marker.color
    assert stems[0].marker.symbol != stems[1].marker.symbol
    on_cpu, copied = shares(found, (tokens, calls))
    assert on_cpu + copied == pytest.approx(1) and 0 < copied < 1
    faster = shares(crossing(trace, link_gbps=400), (tokens, calls))
    assert faster[1] > copied  # decisions flip
    assert f"{copied:.0%} by a copy" in describe_crossover(found, (tokens, calls))
    assert not [made for made in fv.crossover().data if made.yaxis == "y2"]
