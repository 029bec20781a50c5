"""The critical path against a longest path searched for in a graph of who waits for whom."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from engine.cost import CostModel
from engine.critical_path import by_rules, critical_path, on_path
from engine.decision import Decision
from engine.events import STEPS, WORK, Action, Clock, Lane, Work, columns, to_rows
from engine.happened import Recorded
from engine.layout import lay_out
from engine.replay import replay
from engine.timeline import Log, Timeline
from engine.trace import Trace
from tests.engine.builders import COSTS, MODEL, Driver, random_plan, toy_plan
from tests.engine.test_layout import ALL, random_course


@dataclass(frozen=True)
class Piece:
    row: int
    step: int
    layer: int
    expert: int
    kind: int
    action: int
    tokens: int
    lane: int
    start: int
    end: int


def pieces(rows: np.ndarray) -> list[Piece]:
    return [Piece(at, *row[:9]) for at, row in enumerate(rows.tolist())]


def layer_graph(layer: list[Piece], costs: CostModel) -> Iterator[tuple[Piece, list[Piece]]]:
    """Each piece of one layer of one step and what it waits for, as the scheduler's text says.

    What stands in no list waits for the layer's start.
    """
    dense = next(one for one in layer if one.kind == Work.DENSE)
    runs = [one for one in layer if one.kind == Work.EXPERT]
    copies = [one for one in layer if one.kind == Work.WEIGHTS]
    out = [one for one in layer if one.kind == Work.ACTIVATIONS and one.lane == Lane.D2H]
    home = [one for one in layer if one.kind == Work.ACTIVATIONS and one.lane == Lane.H2D]
    own = {copy.expert: copy for copy in copies}
    there = [one for one in runs if one.lane == Lane.GPU and one.expert not in own]
    late = [one for one in runs if one.lane == Lane.GPU and one.expert in own]
    host = [one for one in runs if one.lane == Lane.CPU]
    yield dense, []
    for before, one in pairwise([dense, *there]):
        yield one, [before]
    buffers: list[Piece] = [dense, dense]
    link, gpu = dense, (there or [dense])[-1]
    for one in late:
        copy = own[one.expert]
        needs = [dense, link]
        if copy.action == Action.STREAM:
            needs.append(buffers[0])
        if not costs.overlap:
            needs.append(gpu)
        yield copy, needs
        yield one, [copy, gpu]
        link, gpu = copy, one
        if copy.action == Action.STREAM:
            buffers = [buffers[1], one]
    for copy in copies[len(late) :]:
        yield copy, [link, buffers[0]]
        link, buffers = copy, [buffers[1], copy]
    for one in out:
        yield one, [dense] if costs.overlap else [gpu, link]
    for before, one in pairwise([*out, *host]):
        yield one, [before]
    for one in home:
        yield one, [host[-1], link]


def brute_force(rows: np.ndarray, costs: CostModel) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Of all rows of layers: numbers of those waited for, and the longest way from a step's start.

    Fails unless every piece ends as early as what it waits for allows: then the graph is right.
    """
    by_layer: dict[tuple[int, int], list[Piece]] = {}
    for one in pieces(rows):
        if one.kind != Work.WEIGHTS or one.action >= 0:
            by_layer.setdefault((one.step, one.layer), []).append(one)
    waits: dict[int, list[int]] = {}
    longest: dict[int, int] = {}
    step, over, last = -1, 0, list[Piece]()
    for layer in by_layer.values():
        if layer[0].step != step:
            step, over, last = layer[0].step, 0, []
            start = layer[0].start
        for one, needs in layer_graph(layer, costs):
            needs = needs or last
            waits[one.row] = [need.row for need in needs]
            ready = max((longest[need.row] for need in needs), default=over)
            longest[one.row] = ready + one.end - one.start
            assert longest[one.row] == one.end - start, one
        last = [one for one in layer if one.lane in (Lane.GPU, Lane.H2D)]
    return waits, longest


@pytest.mark.parametrize("costs", ALL.values(), ids=ALL)
@pytest.mark.parametrize("seed", range(30))
def test_it_is_a_longest_path(seed: int, costs: CostModel) -> None:
    course = random_course(seed, costs)
    rows = lay_out(course, 1_000).work
    waits, longest = brute_force(rows, costs)
    in_turn = np.full(len(rows), not costs.overlap)
    marked = by_rules(columns(rows, WORK), in_turn, MODEL.layers)
    for step in np.unique(rows[:, 0]).tolist():
        mine = np.flatnonzero(marked & (rows[:, 0] == step))
        path = [one for one in pieces(rows) if one.row in set(mine.tolist())]
        path.sort(key=lambda one: (one.start, one.end, one.row))
        most = max(longest[row] for row in longest if rows[row, 0] == step)
        assert sum(one.end - one.start for one in path) == most
        for one, then in pairwise(path):
            assert one.end == then.start
        for one, then in pairwise([one for one in path if one.end > one.start]):
            assert one.row in waits[then.row] or not COSTS.copy_ns


def test_by_hand() -> None:
    """The layer of the scheduler's own test: three copies one after the other are its length."""
    timeline, log = Timeline(COSTS, 100), Log()
    r, s, c = (int(action) for action in Action)
    made = Decision(4, [0, 1, 2, 3, 4, 5], [2, 1, 3, 4, 1, 1], [r, c, s, s, c, s], [False] * 6, [])
    timeline.lay(6, 2, 4, 10, made, log)
    rows = to_rows(log.work, WORK)
    marked = by_rules(columns(rows, WORK), np.zeros(len(rows), np.bool_), 3)
    shown = [(one.lane, one.kind, one.expert) for one in pieces(rows[marked])]
    copies = [(Lane.H2D, Work.WEIGHTS, expert) for expert in (2, 3, 5)]
    assert shown == [(Lane.GPU, Work.DENSE, -1), *copies, (Lane.GPU, Work.EXPERT, 5)]


@pytest.mark.parametrize("seed", range(12))
def test_of_any_run_its_lengths_are_the_steps(seed: int) -> None:
    """Also where plans change what is pinned, copies are fetched ahead, and steps stop half way."""
    rng = random.Random(seed)
    driver = Driver(random_plan(rng))
    for number in range(12):
        plans = [random_plan(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
        layers = rng.choice((None, None, None, 0, 2))
        driver.step(rng, 4 if number == 0 else 1, plans=plans, layers=layers)
    trace = driver.trace()
    steps = trace.steps
    for step in range(12):
        path = critical_path(trace, step, step + 1)
        assert path.exact
        length = int(steps["end_ns"][step] - steps["start_ns"][step])
        assert int((path.work["end_ns"] - path.work["start_ns"]).sum()) == length
        assert sum(path.times.critical_ns) == path.times.stretch_ns == length
        ends = path.work["end_ns"][:-1]
        assert (path.work["start_ns"][1:] == ends).all()
        assert all(a <= b for a, b in zip(path.times.critical_ns, path.times.busy_ns, strict=True))
    whole = critical_path(trace)
    assert sum(whole.times.critical_ns) == int((steps["end_ns"] - steps["start_ns"]).sum())
    assert repr(whole).startswith(f"CriticalPath({len(whole.work['step'])} pieces: gpu ")


def test_a_run_without_cpu_or_copies_waits_for_the_gpu() -> None:
    driver, rng = Driver(toy_plan(None)), random.Random(0)
    for _ in range(3):
        driver.step(rng)
    path = critical_path(driver.trace())
    assert path.times.critical(Lane.GPU) == 1
    assert path.times.bottleneck == Lane.GPU


def measured(*rows: tuple[int, int, int, int]) -> Trace:
    """``(step, lane, start, end)`` each, by a stopwatch."""
    work = np.array(
        [(step, 0, 0, Work.EXPERT, Action.CPU, 1, lane, a, b, 0) for step, lane, a, b in rows]
    )
    starts = {step: min(row[2] for row in rows if row[0] == step) for step in work[:, 0].tolist()}
    ends = {step: max(row[3] for row in rows if row[0] == step) for step in starts}
    table = np.zeros((len(starts), len(STEPS.names or ())), dtype=np.int64)
    for step in starts:
        table[step, [0, 8, 9, 10]] = step, starts[step], ends[step], Clock.MEASURED
    trace = Driver(toy_plan(2)).trace()
    return replace(trace, step_rows=table, happened=Recorded(work, trace.move_rows))


def test_of_measured_times_it_is_an_estimate_by_end_times() -> None:
    gpu, cpu, h2d = int(Lane.GPU), int(Lane.CPU), int(Lane.H2D)
    trace = measured(
        (0, gpu, 0, 10),
        (0, h2d, 11, 30),  # ends last before what begins at 32: waited for
        (0, cpu, 12, 28),
        (0, gpu, 32, 40),
        (0, cpu, 33, 33),  # took no time
        (1, cpu, 50, 60),
    )
    path = critical_path(trace)
    assert not path.exact
    assert on_path(trace, columns(trace.work_rows, WORK)).tolist() == [1, 1, 0, 1, 0, 1]
    assert path.times.critical_ns == (18, 10, 19, 0)
    assert path.times.stretch_ns == 60  # 3 in the step and 10 between steps nobody worked for


@pytest.mark.parametrize("clock", Clock)
def test_rows_that_make_no_sense_end_too(clock: Clock) -> None:
    """A file may say anything: times that go backwards, kinds that do not belong together."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (400, len(WORK.names or ())))
    rows[:, 0] = np.sort(rows[:, 0])
    rows[:, 4] -= 1
    table = np.zeros((3, len(STEPS.names or ())), dtype=np.int64)
    table[:, 0], table[:, -1] = range(3), clock
    empty = Driver(toy_plan(2)).trace()
    trace = replace(empty, step_rows=table, happened=Recorded(rows, empty.move_rows))
    assert len(on_path(trace, columns(rows, WORK))) == 400


def test_nothing_has_no_path() -> None:
    path = critical_path(Driver(toy_plan(2)).trace())
    assert len(path.work["step"]) == 0
    assert path.times.bottleneck is None
    assert np.isnan(path.times.critical(Lane.GPU))


def test_a_window_has_the_path_of_the_whole() -> None:
    rng, driver = random.Random(5), Driver(toy_plan(4, 2, "lru"))
    for _ in range(6):
        driver.step(rng, 2)
    trace = replay(driver.trace(), policy="lru").trace
    whole = on_path(trace, trace.work)
    part = columns(trace.happened.window(2, 4)[0], WORK)
    mine = (trace.work["step"] >= 2) & (trace.work["step"] < 4)
    assert on_path(trace, part).tolist() == whole[mine].tolist()
