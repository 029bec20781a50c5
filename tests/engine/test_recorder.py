"""The recorder: nothing is dropped, viewers see rows as they come, last tokens are found."""

from __future__ import annotations

import random
import sys
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.events import STEPS, Clock, StepKind
from engine.lineage import Lineage
from engine.recorder import Recorder
from engine.routing import Routing
from engine.trace import Start, Trace
from tests.engine.builders import MODEL, Driver, note_routing, random_plan, recorded, toy_plan

# ---------------------------------------------------------------------- the trace


def test_an_empty_recording_is_a_trace() -> None:
    start = Start((3,), {"recent": [3]})
    trace = Recorder(MODEL, toy_plan(4, 2, "lru"), start).trace({"ended": "stopped"})
    assert trace.step_rows.shape == (0, len(STEPS.names or ()))
    assert trace.routing.experts.shape == trace.routing.weights.shape == (0, 2)
    assert (trace.start, trace.meta) == (start, {"ended": "stopped"})
    assert trace.check() is trace


def test_routing_keeps_the_model_s_order_and_weights() -> None:
    recorder = Recorder(MODEL, toy_plan(4), Start())
    notes = recorder.notes
    note_routing(notes, 0, 0, 0, [[3, 1], [0, 2]], [[0.75, 0.25], [0.5, 0.5]])
    note_routing(notes, 0, 1, 0, [[2, 0], [1, 0]], [[1.0, 0.0], [0.9, 0.1]])
    note_routing(notes, 1, 0, 2, [[0, 3]], [[0.6, 0.4]])
    assert len(recorder.trace({}).routing) == 0, "no step has its row yet"
    for number in (0, 1):
        recorder.step((number, StepKind.DECODE, 1, 1, 0, 0, 0, 1, 0, 0, Clock.MODELLED))
    routing = recorder.trace({}).routing
    assert routing.step.tolist() == [0, 0, 0, 0, 1]
    assert routing.layer.tolist() == [0, 0, 1, 1, 0]
    assert routing.token.tolist() == [0, 1, 0, 1, 2]
    assert routing.experts.tolist() == [[3, 1], [0, 2], [2, 0], [1, 0], [0, 3]]
    assert routing.weights[3].tolist() == pytest.approx([0.9, 0.1])
    assert (routing.experts.dtype, routing.weights.dtype) == (np.int16, np.float32)
    assert routing.step.dtype == routing.layer.dtype == routing.token.dtype == np.int32


def test_a_step_cut_short_ends_with_its_last_layer() -> None:
    """Interrupted between the head and the step's row: the head did not happen."""
    recorder = Recorder(MODEL, toy_plan(4), Start())
    note_routing(recorder.notes, 0, 0, 0, [[3, 1]], [[0.5, 0.5]], (10, 70))
    recorder.notes.head(1, 70, 80)
    recorder.step((0, StepKind.DECODE, 1, 1, 0, 0, 0, 0, 10, 80, Clock.MODELLED))
    recorder.notes.step(1, 1, 0, 0)
    recorder.step((1, StepKind.DECODE, 1, 1, 0, 0, 0, 0, 70, 99, Clock.MODELLED))
    trace = recorder.trace({})
    assert trace.steps["end_ns"].tolist() == [70, 70]
    assert trace.work["layer"].tolist() == [0, 0, 0]


def test_a_trace_can_be_taken_in_the_middle_and_grows_on() -> None:
    driver, rng = Driver(toy_plan(6, 2, "lru")), random.Random(0)
    driver.step(rng, 4)
    first = driver.trace()
    driver.step(rng)
    second = driver.trace()
    assert (len(first.step_rows), len(second.step_rows)) == (1, 2)
    for name in ("work_rows", "move_rows", "token_rows"):
        mine, theirs = getattr(first, name), getattr(second, name)
        assert len(mine) < len(theirs)
        np.testing.assert_array_equal(mine, theirs[: len(mine)])
    assert repr(driver.recorder) == "Recorder(2 steps, 5 tokens)"


def test_plans_are_numbered_and_none_is_forgotten() -> None:
    plans = [toy_plan(room) for room in (1, 2, 3)]
    recorder = Recorder(MODEL, plans[0], Start())
    assert recorder.plan(0, plans[1]) == 1  # before the first step: the changes were made
    assert recorder.plan(4, plans[2]) == 2
    assert recorder.plans == [(0, plans[0]), (0, plans[1]), (4, plans[2])]


# ---------------------------------------------------------------------- sampled, never processed


def test_the_last_token_of_a_generation_was_never_processed() -> None:
    recorder = Recorder(MODEL, toy_plan(2), Start(), lineage=Lineage(3))
    for number, ids in enumerate(([5, 6, 7], [8])):
        block = recorder.lineage.block(np.array([ids]), (1, len(ids)), 3 * number, None)
        block[:, 0] = number
        recorder.tokens(block, ["x"] * len(ids))
    assert recorder.sampled([[8, 9]]).tolist() == [[-1, 0, 0, 4, 9, 3]]
    assert recorder.sampled([[8]]).shape == (0, 6)
    assert recorder.token_count == 4


# ---------------------------------------------------------------------- what viewers see


class Viewer:
    """Reads a recorder now and then, and keeps what it saw."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.seen: dict[str, list[NDArray[np.int64]]] = {}
        self.routing = Routing.none(recorder.model.top_k)
        self._read = [0, 0, 0]
        self._waiting: dict[int, int] = {}  # copies of fetched experts that are not through

    def look(self) -> None:
        """Take in what is new."""
        recorder = self.recorder
        steps = recorder.step_rows(self._read[0])
        tokens = recorder.token_rows(self._read[1])
        notes = recorder.notes.read(self._read[2])
        self._read = [self._read[0] + len(steps), self._read[1] + len(tokens), notes.end]
        work, moves = notes.rows(self._waiting)
        rows = {"steps": steps, "tokens": tokens, "work": work, "moves": moves}
        for name, new in rows.items():
            self.seen.setdefault(name, []).append(new)
        self.routing = self.routing.and_then(notes.routing())

    def check(self, trace: Trace) -> None:
        """All together it is the trace."""
        seen = {name: np.concatenate(parts) for name, parts in self.seen.items()}
        np.testing.assert_array_equal(seen["steps"], trace.step_rows)
        np.testing.assert_array_equal(seen["tokens"], trace.token_rows)
        np.testing.assert_array_equal(seen["work"], trace.work_rows)
        np.testing.assert_array_equal(seen["moves"], trace.move_rows)
        for name, column in vars(trace.routing).items():
            np.testing.assert_array_equal(getattr(self.routing, name), column, err_msg=name)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_what_viewers_see_is_the_trace(every: int) -> None:
    rng = random.Random(1)
    driver = Driver(toy_plan(6, 2, "lru"))
    viewer = Viewer(driver.recorder)
    for number in range(12):
        plans = [random_plan(rng)] if number % 4 == 3 else []
        driver.step(rng, 5 if number == 0 else 1, plans=plans)
        if number % every == 0:
            viewer.look()
    viewer.look()
    trace = driver.trace()
    viewer.look()
    viewer.check(trace)
    assert tuple(driver.recorder.plans) == trace.plan_list
    assert tuple(driver.recorder.texts) == trace.texts


def test_a_run_is_read_while_it_is_written() -> None:
    """In mid-step, in mid-record: only what is whole is seen, and nothing twice."""
    driver, stop = Driver(toy_plan(6, 2, "lru")), threading.Event()
    viewer = Viewer(driver.recorder)

    def write() -> None:
        rng = random.Random(7)
        try:
            for number in range(400):
                plans = [random_plan(rng)] if number % 50 == 49 else []
                driver.step(rng, 5 if number == 0 else 1, plans=plans)
        finally:
            stop.set()

    writer = threading.Thread(target=write)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        while not stop.is_set():
            viewer.look()
    finally:
        sys.setswitchinterval(before)
        writer.join()
    viewer.look()
    viewer.check(driver.trace())
    assert len(viewer.seen["work"]) > 3


def test_recorded_rows_are_those_of_the_recording() -> None:
    """The builder that other tests rely on keeps to the schema."""
    trace = recorded(0, toy_plan(6, 2, "lru"), 6, replans=0.4, aborts=0.3)
    assert trace.steps["step"].tolist() == list(range(7))
    assert trace.tokens["step"].tolist() == sorted(trace.tokens["step"].tolist())
    assert trace.steps["token"].tolist() == [0, 5, 6, 7, 8, 9, 10]
