"""The Chrome trace event format, as ui.perfetto.dev reads it.

Checked against the "Trace Event Format" document: what each phase must carry.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engine.events import Lane, Work
from engine.history import memory_at
from engine.interchange.perfetto import to_perfetto
from engine.trace import Trace
from tests.engine.builders import MODEL, Driver, recorded, toy_plan

REQUIRED = {
    "X": {"name", "ph", "ts", "dur", "pid", "tid"},
    "C": {"name", "ph", "ts", "pid", "args"},
    "M": {"name", "ph", "pid", "tid", "args"},
    "i": {"name", "ph", "ts", "pid", "tid", "s"},
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    made = recorded(7, toy_plan(6, 2, "lru"), 8, replans=0.3, aborts=0.2)
    assert len(made.plan_list) > 1
    return made


def events(trace: Trace, folder: Path) -> list[dict[str, Any]]:
    path = to_perfetto(trace, folder / "run.json")
    assert path == folder / "run.json"
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(content) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert content["displayTimeUnit"] == "ms"
    return content["traceEvents"]


def test_every_event_has_what_its_phase_needs(trace: Trace, tmp_path: Path) -> None:
    for event in events(trace, tmp_path):
        assert REQUIRED[event["ph"]] <= set(event), event
        assert isinstance(event["name"], str) and event["name"]
        assert event["pid"] == 1
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0


def test_tracks_have_names(trace: Trace, tmp_path: Path) -> None:
    made = events(trace, tmp_path)
    names = {e["tid"]: e["args"]["name"] for e in made if e["name"] == "thread_name"}
    assert names == {
        Lane.GPU: "GPU",
        Lane.CPU: "CPU",
        Lane.H2D: "host to device",
        Lane.D2H: "device to host",
        4: "steps",
    }
    assert {e["tid"] for e in made if e["ph"] in "Xi"} <= set(names)
    (process,) = (e for e in made if e["name"] == "process_name")
    assert process["args"]["name"] == "toy, modelled clock"


def test_work_is_there_in_microseconds(trace: Trace, tmp_path: Path) -> None:
    spans = [e for e in events(trace, tmp_path) if e["ph"] == "X" and e["tid"] != 4]
    assert len(spans) == len(trace.work_rows)
    for span, row in zip(spans, trace.work_rows.tolist(), strict=True):
        step, layer, expert, kind, _, tokens, lane, start, end, _ = row
        assert (span["ts"], span["dur"]) == (start / 1000, (end - start) / 1000)
        assert (span["tid"], span["cat"]) == (lane, Work(kind).name)
        assert span["args"]["step"] == step and span["args"]["tokens"] == tokens
        assert span["args"].get("expert", -1) == expert
        assert (span["name"] == "head") == (layer == -1)


def test_spans_of_a_lane_do_not_overlap(trace: Trace, tmp_path: Path) -> None:
    """Nested or overlapping spans on one track would be drawn as if one called the other."""
    made = [e for e in events(trace, tmp_path) if e["ph"] == "X"]
    for track in range(5):
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in made if e["tid"] == track)
        for (_, end), (start, _) in pairwise(spans):
            assert start >= end - 1e-9


def test_steps_and_memory(trace: Trace, tmp_path: Path) -> None:
    made = events(trace, tmp_path)
    steps = [e for e in made if e["ph"] == "X" and e["tid"] == 4]
    assert [e["name"].split()[1] for e in steps] == [str(i) for i in range(len(trace.step_rows))]
    counters = [e for e in made if e["ph"] == "C"]
    for step, counter in enumerate(counters):
        memory = memory_at(trace, step)
        assert sum(counter["args"].values()) == memory.budget
        assert counter["args"]["pinned"] == memory.pinned
        assert counter["ts"] == trace.steps["end_ns"][step] / 1000


def test_plans_are_instants(trace: Trace, tmp_path: Path) -> None:
    plans = [e for e in events(trace, tmp_path) if e["ph"] == "i"]
    assert [e["name"] for e in plans] == [repr(plan) for _, plan in trace.plan_list]
    assert [e["ts"] for e in plans] == [
        trace.steps["start_ns"][step] / 1000 for step, _ in trace.plan_list
    ]
    assert {e["s"] for e in plans} == {"p"}


def test_of_an_empty_trace(tmp_path: Path) -> None:
    made = events(Driver(toy_plan(4)).trace(), tmp_path)
    assert {e["ph"] for e in made} == {"M", "i"}


def test_a_plan_after_the_last_step(trace: Trace, tmp_path: Path) -> None:
    late = replace(trace, plan_list=(*trace.plan_list, (len(trace.step_rows), toy_plan(2))))
    (*_, last) = [e for e in events(late.check(), tmp_path) if e["ph"] == "i"]
    assert last["ts"] == trace.duration_ns / 1000


def test_odd_names_stay_inside_their_strings(trace: Trace, tmp_path: Path) -> None:
    odd = 'a "model"\n</script>\ud800'
    made = events(replace(trace, model=replace(MODEL, name=odd)), tmp_path)
    (process,) = (e for e in made if e["name"] == "process_name")
    assert process["args"]["name"] == f"{odd}, modelled clock"
