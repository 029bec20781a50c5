"""The recorder: nothing is dropped, viewers see rows as they come, last tokens are found."""

from __future__ import annotations

import random
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.events import STEPS, Clock, StepKind
from engine.feed import Feed, NoteRing
from engine.notes import ROUTED, HeadNote, routed_rows, rows_of
from engine.recorder import Recorder
from engine.trace import Start, Trace
from tests.engine.builders import (
    COSTS,
    MODEL,
    Driver,
    random_plan,
    recorded,
    routing_note,
    toy_plan,
)

DECODE, PREFILL = StepKind.DECODE, StepKind.PREFILL


def routed(trace: Trace) -> list[tuple[int, ...]]:
    """A trace's routing as the ring has it: one row per token, layer and rank."""
    r = trace.routing
    return [
        (step, layer, token, rank, expert)
        for step, layer, token, experts in zip(
            r.step.tolist(), r.layer.tolist(), r.token.tolist(), r.experts.tolist(), strict=True
        )
        for rank, expert in enumerate(experts)
    ]


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
    recorder.note(routing_note(0, 0, 0, [[3, 1], [0, 2]], [[0.75, 0.25], [0.5, 0.5]]))
    recorder.note(routing_note(0, 1, 0, [[2, 0], [1, 0]], [[1.0, 0.0], [0.9, 0.1]]))
    recorder.note(routing_note(1, 0, 2, [[0, 3]], [[0.6, 0.4]]))
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


@pytest.mark.parametrize("length", [1, 7, 10_000])
def test_how_often_notes_are_settled_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    def run() -> Trace:
        return recorded(4, toy_plan(6, 2, "lru"), 30, replans=0.3, aborts=0.2)

    expected = run()
    monkeypatch.setattr("engine.recorder.SETTLE_NOTES", length)
    made = run()
    for name in ("step_rows", "token_rows", "work_rows", "move_rows"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(made.routing.experts, expected.routing.experts)


def test_a_step_cut_short_ends_with_its_last_layer() -> None:
    """Interrupted between the head and the step's row: the head did not happen."""
    recorder = Recorder(MODEL, toy_plan(4), Start())
    recorder.note(replace(routing_note(0, 0, 0, [[3, 1]], [[0.5, 0.5]]), start_ns=10, end_ns=70))
    recorder.note(HeadNote(0, 1, 70, 80, COSTS))
    recorder.step((0, StepKind.DECODE, 1, 1, 0, 0, 0, 0, 10, 80, Clock.MODELLED))
    recorder.step((1, StepKind.DECODE, 1, 1, 0, 0, 0, 0, 70, 99, Clock.MODELLED))
    trace = recorder.trace({})
    assert trace.steps["end_ns"].tolist() == [70, 70]
    assert (trace.work["layer"] == 0).all()


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


def recording(steps: list[tuple[StepKind, list[tuple[int, int]]]]) -> Recorder:
    """Steps of given kinds, with ``(sequence, position)`` of each of their tokens."""
    recorder = Recorder(MODEL, toy_plan(2), Start())
    for number, (kind, tokens) in enumerate(steps):
        rows = np.array([(number, *token, 50 + number) for token in tokens], dtype=np.int64)
        recorder.tokens(rows, ["x"] * len(rows))
        recorder.step((number, kind, len(rows), 1, 0, 0, 0, 1, 0, 0, Clock.MODELLED))
    return recorder


def test_the_last_token_of_a_generation_was_never_processed() -> None:
    recorder = recording([(PREFILL, [(0, 0), (0, 1), (0, 2)]), (DECODE, [(0, 3)])])
    assert recorder.sampled([[7, 8]]).tolist() == [[-1, 0, 4, 8]]
    assert recorder.sampled([[7]]).shape == (0, 4)
    assert recorder.token_count == 4


def test_a_generation_stopped_in_its_prompt_or_right_after_it() -> None:
    recorder = recording([(PREFILL, [(0, 0), (0, 1)])])
    assert recorder.sampled([[]]).shape == (0, 4)
    assert recorder.sampled([[7]]).tolist() == [[-1, 0, 2, 7]]
    assert Recorder(MODEL, toy_plan(2), Start()).sampled([[7]]).shape == (0, 4)


def test_sequences_of_a_batch_end_each_at_its_own_position() -> None:
    """The second prompt is shorter: padded on the left, with position -1."""
    recorder = recording(
        [
            (PREFILL, [(0, 0), (0, 1), (1, -1), (1, 0)]),
            (DECODE, [(0, 2), (1, 1)]),
            (DECODE, [(0, 3), (1, 2)]),
        ]
    )
    assert recorder.sampled([[1, 2, 3], [4, 5, 6]]).tolist() == [[-1, 0, 4, 3], [-1, 1, 3, 6]]


def test_a_prompt_processed_in_chunks_is_all_prompt() -> None:
    recorder = recording(
        [
            (PREFILL, [(0, 0), (0, 1)]),
            (PREFILL, [(0, 2), (0, 3)]),
            (DECODE, [(0, 4)]),
        ]
    )
    assert recorder.sampled([[7, 8, 9]]).tolist() == [[-1, 0, 5, 8], [-1, 0, 6, 9]]


def test_beams_are_left_alone() -> None:
    """Two beams ran for one answer: which tokens it kept is not known here."""
    recorder = recording([(PREFILL, [(0, 0), (1, 0)]), (DECODE, [(0, 1), (1, 1)])])
    assert recorder.sampled([[1, 2, 3]]).shape == (0, 4)


# ---------------------------------------------------------------------- what viewers see


def drain(feed: Feed, cursors: dict[str, int]) -> dict[str, NDArray[np.int64]]:
    """What is new in every ring; nothing may have been lost."""
    new: dict[str, Any] = {}
    for name in ("steps", "tokens", "notes"):
        new[name], cursors[name], lost = getattr(feed, name).read(cursors.get(name, 0))
        assert lost == 0
    notes = new.pop("notes")
    new["work"], new["moves"] = rows_of(notes, feed.run.clock)
    new["routing"] = routed_rows(notes, MODEL.top_k)
    return new


def test_the_feed_is_the_trace() -> None:
    feed, rng = Feed(), random.Random(1)
    driver = Driver(toy_plan(6, 2, "lru"), feed=feed)
    pulled: list[dict[str, NDArray[np.int64]]] = []
    cursors: dict[str, int] = {}
    for number in range(12):
        plans = [random_plan(rng)] if number % 4 == 3 else []
        driver.step(rng, 5 if number == 0 else 1, plans=plans)
        if number % 3 == 0:
            pulled.append(drain(feed, cursors))
    pulled.append(drain(feed, cursors))
    trace = driver.trace()
    pulled.append(drain(feed, cursors))
    seen: dict[str, Any] = {
        name: np.concatenate([new[name] for new in pulled]) for name in pulled[0]
    }
    tables = {
        "steps": trace.step_rows,
        "tokens": trace.token_rows,
        "work": trace.work_rows,
        "moves": trace.move_rows,
    }
    for name, rows in tables.items():
        np.testing.assert_array_equal(seen[name], rows, err_msg=name)
    assert [tuple(row) for row in seen["routing"].tolist()] == routed(trace)
    assert tuple(feed.run.plans) == trace.plan_list
    assert tuple(feed.run.texts) == trace.texts
    assert repr(feed) == "Feed(run 1, 12 steps)"


def test_a_step_is_seen_after_its_work() -> None:
    """Who sees a step's row finds its notes."""
    feed, rng = Feed(), random.Random(2)
    driver = Driver(toy_plan(4), feed=feed)
    write = feed.steps.write
    seen: list[int] = []

    def check(rows: NDArray[np.int64]) -> None:
        notes, _, _ = feed.notes.read()
        seen.append(notes[-1].step)
        assert notes[-1].step == rows[0, 0]
        write(rows)

    feed.steps.write = check  # type: ignore[method-assign]
    for _ in range(3):
        driver.step(rng)
    assert seen == [0, 1, 2]


def test_each_run_starts_the_feed_over() -> None:
    feed = Feed()
    first = Driver(toy_plan(4), feed=feed)
    first.step(random.Random(0))
    second = Driver(toy_plan(5), feed=feed)
    run = feed.run
    assert (run.number, run.clock) == (2, Clock.MODELLED)
    assert (run.steps_begin, run.tokens_begin) == (1, 1)
    assert run.notes_begin == feed.notes.written
    assert run.plans == second.recorder.plans
    assert run.texts == []
    assert first.recorder.texts  # the first run's are its own


def test_without_a_feed_the_trace_is_the_same() -> None:
    one, other = Driver(toy_plan(6, 2, "lru"), feed=Feed()), Driver(toy_plan(6, 2, "lru"))
    for driver in (one, other):
        rng = random.Random(3)
        for _ in range(5):
            driver.step(rng)
    np.testing.assert_array_equal(one.trace().work_rows, other.trace().work_rows)


# ---------------------------------------------------------------------- the notes' ring


def test_routing_is_unpacked_by_its_reader() -> None:
    note = routing_note(5, 1, 8, [[3, 1], [0, 2]], [[0.5, 0.5], [0.5, 0.5]])
    assert routed_rows([note], 2).tolist() == [
        [5, 1, 8, 0, 3],
        [5, 1, 8, 1, 1],
        [5, 1, 9, 0, 0],
        [5, 1, 9, 1, 2],
    ]
    assert ROUTED.names == ("step", "layer", "token", "rank", "expert")
    assert routed_rows([], 2).shape == (0, 5)


def head(number: int) -> HeadNote:
    return HeadNote(number, 1, 0, 0, COSTS)


def test_who_reads_too_late_is_told_how_much_is_lost() -> None:
    ring = NoteRing(4)
    assert ring.read() == ([], 0, 0)
    for number in range(2):
        ring.write(head(number))
    notes, cursor, lost = ring.read()
    assert ([note.step for note in notes], cursor, lost) == ([0, 1], 2, 0)
    for number in range(2, 9):
        ring.write(head(number))
    notes, cursor, lost = ring.read(cursor)
    assert ([note.step for note in notes], cursor, lost) == ([5, 6, 7, 8], 9, 3)
    assert ring.read(cursor) == ([], 9, 0)
    assert (ring.written, repr(ring)) == (9, "NoteRing(4 notes, 9 written)")


def test_notes_are_read_while_they_are_written() -> None:
    ring, stop = NoteRing(50), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            ring.write(head(number))
            number += 1

    writer = threading.Thread(target=write)
    cursor = seen = lapped = 0
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        deadline = time.monotonic() + 10
        while lapped < 50 and time.monotonic() < deadline:
            time.sleep(0)
            notes, cursor, lost = ring.read(cursor)
            seen += lost
            lapped += lost > 0
            assert [note.step for note in notes] == list(range(seen, seen + len(notes)))
            seen += len(notes)
            assert seen == cursor
    finally:
        sys.setswitchinterval(before)
        stop.set()
        writer.join()


def test_recorded_rows_are_those_of_the_recording() -> None:
    """The builder that other tests rely on keeps to the schema."""
    trace = recorded(0, toy_plan(6, 2, "lru"), 6, replans=0.4, aborts=0.3)
    assert trace.steps["step"].tolist() == list(range(7))
    assert trace.tokens["step"].tolist() == sorted(trace.tokens["step"].tolist())
    assert trace.steps["token"].tolist() == [0, 5, 6, 7, 8, 9, 10]
