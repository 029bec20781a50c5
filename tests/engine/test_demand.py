"""What runs ask of their experts, by hand and against the trace's own rows."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from engine.crossover import crossover
from engine.demand import BINS, bin_of, demand, scenarios
from engine.errors import InputError
from engine.events import Action, Clock, StepKind
from engine.replay import replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from tests.engine.builders import Driver, recorded, toy_plan

DECODE, PREFILL = StepKind.DECODE, StepKind.PREFILL


def test_bins_are_powers_of_two() -> None:
    counts = np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65, 256, 257, 10**6])
    names = [BINS[at] for at in bin_of(counts).tolist()]
    assert names == [
        "1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "9-16", "17-32", "33-64", "65-128",
        "129-256", "257+", "257+",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_phases_are_counted_on_the_rows(seed: int) -> None:
    trace = recorded(seed, toy_plan(5, 2, "lru"), replans=0.3, aborts=0.3)
    found = demand(trace)
    frame = trace.to_pandas("work").query("kind == 'expert'")
    kinds = trace.to_pandas("steps").set_index("step")["kind"].to_dict()
    frame = frame.assign(phase=frame["step"].map(kinds))
    moves = trace.to_pandas("moves").query("lane == lane")  # that crossed the link
    for phase in found.phases:
        mine = frame[frame["phase"] == phase.kind.name.lower()]
        per_layer = mine.groupby(["step", "layer"])["expert"].nunique()
        assert sorted(phase.active.tolist()) == sorted(per_layer.tolist())
        assert phase.pairs == mine["tokens"].sum()
        assert phase.union == pytest.approx(per_layer.mean() / 4)
        assert phase.served == pytest.approx(mine["tokens"].sum() / len(mine))
        there = moves["step"].map(kinds) == phase.kind.name.lower()
        assert phase.bytes == moves.loc[there, "bytes"].sum()
    assert found.calls.sum() == len(frame)
    actions = frame["action"].value_counts()
    assert found.calls.sum(axis=0).tolist() == [actions[a.name.lower()] for a in Action]
    assert sum(found.shares) == pytest.approx(1)
    phases = sum(phase.bytes for phase in found.phases)
    assert phases == trace.summary.h2d_bytes + trace.summary.d2h_bytes


def test_one_token_needs_top_k_and_a_long_prompt_nearly_all() -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=256, decode_tokens=8, gpu_memory="24GB")
    found = demand(trace, "mine")
    prefill, decode = found.phases
    assert (prefill.kind, decode.kind, decode.steps) == (PREFILL, DECODE, 8)
    assert (decode.union, decode.served) == (0.25, 1)
    assert decode.quantiles(0.05, 0.95) == (0.25, 0.25)
    assert prefill.union > 0.97 and prefill.served == pytest.approx(64, rel=0.03)
    assert prefill.bytes_per_token == prefill.bytes / 256
    assert found.words == "1 prompt, 256 tokens; 8 decode steps"
    assert found.break_even == crossover(trace.plan.costs).break_even
    assert found.break_even is not None
    many = bin_of(np.array([4 * found.break_even]))[0]
    assert not found.calls[0, Action.STREAM] and not found.calls[many:, Action.CPU].any()
    s = trace.summary
    assert (decode.tokens_per_s, decode.tokens_per_s_low) == (s.tokens_per_s, s.tokens_per_s_low)
    assert prefill.tokens_per_s == s.prefill_tokens_per_s
    assert prefill.tokens_per_s_low / prefill.tokens_per_s == pytest.approx(
        s.tokens_per_s_low / s.tokens_per_s
    )


def test_a_replay_and_its_rows_agree() -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=20, decode_tokens=6)
    what_if = replay(trace, gpu_memory="40GB", policy="stream").trace
    found = demand(what_if)
    assert not found.calls[:, Action.CPU].any() and found.calls[:, Action.STREAM].any()
    for one, other in zip(found.phases, demand(trace).phases, strict=True):
        np.testing.assert_array_equal(one.active, other.active)  # routing is what it was


def test_a_measured_host_run_copies_nothing() -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=4, decode_tokens=4)
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    host = replace(trace, step_rows=rows, meta={"device": "host"})
    found = demand(host)
    assert found.break_even is None
    assert found.phases[1].tokens_per_s_low == found.phases[1].tokens_per_s_high


def test_the_table_and_what_cannot_be_compared() -> None:
    rng = random.Random(0)
    driver = Driver(toy_plan(4))
    driver.step(rng, 6, sequences=2)
    driver.step(rng, 2, sequences=2)
    traces: dict[str, Trace] = {"two": driver.trace(), "nothing": Driver(toy_plan(4)).trace()}
    found = scenarios(traces)
    assert [each.words for each in found.each] == [
        "2 prompts, 6 tokens; 1 decode step",
        "nothing recorded yet",
    ]
    table = found.to_pandas()
    assert table["scenario"].tolist() == ["two", "two"]
    assert table["steps"].tolist() == ["prefill", "decode"]
    assert table["tokens_per_step"].tolist() == [6, 2]
    assert table["union_mean"].between(0.5, 1).all()
    empty = found.each[1]
    assert empty.phases == () and np.isnan(empty.served) and np.isnan(empty.shares).all()
    with pytest.raises(InputError, match="one or more runs by name"):
        scenarios({})
    with pytest.raises(InputError, match="models with one grid"):
        scenarios(traces | {"other": synthetic_trace("mixtral-8x7b", decode_tokens=1)})
