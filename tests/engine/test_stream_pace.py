"""Lanes off events: one clock with the host's, rows told in order and only once reached."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from engine.decision import Decision
from engine.devices.crossing import Crossing
from engine.devices.lane_clock import LaneClock
from engine.devices.stream_pace import LayerMarks, StreamPace
from engine.events import Action, Lane, Why, Work
from engine.lanes import LaneRows
from fiddler_viz import demo
from tests.engine.fake_runtime import FakeRuntime

COSTS = demo.trace().plan.costs
WORK = ("layer", "expert", "kind", "action", "tokens", "lane", "start", "end", "clock")
MOVES = ("layer", "expert", "why", "lane", "bytes", "start", "end", "clock")


def rows(flat: list[int], names: tuple[str, ...]) -> list[dict[str, int]]:
    width = len(names)
    parts = (flat[at : at + width] for at in range(0, len(flat), width))
    return [dict(zip(names, part, strict=True)) for part in parts]


def test_an_event_has_the_hosts_time() -> None:
    runtime = FakeRuntime()
    clock = LaneClock(runtime)
    clock.start()
    before = time.perf_counter_ns()
    event = runtime.record(runtime.current())
    after = time.perf_counter_ns()
    slack = clock.error_ns + 1000
    assert before - slack <= clock.ns(event) <= after + slack
    assert repr(clock).startswith("LaneClock(anchored within")
    waits = runtime.host_waits
    clock.anchor()
    assert runtime.host_waits == waits + 1


class Layer:
    """Marks of a layer with one expert of each kind, by hand."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.copies = runtime.stream()
        self.buffers = torch.zeros(4), torch.ones(4)
        main = runtime.current()
        record = runtime.record
        self.decision = Decision(
            8,
            [1, 3, 4, 6],
            [2, 6, 1, 1],
            [int(Action.RESIDENT), int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)],
            [False, False, True, False],
            evict=[9],
            fetch=[20],
            unused=[5],
        )
        ready = record(main)
        looked = record(main), record(main)
        begin = record(main)
        time.sleep(0.004)
        resident = begin, record(main)
        copied = self.copy(runtime)
        ran = record(main), record(main)
        host = time.perf_counter_ns()
        unused = self.copy(runtime)
        runtime.wait(main, copied[1])
        self.marks = LayerMarks(
            ready, looked, resident, {2: (copied, ran)}, {3: (host, host + 500)},
            (record(main), record(main)), [unused], record(main),
        )  # fmt: skip

    def copy(self, runtime: FakeRuntime) -> Any:
        begin = runtime.record(self.copies)
        runtime.copy(*self.buffers, self.copies)
        return begin, runtime.record(self.copies)


def test_a_layers_rows() -> None:
    runtime = FakeRuntime()
    pace = StreamPace(runtime, COSTS, 8)
    pace.begin()
    layer = Layer(runtime)
    made = pace.layer(2, 10, 50, layer.decision, layer.marks)
    pace.settle(wait=False)
    assert not made.settled and not made.work  # the unused expert's copy is not through
    head = pace.head(1)
    ahead = layer.copy(runtime)
    pace.ahead.append((20, ahead))
    pace.settle(wait=True)
    assert made.settled and head.settled
    work, moves = rows(made.work, WORK), rows(made.moves, MOVES)
    assert {row["layer"] for row in work + moves} == {2, 1, 0}  # 9 // 8 and 5 // 8, by the way
    by_expert = {row["expert"]: row for row in work if row["kind"] == Work.EXPERT}
    assert [by_expert[at]["lane"] for at in (1, 3, 4, 6)] == [0, 0, 0, 1]
    lengths = [by_expert[at]["end"] - by_expert[at]["start"] for at in (1, 3)]
    assert lengths[1] == pytest.approx(3 * lengths[0], rel=0.01) and sum(lengths) > 3_000_000
    assert by_expert[6]["end"] - by_expert[6]["start"] == 500
    whys = [row["why"] for row in moves]
    assert whys == [Why.EVICT, Why.FETCH, Why.ACTIVATIONS, Why.ADMIT, Why.STREAM, Why.ACTIVATIONS]
    assert [row["lane"] for row in moves] == [-1, -1, Lane.D2H, Lane.H2D, Lane.H2D, Lane.H2D]
    assert made.start_ns <= work[0]["start"] <= work[0]["end"] <= made.end_ns <= head.end_ns
    assert pace.now_ns == head.end_ns
    assert pace.ahead == [(20, ahead)]  # not through: told with a later layer
    runtime.host_wait(ahead[1])
    last = pace.head(1)
    pace.settle(wait=True)
    (told,) = rows(last.moves, MOVES)
    assert (told["why"], told["layer"], told["expert"]) == (Why.AHEAD, 2, 4)
    assert told["bytes"] == COSTS.expert_bytes and not pace.ahead


def test_a_plans_copies_are_waited_for() -> None:
    runtime = FakeRuntime()
    pace = StreamPace(runtime, COSTS, 8)
    layer = Layer(runtime)
    pace.copies = {11: layer.copy(runtime), 40: layer.copy(runtime)}
    n_bytes = COSTS.expert_bytes
    made = pace.pins([(0, 3, Why.UNPIN, 0), (1, 3, Why.PIN, n_bytes)], COSTS)
    moves = rows(made.moves, MOVES)
    assert [(row["why"], row["layer"] * 8 + row["expert"]) for row in moves] == [
        (Why.UNPIN, 3), (Why.PIN, 11), (Why.AHEAD, 40),
    ]  # fmt: skip
    assert moves[1]["end"] >= moves[1]["start"] and made.settled and not pace.copies
    assert pace.now_ns == made.end_ns > 0


def test_rows_never_end_before_they_start() -> None:
    made = LaneRows(3)
    made.worked(1, Work.EXPERT, 0, 1, Lane.GPU, 100, 90)
    assert rows(made.work, WORK)[0]["end"] == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_cross_and_come_back(dtype: torch.dtype) -> None:
    runtime = FakeRuntime()
    crossing = Crossing(runtime)
    for tokens in (1, 40, 3):
        hidden = torch.randn(tokens, 16).to(dtype)
        index = torch.randint(8, (tokens, 2))
        weights = torch.rand(tokens, 4).to(dtype)[:, ::2]  # not contiguous
        foreseen = torch.randint(8, (tokens, 2)) if tokens > 1 else None
        before = runtime.host_waits
        crossing.look(hidden, index, weights, foreseen)
        seen = crossing.seen()
        assert runtime.host_waits == before + 1
        assert seen.hidden.equal(hidden) and (seen.chosen == index.numpy()).all()
        assert (seen.routed == weights.float().numpy()).all()
        assert (seen.foreseen is None) == (foreseen is None)
        there, _, end = crossing.back(hidden.float() * 2, dtype)
        runtime.wait(runtime.current(), end)
        assert there.dtype == dtype and there.equal((hidden.float() * 2).to(dtype))
    assert "bytes of buffers" in repr(crossing)
