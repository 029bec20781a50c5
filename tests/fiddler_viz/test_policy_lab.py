"""The policy lab: bars are the replays, and nobody is above the line."""

from __future__ import annotations

from itertools import pairwise

import pytest

import fiddler_viz as fv
from engine.budgets import BudgetCurve, budget_curve
from engine.policies import POLICIES
from engine.replay import replay
from engine.trace import Trace
from fiddler_viz.figures import describe_policy_lab, policy_lab_figure
from fiddler_viz.figures.budget_speeds import now
from fiddler_viz.figures.policy_lab import KINDS, ROWS, kind_of
from fiddler_viz.figures.policy_lab_words import headline, ranked
from fiddler_viz.theme import rate
from tests.fiddler_viz.make_trace import empty_trace, toy_trace

SOME = ("fiddler", "lru", "belady", "cpu")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace()


@pytest.fixture(scope="module")
def found(trace: Trace) -> BudgetCurve:
    return budget_curve(trace, SOME, trace.plan.gpu_memory)


def test_bars_are_the_replays_with_their_interval(trace: Trace, found: BudgetCurve) -> None:
    figure = fv.policy_lab(trace, policies=SOME)
    bars = [bar for bar in figure.data if bar.type == "bar" and bar.yaxis == "y"]
    drawn = {
        name: (y, y + up, y - down)
        for bar in bars
        for name, y, up, down in zip(
            bar.customdata, bar.y, bar.error_y.array, bar.error_y.arrayminus, strict=True
        )
    }
    for policy in SOME:
        summary = replay(trace, policy=policy, gpu_memory=trace.plan.gpu_memory).summary
        speeds = summary.tokens_per_s, summary.tokens_per_s_high, summary.tokens_per_s_low
        assert drawn[policy] == pytest.approx(speeds)
    assert list(figure.layout.xaxis.categoryarray) == [p.policy for p in ranked(found)]
    speeds = [point.tokens_per_s for point in ranked(found)]
    assert speeds == sorted(speeds, reverse=True)


def test_nobody_is_above_the_line(trace: Trace, found: BudgetCurve) -> None:
    figure = fv.policy_lab(trace, policies=SOME)
    line = next(made for made in figure.data if made.type == "scatter")
    assert set(line.y) == {found.points[0].bound_tokens_per_s}
    assert max(p.tokens_per_s for p in found.points) <= line.y[0] * (1 + 1e-9)
    assert "nobody is faster" in line.name


def test_other_rows_are_lanes_hits_and_bytes(found: BudgetCurve) -> None:
    figure = policy_lab_figure(found)
    points = ranked(found)
    hits = next(made for made in figure.data if made.yaxis == "y3")
    moved = next(made for made in figure.data if made.yaxis == "y4")
    assert list(hits.y) == [p.hit_rate for p in points]
    assert [y / moved.y[-1] for y in moved.y] == pytest.approx(
        [p.bytes_per_token / points[-1].bytes_per_token for p in points]
    )
    lanes = [made for made in figure.data if made.yaxis == "y2"]
    assert [made.name for made in lanes] == ["GPU busy", "CPU busy", "h2d busy", "d2h busy"]
    assert list(lanes[1].y) == pytest.approx([p.lane_ns["cpu"] * 1e-9 for p in points])
    assert len({made.marker.pattern.shape for made in lanes}) == 4
    domains = [figure.layout[f"yaxis{n}"].domain for n in ("", 2, 3, 4)]
    assert all(upper[0] >= lower[1] - 1e-9 for upper, lower in pairwise(domains))
    only = policy_lab_figure(found, rows=ROWS[:1])
    assert {made.yaxis for made in only.data} == {"y"}


def test_kinds_have_a_second_cue(trace: Trace) -> None:
    assert len({color for _, color, _ in KINDS}) == len({shape for *_, shape in KINDS}) == 3
    run = now(trace)
    assert [kind_of(name, run) for name in ("fiddler", "lru", "belady", "mine")] == [1, 0, 2, 0]
    assert not POLICIES["belady"].live


def test_words_have_all_the_numbers(found: BudgetCurve) -> None:
    said = describe_policy_lab(found)
    for point in found.points:
        assert f"{point.policy}: {rate(point.tokens_per_s)} (" in said
    assert "Nobody is faster than" in said
    assert "is fastest" in headline(found)
    best = next(p.policy for p in ranked(found) if p.policy != "belady")
    assert f" {best} is fastest" in headline(found)  # one that can be had


def test_empty_and_wrong(trace: Trace, found: BudgetCurve) -> None:
    assert "nothing recorded yet" in fv.policy_lab(empty_trace()).layout.annotations[0].text
    assert describe_policy_lab(BudgetCurve(())) == "Nothing recorded yet."
    assert fv.policy_lab(found).to_json() == policy_lab_figure(found).to_json()
    with pytest.raises(fv.InputError, match="made already"):
        fv.policy_lab(found, gpu_memory="24GB")
    with pytest.raises(fv.InputError, match="one budget"):
        fv.policy_lab(budget_curve(trace, "cpu", ("0%", "100%")))


def test_progress_is_told(trace: Trace) -> None:
    heard: list[tuple[int, int]] = []
    budget_curve(trace, SOME, "50%", progress=lambda done, of: heard.append((done, of)))
    fv.curves(trace, policies=("lru", "opt"), progress=lambda done, of: heard.append((done, of)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 2), (2, 2)]


def test_figures_tell_their_progress(trace: Trace) -> None:
    heard: list[tuple[int, int]] = []

    def hear(done: int, of: int) -> None:
        heard.append((done, of))

    fv.policy_lab(trace, policies=("cpu", "lru"), progress=hear)
    fv.budget_speeds(trace, policies="cpu", budgets=("50%", "60%"), progress=hear)
    fv.hit_rates(trace, policies=("lru", "opt"), progress=hear)
    assert heard == [(1, 2), (2, 2)] * 3
    fv.routing_flow(trace, progress=hear)
    assert heard[-1] == (trace.model.layers - 1,) * 2
    for draw in (fv.policy_lab, fv.budget_speeds, fv.hit_rates, fv.routing_flow, fv.budgets):
        with pytest.raises(fv.InputError, match="progress: expected a function of two numbers"):
            draw(trace, progress=3)
