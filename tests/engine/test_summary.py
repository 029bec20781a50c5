"""A trace in figures, counted by hand and against its own rows."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace

import numpy as np
import pytest
from IPython.lib.pretty import pretty

from engine.bounds import bound
from engine.events import Action, Clock, Lane, StepKind, Work
from engine.replay import replay
from engine.summary import Summary, summarize
from engine.trace import Trace
from tests.engine.builders import COSTS, MODEL, Driver, recorded, toy_plan

ONE_LAYER = replace(MODEL, layers=1)


@pytest.fixture(scope="module")
def trace() -> Trace:
    made = recorded(5, toy_plan(6, 2, "lru"), 8, aborts=0.2)
    assert set(made.steps["complete"].tolist()) == {0, 1} and made.steps["complete"][0]
    return made


def test_by_hand() -> None:
    """One layer, everything on the device: dense and two experts, then the head, each step.

    The prompt of three tokens: 7 + round(0.5 x 3) dense, 10 for each active expert, 9 head.
    """
    rng = random.Random(0)
    driver = Driver(toy_plan(None, model=ONE_LAYER), model=ONE_LAYER)
    active = len(driver.step(rng, 3)[0].experts)
    for _ in range(2):
        driver.step(rng)
    summary = driver.trace().summary
    prefill = 7 + 2 + 10 * active + 9
    decode = 2 * (7 + 2 + 20 + 9) + 0  # contexts of 4 and 5 positions: 2.0 and 2.5, both 2 ns
    assert summary == Summary(
        clock="modelled",
        steps=3,
        prompt_tokens=3,
        generated_tokens=2,
        prefill_ns=prefill,
        decode_ns=decode,
        tokens_per_s=2e9 / decode,
        tokens_per_s_low=2e9 / decode / 1.25,
        tokens_per_s_high=2e9 / decode / 0.75,
        prefill_tokens_per_s=3e9 / prefill,
        hit_rate=1.0,
        calls={"resident": active + 4, "stream": 0, "cpu": 0},
        h2d_bytes=0,
        d2h_bytes=0,
        bytes_per_token=0.0,
        busy={"gpu": 1.0, "cpu": 0.0, "h2d": 0.0, "d2h": 0.0},
    )


def test_counted_from_the_rows(trace: Trace) -> None:
    summary, work, moves = trace.summary, trace.work_rows.tolist(), trace.move_rows.tolist()
    calls = [row[4] for row in work if row[3] == Work.EXPERT]
    assert summary.calls == {action.name.lower(): calls.count(action) for action in Action}
    assert sum(summary.calls.values()) == len(trace.batch.expert)
    assert summary.hit_rate == calls.count(Action.RESIDENT) / len(calls)
    assert summary.h2d_bytes == sum(row[5] for row in moves if row[4] == Lane.H2D)
    assert summary.d2h_bytes == sum(row[5] for row in moves if row[4] == Lane.D2H)
    tokens = sum(trace.steps["tokens"].tolist())
    assert summary.bytes_per_token == (summary.h2d_bytes + summary.d2h_bytes) / tokens
    for lane in Lane:
        spent = sum(row[8] - row[7] for row in work if row[6] == lane)
        assert summary.busy[lane.name.lower()] == spent / trace.duration_ns
        assert 0 <= summary.busy[lane.name.lower()] <= 1


def test_steps_cut_short_count_as_work_not_as_speed() -> None:
    driver, rng = Driver(toy_plan(4)), random.Random(0)
    driver.step(rng, 4)
    driver.step(rng)
    whole = driver.trace().summary
    driver.step(rng, layers=2)
    cut = driver.trace().summary
    for name in ("prompt_tokens", "generated_tokens", "decode_ns", "tokens_per_s"):
        assert getattr(cut, name) == getattr(whole, name), name
    assert cut.steps == 3
    assert sum(cut.calls.values()) > sum(whole.calls.values())


def test_a_plan_s_copies_count_into_the_step_they_delay() -> None:
    driver, rng = Driver(toy_plan(0, policy="cpu")), random.Random(0)
    driver.step(rng, plans=[toy_plan(3, policy="cpu")])
    summary = driver.trace().summary
    assert driver.trace().steps["start_ns"].tolist() == [0]
    assert summary.decode_ns > 3 * COSTS.copy_ns
    assert summary.busy["h2d"] >= 3 * COSTS.copy_ns / summary.decode_ns


def test_all_sequences_count() -> None:
    driver, rng = Driver(toy_plan(4)), random.Random(0)
    driver.step(rng, 12, sequences=3)
    driver.step(rng, 3, sequences=3)
    summary = driver.trace().summary
    assert (summary.prompt_tokens, summary.generated_tokens) == (12, 3)


def batch(rows: list[tuple[int, int, int, int, int]]) -> Trace:
    """Three steps of four tokens, a prefill and two decodes, with these rows of the tokens table:
    step, sequence, beam, position, parent."""
    driver, rng = Driver(toy_plan(4)), random.Random(0)
    driver.step(rng, 8, sequences=4)
    for _ in range(2):
        driver.step(rng, 4, sequences=4)
    table = [[*row[:4], 1, row[4]] for row in rows]
    made = driver.trace()
    return replace(made, token_rows=np.array(table), texts=()).check()


def test_padding_does_not_count() -> None:
    """Of four prompts one is a token shorter; one text ends a step early, one two steps early."""
    prefill = [(0, row // 2, 0, row % 2, row - 1 if row % 2 else -1) for row in range(8)]
    prefill[6:] = [(0, 3, 0, -1, -1), (0, 3, 0, 0, -1)]
    one = [(1, 0, 0, 2, 1), (1, 1, 0, 2, 3), (1, 2, 0, -1, -1), (1, 3, 0, 1, 7)]
    two = [(2, 0, 0, 3, 8), (2, 1, 0, -1, -1), (2, 2, 0, -1, -1), (2, 3, 0, 2, 11)]
    trace = batch([*prefill, *one, *two])
    summary = trace.summary
    assert (summary.prompt_tokens, summary.generated_tokens) == (7, 5)
    assert summary.tokens_per_s == 5e9 / summary.decode_ns
    tokens = sum(trace.steps["tokens"].tolist())
    assert summary.bytes_per_token == (summary.h2d_bytes + summary.d2h_bytes) / tokens


def test_several_answers_count_and_copies_of_the_prompt_do_not() -> None:
    prefill = [(0, row // 4, row // 2 % 2, row % 2, row - 1 if row % 2 else -1) for row in range(8)]
    one = [(1, row // 2, row % 2, 2, 2 * row + 1) for row in range(4)]
    two = [(2, row // 2, row % 2, 3, 8 + row) for row in range(4)]
    summary = batch([*prefill, *one, *two]).summary
    assert (summary.prompt_tokens, summary.generated_tokens) == (4, 8)


def test_of_a_beam_search_the_best_answer_counts() -> None:
    """The first prompt's best answer ended a step early, which only its last token tells."""
    prefill = [(0, row // 4, row // 2 % 2, row % 2, row - 1 if row % 2 else -1) for row in range(8)]
    one = [(1, 0, 0, 2, 1), (1, 0, 1, 2, 1), (1, 1, 0, 2, 5), (1, 1, 1, 2, 5)]
    two = [(2, 0, 0, 3, 9), (2, 0, 1, 3, 9), (2, 1, 0, 3, 10), (2, 1, 1, 3, 11)]
    running = batch([*prefill, *one, *two]).summary
    assert (running.prompt_tokens, running.generated_tokens) == (4, 4)
    last = [(-1, 0, 0, 3, 8), (-1, 1, 0, 4, 15)]
    assert batch([*prefill, *one, *two, *last]).summary.generated_tokens == 3


def test_a_measured_speed_has_no_interval(trace: Trace) -> None:
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    summary = summarize(replace(trace, step_rows=rows))
    assert summary.clock == "measured"
    assert summary.tokens_per_s_low == summary.tokens_per_s == summary.tokens_per_s_high
    assert " to " not in str(summary).splitlines()[0]


def test_an_uncertainty_of_all_has_no_upper_end(trace: Trace) -> None:
    costs = replace(COSTS, relative_error=1.0)
    step, plan = trace.plan_list[-1]
    unsure = replace(trace, plan_list=((step, replace(plan, costs=costs)),))
    assert summarize(unsure).tokens_per_s_high == math.inf


def test_nothing_to_divide() -> None:
    summary = Driver(toy_plan(4)).trace().summary
    for name in ("tokens_per_s", "tokens_per_s_low", "hit_rate", "bytes_per_token"):
        assert math.isnan(getattr(summary, name)), name
    assert all(math.isnan(share) for share in summary.busy.values())
    assert "nan" in str(summary)


def test_in_words(trace: Trace) -> None:
    lines = str(trace.summary).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "decode",
        "prefill",
        "hit rate",
        "experts",
        "link",
        "lanes busy",
    ]
    assert "modelled clock" in lines[0] and " to " in lines[0]
    assert lines[3].endswith(
        ", ".join(f"{count} {name}" for name, count in trace.summary.calls.items())
    )


def test_plain_values(trace: Trace) -> None:
    values = trace.summary.to_dict()
    assert list(values) == [field.name for field in fields(Summary)]
    assert Summary(**json.loads(json.dumps(values))) == trace.summary


def test_kept_with_the_trace(trace: Trace) -> None:
    assert trace.summary is trace.summary
    assert replay(trace).summary == trace.summary
    assert {int(kind) for kind in trace.steps["kind"]} == {StepKind.PREFILL, StepKind.DECODE}


def test_a_notebook_shows_the_text(trace: Trace) -> None:
    for shown in (trace.summary, bound(trace)):
        assert pretty(shown) == str(shown)
