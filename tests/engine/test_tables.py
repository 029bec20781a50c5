"""Tables as pandas frames: every column, codes as names, missing ones as missing values."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.errors import UnknownNameError
from engine.events import MOVES, STEPS, TOKENS, WORK, Action, Clock, Lane, StepKind, Why, Work
from engine.tables import TABLE_FRAMES
from engine.trace import Trace
from tests.engine.builders import Driver, recorded, toy_plan

CODES = {
    "steps": {"kind": StepKind, "clock": Clock},
    "work": {"kind": Work, "action": Action, "lane": Lane, "clock": Clock},
    "moves": {"why": Why, "lane": Lane, "clock": Clock},
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Pins, admissions, evictions, streams, CPU: every kind of row."""
    rng = random.Random(0)
    driver = Driver(toy_plan(6, 2, "lru"))
    for plan in (
        toy_plan(6, 2),
        toy_plan(4, 2, "lru"),
        toy_plan(7, 0, "cpu"),
        toy_plan(6, 4, "prefetch"),
    ):
        driver.step(rng, 4)
        driver.step(rng, plans=[plan])
    made = driver.trace()
    assert set(made.moves["why"].tolist()) == set(Why)
    assert set(made.work["action"].tolist()) == {-1, *Action}
    return made


@pytest.mark.parametrize("table", ["step", [], {}, 3, None, np.array([1, 2])])
def test_tables_have_names(trace: Trace, table: Any) -> None:
    with pytest.raises(UnknownNameError, match="Valid names: steps, tokens, routing"):
        trace.to_pandas(table)


@pytest.mark.parametrize("table", ["steps", "work", "moves"])
def test_codes_become_names(trace: Trace, table: str) -> None:
    frame, columns = trace.to_pandas(table), getattr(trace, table)
    assert list(frame.columns) == list(columns)
    assert len(frame) == len(next(iter(columns.values())))
    for name, values in columns.items():
        if name not in CODES[table]:
            assert frame[name].dtype == np.int64
            assert frame[name].tolist() == values.tolist()
            continue
        kind = CODES[table][name]
        assert list(frame[name].cat.categories) == [code.name.lower() for code in kind]
        assert frame[name].cat.codes.tolist() == values.tolist()
        missing = frame[name].isna().tolist()
        assert missing == (values == -1).tolist()
        shown = [
            None if gone else str(text) for gone, text in zip(missing, frame[name], strict=True)
        ]
        assert shown == [None if v == -1 else kind(v).name.lower() for v in values.tolist()]


def test_all_fields_are_there() -> None:
    assert set(TABLE_FRAMES) == {"steps", "tokens", "routing", "work", "moves", "plans"}
    assert {name for name, dtype in (("steps", STEPS), ("work", WORK), ("moves", MOVES))} == set(
        CODES
    )
    for name, codes in CODES.items():
        dtype = {"steps": STEPS, "work": WORK, "moves": MOVES}[name]
        assert set(codes) <= set(dtype.names or ())


def test_work_that_is_no_expert_s_has_no_action(trace: Trace) -> None:
    frame = trace.to_pandas("work")
    dense = frame[frame["kind"] == "dense"]
    assert dense["action"].isna().all()
    assert frame[frame["kind"] == "expert"]["action"].notna().all()


def test_evictions_crossed_nothing(trace: Trace) -> None:
    frame = trace.to_pandas("moves")
    gone = frame[frame["why"].isin(["evict", "unpin"])]
    assert len(gone) and gone["lane"].isna().all() and (gone["bytes"] == 0).all()


def test_tokens_with_their_texts(trace: Trace) -> None:
    frame = trace.to_pandas("tokens")
    assert list(frame.columns) == [*(TOKENS.names or ()), "text"]
    assert frame["text"].tolist() == list(trace.texts)
    bare = replace(trace, texts=()).to_pandas("tokens")
    assert list(bare.columns) == list(TOKENS.names or ())


def test_hostile_texts_stay_as_they_are(trace: Trace) -> None:
    texts = ["\ud800", "\x00", "<b>", "", "NaN", "None", "\ud83d\ude00"]
    many = len(trace.token_rows)
    hostile = replace(trace, texts=tuple((texts * many)[:many]))
    frame = hostile.to_pandas("tokens")
    assert frame["text"].tolist() == list(hostile.texts)
    assert not frame["text"].isna().any()


def test_routing_has_a_row_for_each_choice(trace: Trace) -> None:
    frame, routing = trace.to_pandas("routing"), trace.routing
    assert list(frame.columns) == ["step", "layer", "token", "rank", "expert", "weight"]
    assert len(frame) == 2 * len(routing)
    for row in (0, 7, len(routing) - 1):
        pair = frame.iloc[2 * row : 2 * row + 2]
        assert pair["rank"].tolist() == [0, 1]
        assert pair["expert"].tolist() == routing.experts[row].tolist()
        assert pair["weight"].tolist() == routing.weights[row].tolist()
        for name in ("step", "layer", "token"):
            assert set(pair[name].tolist()) == {int(getattr(routing, name)[row])}


def test_plans(trace: Trace) -> None:
    frame = trace.to_pandas("plans")
    assert frame["plan"].tolist() == [0, 1, 2, 3, 4]
    assert frame["step"].tolist() == [0, 1, 3, 5, 7]
    assert frame["policy"].tolist() == ["lru", "fiddler", "lru", "cpu", "prefetch"]
    assert frame["cache_slots"].tolist() == [2, 2, 2, 0, 4]
    assert frame["hardware"].tolist() == ["toy-machine"] * 5


@pytest.mark.parametrize("table", TABLE_FRAMES)
def test_of_an_empty_trace(table: str) -> None:
    empty, full = Driver(toy_plan(4)).trace(), recorded(0, toy_plan(4), 2)
    frame = empty.to_pandas(table)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == (1 if table == "plans" else 0)
    wanted = [name for name in full.to_pandas(table).columns if name != "text"]
    assert list(frame.columns) == wanted


def test_frames_are_their_own(trace: Trace) -> None:
    """Writing into a frame does not change the trace."""
    before = trace.step_rows.copy()
    frame = trace.to_pandas("steps")
    frame.loc[:, "tokens"] = 0
    np.testing.assert_array_equal(trace.step_rows, before)
