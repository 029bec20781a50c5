"""The memory over time: what is drawn is what the ledger says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InputError
from engine.history import Ledger, memory_over_time
from engine.trace import Trace
from fiddler_viz import figures
from fiddler_viz.figures.memory_over_time import (
    ADMITTED,
    BUDGET,
    EVICTED,
    PLANS,
    memory_over_time_figure,
    memory_track_rows,
    update_memory_over_time,
)
from fiddler_viz.frames import memory_track
from fiddler_viz.theme import MEMORY
from tests.fiddler_viz.make_trace import empty_trace, toy_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(policy="lru", cache_slots=3, decode_tokens=20)


def test_parts_are_the_ledger_s_and_never_above_the_budget(trace: Trace) -> None:
    track = memory_track(Ledger.of(trace), 0, trace.duration_ns)
    steps = memory_over_time(trace)
    at = np.searchsorted(track.time_ns, trace.steps["end_ns"] - 1, side="right") - 1
    for name in MEMORY:
        np.testing.assert_array_equal(track.parts[name][at], steps[name], err_msg=name)
    assert (sum(track.parts[name] for name in MEMORY) == track.parts["budget"]).all()
    assert (track.parts["free"] >= 0).all()
    figure = figures.memory_over_time(trace)
    stacked = sum(np.asarray(area.y) for area in figure.data[: len(MEMORY)])
    np.testing.assert_array_equal(stacked, figure.data[BUDGET].y)


def test_what_comes_and_goes_is_marked(trace: Trace) -> None:
    track = memory_track(Ledger.of(trace), 0, trace.duration_ns)
    whys = trace.to_pandas("moves")["why"]
    assert track.admitted.sum() == (whys == "admit").sum() > 0
    assert track.evicted.sum() == (whys == "evict").sum() > 0
    figure = memory_over_time_figure(track)
    assert len(figure.data[ADMITTED].x) == (track.admitted > 0).sum()
    assert "evicted" in figure.data[EVICTED].text[0]
    assert f"{track.admitted.sum()} experts admitted" in figure.layout.title.text
    words = figures.describe_memory_over_time(track)
    assert "At most" in words and "of the budget" in words
    rows = memory_track_rows(track)
    assert len(rows) == len(track.time_ns) and len(rows[0]) == 2 + len(MEMORY)


def test_new_plans_are_marked(trace: Trace) -> None:
    steps = trace.step_rows.copy()
    steps[10:, 6] = 1
    more = replace(trace.plan, gpu_memory=trace.plan.gpu_memory * 2)
    replanned = replace(trace, plan_list=(*trace.plan_list, (10, more)), step_rows=steps)
    figure = figures.memory_over_time(replanned)
    budget = np.asarray(figure.data[BUDGET].y)
    assert (budget[0], budget[-1]) == (trace.plan.gpu_memory, more.gpu_memory)
    assert figure.data[PLANS].x[0] == pytest.approx(trace.steps["start_ns"][10] * 1e-9)
    assert "plan 2" in figure.data[PLANS].text[0] and "1 new plan" in figure.layout.title.text


def test_many_changes_are_looked_at_so_many_times(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(memory_track.__globals__, "POINTS", 12)
    ledger = Ledger.of(trace)
    track = memory_track(ledger, 0, trace.duration_ns)
    assert len(track.time_ns) == 12
    np.testing.assert_array_equal(track.parts["cached"], ledger.at(track.time_ns)["cached"])


def test_updating_in_place_equals_building_anew(trace: Trace) -> None:
    ledger = Ledger.of(trace)
    whole = memory_track(ledger, 0, trace.duration_ns)
    part = memory_track(ledger, trace.duration_ns // 3, trace.duration_ns // 2)
    figure = memory_over_time_figure(whole, "dark")
    update_memory_over_time(figure, part, "dark")
    assert figure.to_json() == memory_over_time_figure(part, "dark").to_json()


def test_nothing_recorded() -> None:
    figure = figures.memory_over_time(empty_trace())
    assert figure.layout.annotations[0].visible
    track = memory_track(Ledger.of(empty_trace()), 0, 1)
    assert figures.describe_memory_over_time(track) == "Nothing recorded yet."
    assert memory_track_rows(track) == []


@pytest.mark.parametrize("time", ["x", 1.5, True, float("nan"), [1], 10**30])
def test_what_is_no_time_is_refused(trace: Trace, time: object) -> None:
    for name in ("start_ns", "end_ns"):
        with pytest.raises(InputError, match=name):
            figures.memory_over_time(trace, **{name: time})
