"""The scheduler for a whole trace at once writes the rows of the one for a layer at a time."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.cost import CostModel, Curve
from engine.decision import Batch, Decision, Decisions
from engine.events import MOVES, WORK, Action, Why, to_rows
from engine.layout import lay_out
from engine.timeline import Log, Timeline
from tests.engine.builders import COSTS, MODEL, random_batch

FAST_LINK = replace(COSTS, copy_ns=3, gpu=Curve(((60, 5),)))
"""Copies so short that the staging buffers bind."""


def random_decisions(rng: random.Random, batch: Batch) -> Decisions:
    """Any actions, keeps and evictions: the layout does not ask whether they make sense."""
    many = len(batch.expert)
    action = np.array([rng.choice(list(Action)) for _ in range(many)], dtype=np.int64)
    keep = (action == Action.STREAM) & (np.array([rng.random() for _ in range(many)]) < 0.5)
    segments = range(len(batch.step))
    gone = sorted(rng.choice(segments) for _ in range(rng.randrange(len(batch.step))))
    evict = [rng.randrange(MODEL.experts_total) for _ in gone]
    return Decisions(action, keep, np.array(gone, dtype=np.int64), np.array(evict, dtype=np.int64))


def one_by_one(
    costs: CostModel,
    batch: Batch,
    decisions: Decisions,
    context: np.ndarray,
    heads: np.ndarray,
    before: np.ndarray,
    first_step: int,
    start_ns: int,
) -> tuple[Log, list[int], list[int]]:
    """The same through `Timeline`: rows, and when each step started and ended."""
    timeline, log = Timeline(costs, start_ns), Log([], [])
    starts: list[int] = []
    ends: list[int] = []
    for step, (head, pins) in enumerate(zip(heads.tolist(), before.tolist(), strict=True)):
        starts.append(timeline.now_ns)
        timeline.now_ns += pins  # a plan's changes, laid elsewhere
        for segment in np.flatnonzero(batch.step == first_step + step).tolist():
            at = batch.segment == segment
            decision = Decision(
                batch.columns,
                batch.expert[at].tolist(),
                batch.count[at].tolist(),
                decisions.action[at].tolist(),
                decisions.keep[at].tolist(),
                decisions.evict[decisions.evict_segment == segment].tolist(),
            )
            layer, tokens = int(batch.layer[segment]), int(batch.tokens[segment])
            timeline.lay(first_step + step, layer, tokens, int(context[segment]), decision, log)
        if head:
            timeline.head(first_step + step, head, log)
        ends.append(timeline.now_ns)
    return log, starts, ends


@pytest.mark.parametrize("costs", [COSTS, FAST_LINK], ids=["slow link", "fast link"])
@pytest.mark.parametrize("seed", range(20))
def test_at_once_is_one_by_one(seed: int, costs: CostModel) -> None:
    """Decode and prefill, all actions, steps cut short, plan changes, a start in mid-trace."""
    rng = random.Random(seed)
    batch = random_batch(rng, rng.randrange(1, 40))
    first_step, start_ns = rng.choice((0, 17)), rng.choice((0, 12_345))
    batch = replace(batch, step=batch.step + first_step)
    steps = int(batch.step[-1]) - first_step + 1
    whole = np.bincount(batch.step - first_step) == MODEL.layers
    heads = np.where(whole, np.array([rng.randrange(3) for _ in range(steps)]), 0)
    before = np.array([rng.choice((0, 0, 0, 104)) for _ in range(steps)], dtype=np.int64)
    context = np.array([rng.randrange(100) for _ in batch.step], dtype=np.int64)
    decisions = random_decisions(rng, batch)
    made = lay_out(
        costs, batch, decisions, context, heads, before, first_step=first_step, start_ns=start_ns
    )
    log, starts, ends = one_by_one(
        costs, batch, decisions, context, heads, before, first_step, start_ns
    )
    np.testing.assert_array_equal(made.work, to_rows(log.work, WORK))
    np.testing.assert_array_equal(made.moves, to_rows(log.moves, MOVES))
    assert made.step_start.tolist() == starts
    assert made.step_end.tolist() == ends


def test_steps_that_ended_before_their_first_layer() -> None:
    """Stopped at once: no rows, but the plan changes before them took their time."""
    none = np.zeros(0, dtype=np.int64)
    batch = Batch(4, none, none, none, none, none, none)
    decisions = Decisions(none, none.astype(bool), none, none)
    made = lay_out(
        COSTS,
        batch,
        decisions,
        none,
        np.array([0, 0]),
        np.array([0, 52]),
        first_step=3,
        start_ns=100,
    )
    assert len(made.work) == len(made.moves) == 0
    assert (made.step_start.tolist(), made.step_end.tolist()) == ([100, 100], [100, 152])


def test_no_steps_at_all() -> None:
    none = np.zeros(0, dtype=np.int64)
    made = lay_out(
        COSTS,
        Batch(4, none, none, none, none, none, none),
        Decisions(none, none.astype(bool), none, none),
        none,
        none,
        none,
        first_step=0,
        start_ns=0,
    )
    assert [len(part) for part in (made.work, made.moves, made.step_start, made.step_end)] == [
        0
    ] * 4


def test_rows_of_a_step_follow_each_other_in_time_order_of_layers() -> None:
    rng = random.Random(9)
    batch = random_batch(rng, 30)
    steps = int(batch.step[-1]) + 1
    zero = np.zeros(steps, dtype=np.int64)
    made = lay_out(
        COSTS,
        batch,
        random_decisions(rng, batch),
        np.zeros(len(batch.step), dtype=np.int64),
        zero,
        zero,
        first_step=0,
        start_ns=0,
    )
    dense = made.work[made.work[:, 3] == 0]
    assert [tuple(row[:2]) for row in dense.tolist()] == list(
        zip(batch.step.tolist(), batch.layer.tolist(), strict=True)
    )
    assert all(a[8] <= b[7] for a, b in pairwise(dense.tolist()))
    evictions = made.moves[made.moves[:, 3] == Why.EVICT]
    assert (evictions[:, 5] == 0).all() and (evictions[:, 4] == -1).all()
