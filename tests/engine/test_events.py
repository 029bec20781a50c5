"""The event schema: its tables, as columns and as rows."""

from __future__ import annotations

import numpy as np

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
    StepKind,
    Why,
    Work,
    columns,
    empty,
    to_rows,
)


def test_codes_are_stored_in_files_so_they_never_change() -> None:
    assert list(Clock) == [Clock.MEASURED, Clock.MODELLED] == [0, 1]
    assert list(StepKind) == [StepKind.PREFILL, StepKind.DECODE] == [0, 1]
    assert list(Action) == [Action.RESIDENT, Action.STREAM, Action.CPU] == [0, 1, 2]
    assert list(Lane) == [Lane.GPU, Lane.CPU, Lane.H2D, Lane.D2H] == [0, 1, 2, 3]
    assert list(Work) == [Work.DENSE, Work.EXPERT, Work.WEIGHTS, Work.ACTIVATIONS] == [0, 1, 2, 3]
    assert [why.name for why in Why] == [
        "STREAM", "ADMIT", "PIN", "UNPIN", "EVICT", "ACTIVATIONS", "FETCH", "AHEAD",
    ]  # fmt: skip
    assert list(Why) == list(range(8))


def test_every_field_is_a_64_bit_integer() -> None:
    tables = {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES, "plans": PLANS}
    assert dict(TABLES) == tables
    for dtype in tables.values():
        assert {dtype[name] for name in dtype.names or ()} == {np.dtype(np.int64)}
    for timed in (STEPS, WORK, MOVES):
        assert (timed.names or ())[-3:] == ("start_ns", "end_ns", "clock")


def test_flat_integers_become_rows_and_columns() -> None:
    rows = to_rows(list(range(12)), TOKENS)
    assert rows.tolist() == [list(range(6)), list(range(6, 12))]
    named = columns(rows, TOKENS)
    assert list(named) == ["step", "sequence", "beam", "position", "id", "parent"]
    assert named["position"].tolist() == [3, 9]
    assert np.shares_memory(named["id"], rows)
    assert to_rows([], WORK).shape == empty(WORK).shape == (0, 10)
    assert to_rows([], WORK).dtype == empty(WORK).dtype == np.int64
