"""A trace in memory: its columns, its batch, and what it refuses to be."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError, TraceError, UnknownNameError
from engine.events import MOVES, STEPS, TOKENS, WORK, Clock, Rows, StepKind, Why, Work
from engine.happened import Recorded
from engine.recorder import Recorder
from engine.replay import replay
from engine.trace import Start, Trace
from tests.engine.builders import MODEL, Driver, note_routing, recorded, toy_plan, use

TABLES = {"step_rows": STEPS, "token_rows": TOKENS, "work_rows": WORK, "move_rows": MOVES}


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Fiddler with slots, replanned now and then, two steps cut short."""
    return recorded(11, toy_plan(6, 2), 12, replans=0.2, aborts=0.2)


def with_rows(trace: Trace, table: str, rows: Rows) -> Trace:
    if table in ("work_rows", "move_rows"):
        known = {"work_rows": trace.work_rows, "move_rows": trace.move_rows}
        return replace(trace, happened=Recorded(**known | {table: rows}))
    return replace(trace, **{table: rows})


def put(trace: Trace, column: str, row: int, value: int) -> Trace:
    """The trace with one number replaced: ``put(trace, "work_rows.lane", 3, 9)``."""
    table, field = column.split(".")
    rows: Rows = getattr(trace, table).copy()
    rows[row, list(TABLES[table].names or ()).index(field)] = value
    return with_rows(trace, table, rows)


# ---------------------------------------------------------------------- what it holds


def test_columns_are_views_of_the_rows(trace: Trace) -> None:
    for name, (rows, table, dtype) in {
        "steps": (trace.step_rows, trace.steps, STEPS),
        "tokens": (trace.token_rows, trace.tokens, TOKENS),
        "work": (trace.work_rows, trace.work, WORK),
        "moves": (trace.move_rows, trace.moves, MOVES),
    }.items():
        assert tuple(table) == dtype.names, name
        for i, column in enumerate(table.values()):
            np.testing.assert_array_equal(column, rows[:, i])
            assert np.shares_memory(column, rows)
            with pytest.raises(ValueError, match="read-only"):
                column[:] = 0


def test_nothing_of_it_can_be_written_to(trace: Trace, tmp_path: Path) -> None:
    loaded, again = Trace.load(trace.save(tmp_path / "t")), replay(trace, policy="lru").trace
    for made in (trace, loaded, again, trace.until(3)):
        rows = (made.step_rows, made.token_rows, made.work_rows, made.move_rows)
        routing = [column for column in vars(made.routing).values() if column is not None]
        for array in (*rows, *routing, *made.plans.values()):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = array[::-1]


def test_a_trace_equals_itself_and_can_be_a_key(trace: Trace) -> None:
    other = replace(trace)
    assert trace == trace and trace != other
    assert len({trace: 1, other: 2}) == 2


def test_plans_as_a_table(trace: Trace) -> None:
    plans = trace.plans
    assert set(map(len, plans.values())) == {len(trace.plan_list)}
    assert plans["step"].tolist() == [step for step, _ in trace.plan_list]
    assert plans["gpu_memory_bytes"].tolist() == [p.gpu_memory for _, p in trace.plan_list]
    assert plans["policy"].tolist() == [p.policy for _, p in trace.plan_list]
    assert trace.plan is trace.plan_list[-1][1]


def test_the_batch_counts_the_routing(trace: Trace) -> None:
    """Against a plain loop over the routing's rows."""
    routing, counted = trace.routing, Counter[tuple[int, int, int]]()
    for step, layer, experts in zip(
        routing.step.tolist(), routing.layer.tolist(), routing.experts.tolist(), strict=True
    ):
        counted.update((step, layer, expert) for expert in experts)
    batch = trace.batch
    step, layer = batch.step[batch.segment].tolist(), batch.layer[batch.segment].tolist()
    found = list(zip(step, layer, batch.expert.tolist(), strict=True))
    assert found == sorted(counted)
    assert batch.count.tolist() == [counted[key] for key in found]
    assert batch.tokens.tolist() == trace.steps["tokens"][batch.step].tolist()
    assert trace.batch is batch  # made once


def test_one_token_of_one_layer() -> None:
    """The smallest batch: nothing before it to differ from."""
    recorder = Recorder(MODEL, toy_plan(1), Start())
    recorder.tokens(np.array([[0, 0, 0, 0, 7, -1]]), ["x"])
    note_routing(recorder.notes, 0, 0, 0, [[3, 1]], [[0.75, 0.25]])
    recorder.step((0, StepKind.PREFILL, 1, 1, 1, 0, 0, 0, 0, 0, Clock.MODELLED))
    batch = recorder.trace({}).check().batch
    assert (batch.step.tolist(), batch.layer.tolist(), batch.tokens.tolist()) == ([0], [0], [1])
    assert (batch.expert.tolist(), batch.count.tolist()) == ([1, 3], [1, 1])


def test_nothing_recorded() -> None:
    trace = Driver(toy_plan(4)).trace()
    assert (len(trace.batch.step), len(trace.batch.expert)) == (0, 0)
    assert trace.clock == Clock.MODELLED
    assert trace.duration_ns == 0
    assert trace.decode_steps.tolist() == []
    assert repr(trace) == "Trace(toy: 3 layers x 4 experts, 0 steps, 0 tokens, modelled clock)"


def test_figures() -> None:
    trace = recorded(0, toy_plan(4), 5)
    assert repr(trace) == "Trace(toy: 3 layers x 4 experts, 6 steps, 10 tokens, modelled clock)"
    assert trace.duration_ns == trace.steps["end_ns"][-1] == trace.work["end_ns"].max()
    assert trace.decode_steps.tolist() == [1, 2, 3, 4, 5]
    assert len(trace.routing) == 10 * 3


def test_a_step_that_was_cut_short_is_no_decode_step() -> None:
    driver, rng = Driver(toy_plan(4)), random.Random(0)
    driver.step(rng, 5)
    driver.step(rng)
    driver.step(rng, layers=1)
    assert driver.trace().decode_steps.tolist() == [1]


def test_an_unknown_table_is_named(trace: Trace) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown table 'works'. Did you mean 'work'\?"):
        trace.to_pandas("works")


# ---------------------------------------------------------------------- what it refuses


def test_a_sound_trace_is_returned(trace: Trace) -> None:
    assert trace.check() is trace
    sampled = replace(trace, token_rows=np.concatenate([trace.token_rows, [[-1, 0, 0, 30, 2, 9]]]))
    assert replace(sampled, texts=()).check()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("step_rows.step", 1),
        ("step_rows.step", 99),
        ("step_rows.kind", 2),
        ("step_rows.tokens", -1),
        ("step_rows.sequences", -1),
        ("step_rows.context", -5),
        ("step_rows.token", -1),
        ("step_rows.plan", 99),
        ("step_rows.plan", -1),
        ("step_rows.complete", 2),
        ("step_rows.start_ns", -1),
        ("step_rows.end_ns", -1),
        ("step_rows.clock", 2),
        ("token_rows.step", 99),
        ("token_rows.step", -2),
        ("token_rows.sequence", -1),
        ("token_rows.beam", -1),
        ("token_rows.parent", -2),
        ("token_rows.parent", 0),
        ("token_rows.parent", 99),
        ("work_rows.step", 99),
        ("work_rows.step", -1),
        ("work_rows.layer", 3),
        ("work_rows.layer", -2),
        ("work_rows.expert", 4),
        ("work_rows.expert", -2),
        ("work_rows.kind", 4),
        ("work_rows.kind", -1),
        ("work_rows.action", 3),
        ("work_rows.action", -2),
        ("work_rows.tokens", -1),
        ("work_rows.lane", 4),
        ("work_rows.lane", -1),
        ("work_rows.end_ns", -1),
        ("work_rows.clock", -1),
        ("move_rows.step", 99),
        ("move_rows.layer", 3),
        ("move_rows.layer", -1),
        ("move_rows.expert", 4),
        ("move_rows.why", 6),
        ("move_rows.why", -1),
        ("move_rows.lane", 4),
        ("move_rows.lane", -2),
        ("move_rows.bytes", -1),
        ("move_rows.start_ns", 2**62),
        ("move_rows.clock", 7),
    ],
)
def test_numbers_out_of_range(trace: Trace, column: str, value: int) -> None:
    wrong = put(trace, column, 0, value)
    with pytest.raises(TraceError, match=column.split("_")[0]):
        wrong.check()


@pytest.mark.parametrize("parent", [3, 4, 2**62])
def test_a_token_follows_an_earlier_one(trace: Trace, parent: int) -> None:
    with pytest.raises(TraceError, match="an earlier row"):
        put(trace, "token_rows.parent", 3, parent).check()


def test_a_token_follows_one_of_its_own_sequence(trace: Trace) -> None:
    assert put(trace, "token_rows.parent", 3, 0).check()
    with pytest.raises(TraceError, match="of the same sequence"):
        put(trace, "token_rows.sequence", 3, 1).check()


def test_the_path_to_a_token(trace: Trace) -> None:
    many = len(trace.token_rows)
    assert trace.path().tolist() == trace.path(many - 1).tolist() == list(range(many))
    assert trace.path(0).tolist() == trace.path(-many).tolist() == [0]
    for row in (many, -many - 1, "x", 1.5, True, None):
        with pytest.raises(InputError, match=f"this trace has {many} tokens"):
            trace.path(row)  # type: ignore[arg-type]


@pytest.mark.parametrize("column", ["work_rows.expert", "work_rows.layer", "work_rows.action"])
def test_an_expert_s_work_names_expert_layer_and_action(trace: Trace, column: str) -> None:
    row = int(np.flatnonzero(trace.work["kind"] == Work.EXPERT)[0])
    with pytest.raises(TraceError, match=column.replace("_rows", "")):
        put(trace, column, row, -1).check()


def test_a_move_names_its_expert_unless_it_is_activations(trace: Trace) -> None:
    row = int(np.flatnonzero(trace.moves["why"] != Why.ACTIVATIONS)[0])
    with pytest.raises(TraceError, match="expert of an expert"):
        put(trace, "move_rows.expert", row, -1).check()


def test_rows_stand_in_the_order_of_steps(trace: Trace) -> None:
    for name in ("work_rows", "move_rows"):
        with pytest.raises(TraceError, match="must not decrease"):
            with_rows(trace, name, getattr(trace, name)[::-1].copy()).check()
    routing = replace(trace.routing, step=trace.routing.step[::-1].copy())
    with pytest.raises(TraceError, match=r"routing\.step must not decrease"):
        replace(trace, routing=routing).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", 99), ("step", -1), ("layer", 3), ("layer", -1), ("token", 99), ("token", -1)],
)
def test_routing_out_of_range(trace: Trace, name: str, value: int) -> None:
    column = getattr(trace.routing, name).copy()
    column[-1 if value > 0 else 0] = value
    with pytest.raises(TraceError, match=f"routing.{name}"):
        replace(trace, routing=replace(trace.routing, **{name: column})).check()


@pytest.mark.parametrize("value", [-1, 4])
def test_routed_experts_out_of_range(trace: Trace, value: int) -> None:
    experts = trace.routing.experts.copy()
    experts[5, 1] = value
    with pytest.raises(TraceError, match=r"routing\.experts holds values"):
        replace(trace, routing=replace(trace.routing, experts=experts)).check()


@pytest.mark.parametrize("name", ["step", "layer", "token", "experts", "weights"])
def test_routing_columns_are_equally_long(trace: Trace, name: str) -> None:
    short = replace(trace.routing, **{name: getattr(trace.routing, name)[:-1]})
    with pytest.raises(TraceError, match="routing"):
        replace(trace, routing=short).check()


def test_a_complete_step_has_routing(trace: Trace) -> None:
    """Without it a replay has nothing to lay out for that step."""
    whole = int(np.flatnonzero(trace.steps["complete"] == 1)[-1])
    at = trace.routing.step != whole
    names = ("step", "layer", "token", "experts", "weights")
    less = replace(trace.routing, **{name: getattr(trace.routing, name)[at] for name in names})
    with pytest.raises(TraceError, match="routing holds nothing of a complete step"):
        replace(trace, routing=less).check()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "at least one plan"),
        ([1], "begin at step 0"),
        ([-1], "begin at step 0"),
        ([0, 5, 3], "ascend"),
        ([0, 99], "ascend"),
    ],
)
def test_plans_take_turns_from_the_first_step(trace: Trace, steps: list[int], message: str) -> None:
    plans = tuple((step, toy_plan(4)) for step in steps)
    with pytest.raises(TraceError, match=message):
        replace(trace, plan_list=plans).check()


def test_plans_are_for_the_model_s_grid(trace: Trace) -> None:
    wider = replace(MODEL, experts=5)
    with pytest.raises(TraceError, match=r"grid is \(3, 5\), the model's \(3, 4\)"):
        replace(trace, plan_list=((0, toy_plan(4, model=wider)),)).check()


@pytest.mark.parametrize(
    ("cached", "message"),
    [
        ((12,), "start.cached holds values"),
        ((-1,), "start.cached holds values"),
        ((5, 5), "twice"),
        ((0,), "pinned"),
        ((5, 6, 7), "3 for 2 slots"),
    ],
)
def test_a_start_fits_the_first_plan(cached: tuple[int, ...], message: str) -> None:
    trace = recorded(0, toy_plan(6, 2), 2)
    with pytest.raises(TraceError, match=message):
        replace(trace, start=Start(cached)).check()


def test_one_text_for_each_token(trace: Trace) -> None:
    with pytest.raises(TraceError, match="2 texts for"):
        replace(trace, texts=("a", "b")).check()


@pytest.mark.parametrize("seed", range(5))
def test_what_passes_the_check_can_be_used(seed: int) -> None:
    """One random number in it changed: refused, or every view of it works."""
    rng = random.Random(seed)
    sound = recorded(seed, toy_plan(6, 2, "lru"), 4, replans=0.3)
    refused = 0
    for _ in range(60):
        table = rng.choice(list(TABLES))
        fields = TABLES[table].names or ()
        row = rng.randrange(len(getattr(sound, table)))
        odd = put(sound, f"{table}.{rng.choice(fields)}", row, rng.randrange(-3, 14))
        try:
            odd.check()
        except TraceError:
            refused += 1
            continue
        use(odd)
    assert 0 < refused < 60
