from __future__ import annotations

import pytest

import fiddler_viz as fv
from engine.budgets import BudgetCurve, budget_curve
from engine.trace import Trace
from fiddler_viz.figures import describe_budget_speeds
from fiddler_viz.figures.budget_speeds import BUDGETS, now
from tests.fiddler_viz.make_trace import empty_trace, toy_trace

POLICIES = ("fiddler", "lru")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace()


@pytest.fixture(scope="module")
def found(trace: Trace) -> BudgetCurve:
    return budget_curve(trace, POLICIES, ("100%", "0%"))


def test_lines_are_the_replays(trace: Trace, found: BudgetCurve) -> None:
    figure = fv.budget_speeds(trace, policies=POLICIES, budgets=("100%", "0%"))
    speed, moved = figure.data[2:4]  # of lru
    points = sorted(
        (p for p in found.points if p.policy == "lru"), key=lambda point: point.gpu_memory
    )
    assert list(speed.x) == pytest.approx([p.gpu_memory / 1e9 for p in points])
    assert list(speed.y) == [p.tokens_per_s for p in points]
    assert list(moved.y) == pytest.approx([p.bytes_per_token / 1e9 for p in points])
    assert moved.yaxis == "y2" and "GB/token" in figure.layout.yaxis2.title.text
    bound = figure.data[4]
    assert list(bound.y) == [p.bound_tokens_per_s for p in points]
    assert (figure.data[0].line.dash, figure.data[0].marker.symbol) != (
        speed.line.dash, speed.marker.symbol,
    )  # fmt: skip


def test_the_run_and_its_budget_are_marked(trace: Trace) -> None:
    figure = fv.budget_speeds(trace, policies="cpu", budgets=("0%", "100%"))
    star = figure.data[-2]
    assert star.y[0] == trace.summary.tokens_per_s and "modelled" in star.name
    assert figure.layout.shapes[0].x0 == star.x[0] == trace.plan.gpu_memory / 1e9
    assert "±30%, uncalibrated" in figure.layout.title.text


def test_the_run_s_own_policy_comes_first() -> None:
    figure = fv.budget_speeds(toy_trace(policy="qstar", decode_tokens=2))
    assert figure.data[0].name == "qstar" and len(figure.data[0].x) == len(BUDGETS) + 1


def test_the_run_lies_on_its_policy_s_line(trace: Trace) -> None:
    line, star = (fv.budget_speeds(trace, policies="fiddler").data[at] for at in (0, -2))
    at = list(line.x).index(star.x[0])
    assert line.y[at] == pytest.approx(star.y[0])


def test_small_amounts_are_megabytes(trace: Trace) -> None:
    figure = fv.budget_speeds(trace, policies="cpu", budgets="0%")
    assert "MB/token" in figure.layout.yaxis2.title.text
    point = budget_curve(trace, "cpu", "0%").points[0]
    assert figure.data[1].y[0] == pytest.approx(point.bytes_per_token / 1e6)


def test_replays_made_before(found: BudgetCurve) -> None:
    figure = fv.budget_speeds(found)
    assert [line.name for line in figure.data if line.showlegend is not False] == [
        "fiddler", "lru", "nobody is faster",
    ]  # fmt: skip
    with pytest.raises(fv.InputError, match="made already"):
        fv.budget_speeds(found, budgets="24GB")


def test_bad_arguments(trace: Trace) -> None:
    with pytest.raises(fv.InputError, match="unknown policy"):
        fv.budget_speeds(trace, policies="best")
    with pytest.raises(fv.InputError, match="gpu_memory"):
        fv.budget_speeds(trace, policies="cpu", budgets="much")


def test_words(trace: Trace, found: BudgetCurve) -> None:
    words = describe_budget_speeds(found, now(trace))
    assert words.startswith("The fastest policy reaches") and " of GPU memory." in words
    assert "fiddler: " in words and "lru: " in words and "This run (fiddler, modelled" in words
    one = budget_curve(trace, "cpu", "0%")
    assert " and " not in describe_budget_speeds(one).split(" of GPU memory")[0]
    assert describe_budget_speeds(BudgetCurve(())) == "Nothing recorded yet."
    prefill = fv.budget_speeds(toy_trace(decode_tokens=0), policies="cpu")
    assert "Without a decode step" in prefill.layout.title.text
    empty = fv.budget_speeds(empty_trace())
    assert "nothing recorded yet" in empty.layout.annotations[0].text
