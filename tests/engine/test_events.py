"""The event schema, and the ring that viewers read while the engine writes."""

from __future__ import annotations

import random
import sys
import threading
import time

import numpy as np
import pytest

from engine.events import (
    MOVES,
    PLANS,
    STEPS,
    TABLES,
    TOKENS,
    WORK,
    Action,
    Clock,
    Lane,
    Ring,
    Rows,
    StepKind,
    Why,
    Work,
    columns,
    empty,
    to_rows,
)

PAIR = np.dtype([("number", np.int64), ("square", np.int64)])


def pairs(start: int, stop: int) -> Rows:
    """Rows that show when they were torn: a number and its square."""
    number = np.arange(start, stop, dtype=np.int64)
    return np.stack([number, number * number], axis=1)


# ---------------------------------------------------------------------- schema


def test_codes_are_stored_in_files_so_they_never_change() -> None:
    assert list(Clock) == [Clock.MEASURED, Clock.MODELLED] == [0, 1]
    assert list(StepKind) == [StepKind.PREFILL, StepKind.DECODE] == [0, 1]
    assert list(Action) == [Action.RESIDENT, Action.STREAM, Action.CPU] == [0, 1, 2]
    assert list(Lane) == [Lane.GPU, Lane.CPU, Lane.H2D, Lane.D2H] == [0, 1, 2, 3]
    assert list(Work) == [Work.DENSE, Work.EXPERT, Work.WEIGHTS, Work.ACTIVATIONS] == [0, 1, 2, 3]
    assert [why.name for why in Why] == ["STREAM", "ADMIT", "PIN", "UNPIN", "EVICT", "ACTIVATIONS"]
    assert list(Why) == [0, 1, 2, 3, 4, 5]


def test_every_field_is_a_64_bit_integer() -> None:
    tables = {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES, "plans": PLANS}
    assert dict(TABLES) == tables
    for dtype in tables.values():
        assert {dtype[name] for name in dtype.names or ()} == {np.dtype(np.int64)}
    for timed in (STEPS, WORK, MOVES):
        assert (timed.names or ())[-3:] == ("start_ns", "end_ns", "clock")


def test_flat_integers_become_rows_and_columns() -> None:
    rows = to_rows([1, 2, 3, 4, 5, 6, 7, 8], TOKENS)
    assert rows.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    named = columns(rows, TOKENS)
    assert list(named) == ["step", "sequence", "position", "id"]
    assert named["position"].tolist() == [3, 7]
    assert np.shares_memory(named["id"], rows)
    assert to_rows([], WORK).shape == empty(WORK).shape == (0, 10)
    assert to_rows([], WORK).dtype == empty(WORK).dtype == np.int64


# ---------------------------------------------------------------------- ring


def test_a_reader_pulls_what_is_new() -> None:
    ring = Ring(PAIR, 8)
    assert ring.read() == (pytest.approx(empty(PAIR)), 0, 0)
    ring.write(pairs(0, 3))
    rows, cursor, lost = ring.read()
    assert (rows.tolist(), cursor, lost) == ([[0, 0], [1, 1], [2, 4]], 3, 0)
    rows, cursor, lost = ring.read(cursor)
    assert (len(rows), cursor, lost) == (0, 3, 0)
    ring.write(pairs(3, 5))
    rows, cursor, lost = ring.read(cursor)
    assert (rows[:, 0].tolist(), cursor, lost) == ([3, 4], 5, 0)
    assert ring.written == 5
    assert repr(ring) == "Ring(8 rows, 5 written)"


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    ring = Ring(PAIR, 4)
    for start in range(0, 10, 2):
        ring.write(pairs(start, start + 2))
    rows, cursor, lost = ring.read()
    assert (rows[:, 0].tolist(), cursor, lost) == ([6, 7, 8, 9], 10, 6)
    assert ring.read(7)[0][:, 0].tolist() == [7, 8, 9]
    assert ring.read(5)[2] == 1


def test_more_rows_at_once_than_the_ring_holds() -> None:
    ring = Ring(PAIR, 4)
    ring.write(pairs(0, 3))
    ring.write(pairs(3, 14))
    rows, cursor, lost = ring.read(3)
    assert (rows[:, 0].tolist(), cursor, lost) == ([10, 11, 12, 13], 14, 7)


def test_writing_nothing() -> None:
    ring = Ring(PAIR, 4)
    ring.write(empty(PAIR))
    ring.write(pairs(0, 4))
    ring.write(empty(PAIR))
    assert ring.read()[0][:, 0].tolist() == [0, 1, 2, 3]


def test_what_was_read_is_a_copy() -> None:
    ring = Ring(PAIR, 2)
    ring.write(pairs(0, 2))
    rows, _, _ = ring.read()
    ring.write(pairs(2, 4))
    assert rows[:, 0].tolist() == [0, 1]


def test_a_cursor_of_another_ring_starts_over() -> None:
    ring = Ring(PAIR, 4)
    ring.write(pairs(0, 2))
    rows, cursor, lost = ring.read(50)
    assert (len(rows), cursor, lost) == (0, 2, 0)


@pytest.mark.parametrize("seed", range(10))
def test_any_writes_and_reads(seed: int) -> None:
    """Rows read and rows lost are all rows written, in order."""
    rng = random.Random(seed)
    ring = Ring(PAIR, rng.randrange(1, 20))
    cursor = written = seen = 0
    for _ in range(200):
        if rng.random() < 0.7:
            many = rng.randrange(30)
            ring.write(pairs(written, written + many))
            written += many
        else:
            rows, cursor, lost = ring.read(cursor)
            seen += lost
            np.testing.assert_array_equal(rows, pairs(seen, seen + len(rows)))
            seen += len(rows)
            assert seen == cursor == written == ring.written


def test_a_read_in_the_middle_of_a_write_returns_no_torn_rows() -> None:
    """The reader comes when the new rows are in, and the writer has not yet said so."""

    class Interrupted(Ring):
        seen: tuple[Rows, int, int] | None = None

        def __setattr__(self, name: str, value: object) -> None:
            if name == "_written" and value == 6:
                self.seen = self.read(0)
            super().__setattr__(name, value)

    ring = Interrupted(PAIR, 4)
    ring.write(pairs(0, 4))
    ring.write(pairs(4, 6))  # overwrites rows 0 and 1
    assert ring.seen is not None
    rows, cursor, lost = ring.seen
    assert (rows.tolist(), cursor, lost) == ([[2, 4], [3, 9]], 4, 2)
    assert ring.read(cursor)[0][:, 0].tolist() == [4, 5]


def test_a_concurrent_reader_never_sees_torn_rows() -> None:
    """A writer that laps its reader again and again, and threads that take turns often."""
    ring, stop = Ring(PAIR, 1000), threading.Event()
    block = pairs(0, 300)

    def write() -> None:
        while not stop.is_set():
            block[:, 0] = np.arange(ring.written, ring.written + len(block))
            block[:, 1] = block[:, 0] ** 2
            ring.write(block)

    writer = threading.Thread(target=write)
    seen = cursor = lapped = 0
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        deadline = time.monotonic() + 10
        while lapped < 1000 and time.monotonic() < deadline:
            time.sleep(0)  # the writer's turn, until this thread wants to go on
            rows, cursor, lost = ring.read(cursor)
            seen += lost
            lapped += lost > 0
            assert (rows[:, 0] == np.arange(seen, seen + len(rows))).all()
            assert (rows[:, 1] == rows[:, 0] ** 2).all()
            seen += len(rows)
            assert seen == cursor
    finally:
        sys.setswitchinterval(before)
        stop.set()
        writer.join()
    rows, cursor, lost = ring.read(cursor)
    assert seen + lost + len(rows) == cursor == ring.written
    assert lapped
