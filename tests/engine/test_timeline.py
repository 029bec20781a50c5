"""The clock's arithmetic: layers laid on lanes, to the nanosecond."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.cost import Curve
from engine.decision import Decision
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Why, Work, to_rows
from engine.timeline import STAGING_BUFFERS, Log, Timeline
from tests.engine.builders import COSTS, recorded, toy_plan

R, S, C = Action.RESIDENT, Action.STREAM, Action.CPU
NONE = -1
Span = tuple[int, int]


def decision(*experts: tuple[int, int, Action], keep: int = NONE, evict: int = NONE) -> Decision:
    """``(expert, tokens, action)`` each; one expert is kept, one flat index given up."""
    numbers, tokens, actions = (list(column) for column in zip(*experts, strict=True))
    kept = [number == keep for number in numbers]
    return Decision(4, numbers, tokens, actions, kept, [evict] if evict != NONE else [])


def rows(log: Log) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Work and moves, without step and layer in front and the clock behind."""
    work, moves = to_rows(log.work, WORK), to_rows(log.moves, MOVES)
    assert (work[:, -1] == Clock.MODELLED).all() and (moves[:, -1] == Clock.MODELLED).all()
    return [tuple(row[2:-1]) for row in work.tolist()], [tuple(row[2:-1]) for row in moves.tolist()]


# ---------------------------------------------------------------------- by hand


def test_one_layer_by_hand() -> None:
    """Four tokens at 100 ns: dense 7 + 5 (ten cached positions), then every lane has its own."""
    timeline, log = Timeline(COSTS, 100), Log()
    timeline.lay(
        6,
        2,
        4,
        10,
        decision((0, 2, R), (1, 1, C), (2, 3, S), (3, 4, S), (4, 1, C), (5, 1, S), keep=3, evict=9),
        log,
    )
    work, moves = rows(log)
    dense, expert, weights, acts = Work.DENSE, Work.EXPERT, Work.WEIGHTS, Work.ACTIVATIONS
    assert work == [
        (NONE, dense, NONE, 4, Lane.GPU, 100, 112),
        (NONE, acts, NONE, 2, Lane.D2H, 112, 117),  # 3 + 2 x 1
        (0, expert, R, 2, Lane.GPU, 112, 122),
        (1, expert, C, 1, Lane.CPU, 117, 152),  # 20 + 15
        (2, weights, S, 3, Lane.H2D, 112, 164),
        (2, expert, S, 3, Lane.GPU, 164, 174),
        (3, weights, S, 4, Lane.H2D, 164, 216),
        (3, expert, S, 4, Lane.GPU, 216, 228),
        (4, expert, C, 1, Lane.CPU, 152, 187),
        (5, weights, S, 1, Lane.H2D, 216, 268),
        (5, expert, S, 1, Lane.GPU, 268, 278),
        (NONE, acts, NONE, 2, Lane.H2D, 268, 275),  # done at 187, but the link is busy until 268
    ]
    assert moves == [
        (1, Why.EVICT, NONE, 0, 112, 112),  # flat 9: layer 2, expert 1
        (NONE, Why.ACTIVATIONS, Lane.D2H, 16, 112, 117),
        (2, Why.STREAM, Lane.H2D, 1000, 112, 164),
        (3, Why.ADMIT, Lane.H2D, 1000, 164, 216),
        (5, Why.STREAM, Lane.H2D, 1000, 216, 268),
        (NONE, Why.ACTIVATIONS, Lane.H2D, 16, 268, 275),
    ]
    assert timeline.now_ns == 278
    assert {tuple(row[:2]) for row in to_rows(log.work, WORK).tolist()} == {(6, 2)}


def test_an_eviction_is_written_under_its_own_layer() -> None:
    timeline, log = Timeline(COSTS), Log()
    timeline.lay(0, 2, 1, 0, decision((3, 1, S), keep=3, evict=1), log)
    assert to_rows(log.moves, MOVES)[0, :4].tolist() == [0, 0, 1, Why.EVICT]


def test_the_next_layer_waits_for_the_cpu_s_results() -> None:
    timeline = Timeline(COSTS)
    timeline.lay(0, 0, 1, 0, decision((0, 1, R), (1, 1, C)), None)
    # dense 7, there 4, CPU 35, back 6
    assert timeline.now_ns == 7 + 4 + 35 + 6
    timeline.lay(0, 1, 1, 0, decision((0, 1, R), (1, 1, R)), None)
    assert timeline.now_ns == 52 + 7 + 10 + 10


def test_activations_are_counted_once_per_token() -> None:
    """Two CPU experts of the same token: one token crosses, not two."""
    timeline, log = Timeline(COSTS), Log()
    timeline.lay(0, 0, 1, 0, decision((0, 1, C), (1, 1, C)), log)
    work, moves = rows(log)
    assert work[1] == (NONE, Work.ACTIVATIONS, NONE, 1, Lane.D2H, 7, 11)
    assert [move[3] for move in moves] == [8, 8]


def test_a_copy_waits_for_its_staging_buffer() -> None:
    """Copies of 10 ns, experts of 100: the third copy waits until the first expert is through."""
    assert STAGING_BUFFERS == 2
    slow = replace(COSTS, gpu=Curve(((100, 0),)), copy_ns=10, dense=Curve(((0, 0),)))
    timeline, log = Timeline(slow), Log()
    timeline.lay(0, 0, 1, 0, decision(*((expert, 1, S) for expert in range(4))), log)
    work, _ = rows(log)
    assert [row[-2:] for row in work if row[1] == Work.WEIGHTS] == [
        (0, 10),
        (10, 20),
        (110, 120),
        (210, 220),
    ]
    assert [row[-2:] for row in work if row[1] == Work.EXPERT] == [
        (10, 110),
        (110, 210),
        (210, 310),
        (310, 410),
    ]


def test_a_fetched_expert_takes_the_link_where_it_is_idle() -> None:
    """Its copy of 52 ns waits for the streamed one, stands back for the results, and goes on."""
    timeline, log = Timeline(COSTS), Log()
    laid = decision((0, 1, S), (1, 1, C))
    laid.fetch = [5, 6]
    timeline.lay(0, 0, 1, 0, laid, log)  # dense 7, copy 7-59, results 59-65, device 59-69
    assert timeline.now_ns == 69
    assert timeline.waiting == {5: 48, 6: 52}  # 65-69
    timeline.head(0, 4, 1, log)  # 69-78
    assert timeline.waiting == {5: 39, 6: 52}
    timeline.lay(1, 1, 1, 0, decision((1, 1, R), (2, 1, R)), log)  # dense 78-85: 32 ns left of 5
    # both are used: the rest is copied at once, each expert runs when it is there
    work, moves = rows(log)
    assert [row for row in work if row[1] == Work.EXPERT][2:] == [
        (1, Work.EXPERT, R, 1, Lane.GPU, 117, 127),
        (2, Work.EXPERT, R, 1, Lane.GPU, 169, 179),
    ]
    assert timeline.waiting == {} and timeline.now_ns == 179
    copied = [row for row in moves if row[1] in (Why.FETCH, Why.AHEAD)]
    assert copied[:2] == [(1, Why.FETCH, NONE, 0, 7, 7), (2, Why.FETCH, NONE, 0, 7, 7)]
    assert [row[-2:] for row in copied[2:]] == [
        (65, 69), (69, 78), (78, 85), (85, 117), (117, 169),
    ]  # fmt: skip
    of_first = [row[3] for row in copied[2:] if row[0] == 1]
    assert sum(of_first) == sum(row[3] for row in copied if row[0] == 2) == COSTS.expert_bytes


def test_an_evicted_expert_s_copy_is_lost_and_a_plan_waits_for_the_others() -> None:
    timeline, log = Timeline(COSTS, 0, {5: 40, 6: 52}), Log()
    timeline.lay(0, 0, 1, 0, decision((0, 1, R), evict=5), log)  # dense 7, then 10 on the device
    assert timeline.waiting == {6: 42}
    timeline.pins(1, 4, [(2, 3, Why.PIN, 1000)], COSTS, log)
    assert timeline.now_ns == 17 + 42 + 52 and timeline.waiting == {}


def test_experts_that_nobody_needs_are_copied_and_not_run() -> None:
    timeline, log = Timeline(COSTS), Log()
    laid = decision((0, 1, S))
    laid.unused = [1, 2, 3]
    timeline.lay(0, 0, 1, 0, laid, log)
    work, moves = rows(log)
    assert [row[0] for row in work if row[1] == Work.EXPERT] == [0]
    assert [row[-2:] for row in moves] == [(7, 59), (59, 111), (111, 163), (163, 215)]
    assert timeline.now_ns == 215


def test_in_turn_nothing_overlaps() -> None:
    """Each copy waits for the expert before it, the CPU for the device."""
    timeline, log = Timeline(replace(COSTS, overlap=False)), Log()
    timeline.lay(0, 0, 1, 0, decision((0, 1, R), (1, 1, S), (2, 1, S), (3, 1, C)), log)
    work, _ = rows(log)
    spans = sorted(row[-2:] for row in work)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert timeline.now_ns == 7 + 10 + 2 * (52 + 10) + 4 + 35 + 6


def test_the_head_and_a_plan_s_changes() -> None:
    timeline, log = Timeline(COSTS, 1000), Log()
    timeline.pins(
        3,
        4,
        [(0, 1, Why.UNPIN, 0), (1, 2, Why.PIN, 0), (2, 3, Why.PIN, 1000), (2, 0, Why.EVICT, 0)],
        COSTS,
        log,
    )
    timeline.head(3, 4, 2, log)
    work, moves = rows(log)
    assert moves == [
        (1, Why.UNPIN, NONE, 0, 1000, 1000),
        (2, Why.PIN, NONE, 0, 1000, 1000),
        (3, Why.PIN, Lane.H2D, 1000, 1000, 1052),
        (0, Why.EVICT, NONE, 0, 1052, 1052),
    ]
    assert work == [
        (3, Work.WEIGHTS, NONE, 0, Lane.H2D, 1000, 1052),
        (NONE, Work.DENSE, NONE, 2, Lane.GPU, 1052, 1061),
    ]
    assert to_rows(log.work, WORK)[-1, :3].tolist() == [3, -1, -1]  # the head is of no layer


# ---------------------------------------------------------------------- what always holds


def random_decision(rng: random.Random) -> tuple[int, Decision]:
    tokens = rng.randrange(1, 7)
    experts = sorted(rng.sample(range(8), rng.randrange(1, 8)))
    parts = [(expert, rng.randrange(1, tokens + 1), rng.choice((R, S, S, C))) for expert in experts]
    return tokens, decision(*parts, keep=rng.choice(experts))


@pytest.fixture(scope="module")
def layers() -> list[tuple[int, Decision, Rows, int, int]]:
    """400 random layers, one after the other: tokens, decision, work rows, start, end."""
    rng = random.Random(0)
    timeline = Timeline(COSTS, 50)
    made: list[tuple[int, Decision, Rows, int, int]] = []
    for step in range(400):
        if rng.random() < 0.5:  # short copies, where the buffers bind
            timeline.costs = replace(COSTS, copy_ns=rng.randrange(1, 60))
        tokens, laid = random_decision(rng)
        log, start = Log(), timeline.now_ns
        timeline.lay(step, 0, tokens, rng.randrange(50), laid, log)
        made.append((tokens, laid, to_rows(log.work, WORK), start, timeline.now_ns))
    return made


def on_lane(work: Rows, lane: int) -> list[Span]:
    return sorted((int(row[7]), int(row[8])) for row in work if row[6] == lane)


def test_a_lane_does_one_thing_at_a_time(
    layers: list[tuple[int, Decision, Rows, int, int]],
) -> None:
    """Over layers, too: the next layer starts when all lanes of the last are through."""
    ends: dict[int, int] = defaultdict(int)
    for _, _, work, start, end in layers:
        for lane in Lane:
            for begin, stop in on_lane(work, lane):
                assert start <= begin <= stop <= end
                assert begin >= ends[lane]
                ends[lane] = stop


def test_the_order_of_things_within_a_layer(
    layers: list[tuple[int, Decision, Rows, int, int]],
) -> None:
    for tokens, laid, work, _, end in layers:
        dense_end = int(work[0, 8])
        assert work[0, 3] == Work.DENSE
        assert (work[1:, 7] >= dense_end).all()
        copies = {int(row[2]): (int(row[7]), int(row[8])) for row in work if row[3] == Work.WEIGHTS}
        runs = {int(row[2]): (int(row[7]), int(row[8])) for row in work if row[3] == Work.EXPERT}
        acts = [(int(row[7]), int(row[8])) for row in work if row[3] == Work.ACTIVATIONS]
        streamed = [e for e, a in zip(laid.experts, laid.actions, strict=True) if a == S]
        on_cpu = [e for e, a in zip(laid.experts, laid.actions, strict=True) if a == C]
        assert list(copies) == streamed
        assert sorted(runs) == laid.experts
        for expert in streamed:
            assert runs[expert][0] >= copies[expert][1]
        for earlier, later in zip(streamed, streamed[STAGING_BUFFERS:], strict=False):
            assert copies[later][0] >= runs[earlier][1]  # the buffer is free again
        assert len(acts) == (2 if on_cpu else 0)
        if on_cpu:
            assert acts[0][1] == min(runs[expert][0] for expert in on_cpu)
            assert acts[1][0] >= max(runs[expert][1] for expert in on_cpu)
            assert all(begin >= stop for begin, _ in acts[1:] for _, stop in copies.values())
        assert end == max(int(work[:, 8].max()), dense_end)
        assert {int(row[5]) for row in work if row[3] == Work.ACTIVATIONS} <= {
            min(tokens, laid.cpu_tokens)
        }


def test_nothing_waits_without_a_reason(
    layers: list[tuple[int, Decision, Rows, int, int]],
) -> None:
    """Every start is the end of the dense part or of other work in the layer: no idle gap."""
    for _, _, work, start, _ in layers:
        ends = {start, *work[:, 8].tolist()}
        assert set(work[:, 7].tolist()) <= ends


def test_no_log_takes_the_same_time() -> None:
    rng = random.Random(1)
    one, other = Timeline(COSTS), Timeline(COSTS)
    for step in range(50):
        tokens, laid = random_decision(rng)
        one.lay(step, 0, tokens, step, laid, Log())
        other.lay(step, 0, tokens, step, laid, None)
        one.head(step, 4, 1, Log())
        other.head(step, 4, 1, None)
        one.pins(step, 4, [(0, 0, Why.PIN, 1000)], COSTS, Log())
        other.pins(step, 4, [(0, 0, Why.PIN, 1000)], COSTS, None)
        assert one.now_ns == other.now_ns


def test_whole_recordings_keep_their_lanes_apart() -> None:
    def lanes(seed: int) -> Iterator[list[Span]]:
        work = recorded(seed, toy_plan(6, 2, "lru"), replans=0.3, aborts=0.2).work_rows
        yield from (on_lane(work, lane) for lane in Lane)

    for seed in range(6):
        for spans in lanes(seed):
            begins, stops = np.array(spans, dtype=np.int64).reshape(-1, 2).T
            assert (begins[1:] >= stops[:-1]).all()
