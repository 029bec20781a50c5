"""Busy, idle and overlap of lanes, by hand and against one nanosecond after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.events import Columns, Lane
from engine.lane_times import LaneTimes, idle_gaps, lane_times, union


def work_of(*rows: tuple[int, int, int]) -> Columns:
    """``(lane, start, end)`` each."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return dict(zip(("lane", "start_ns", "end_ns"), table.T, strict=True))


def spent(*rows: tuple[int, int, int], start: int = 0, end: int = 10) -> LaneTimes:
    work = work_of(*rows)
    return lane_times(work, np.zeros(len(rows), dtype=np.bool_), start, end)


GPU, CPU, H2D, D2H = (int(lane) for lane in Lane)


def test_overlap_is_nothing_one_after_the_other_and_all_behind_the_busiest() -> None:
    assert spent((GPU, 0, 4), (CPU, 4, 10)).overlap == 0
    assert spent((GPU, 0, 10), (CPU, 4, 10)).overlap == 1
    assert spent((GPU, 0, 8), (CPU, 6, 10)).overlap == 0.5
    assert math.isnan(spent((GPU, 0, 4)).overlap)
    assert math.isnan(spent().overlap)


def test_shares_are_of_the_stretch() -> None:
    times = spent((GPU, 2, 6), (GPU, 8, 14), (CPU, -5, 1))
    assert times.busy_ns == (6, 1, 0, 0)
    assert (times.busy(Lane.GPU), times.idle(Lane.GPU)) == (0.6, 0.4)
    assert times.elapsed_ns == 7
    assert math.isnan(spent(start=3, end=3).busy(Lane.GPU))


def random_work(seed: int) -> Columns:
    """Disjoint on each lane, as real rows are."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int]] = []
    for lane in Lane:
        edges = np.sort(rng.integers(0, 200, 2 * int(rng.integers(0, 12))))
        rows += [(int(lane), a, b) for a, b in edges.reshape(-1, 2).tolist()]
    return work_of(*rows)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_one_nanosecond_after_the_other_gives(seed: int) -> None:
    work = random_work(seed)
    busy = np.zeros((len(Lane), 200), dtype=np.bool_)
    for lane, a, b in zip(*work.values(), strict=True):
        busy[lane, a:b] = True
    critical = np.arange(len(work["lane"])) % 2 == 0
    times = lane_times(work, critical, 30, 170)
    assert times.busy_ns == tuple(busy[:, 30:170].sum(axis=1).tolist())
    assert times.elapsed_ns == busy[:, 30:170].any(axis=0).sum()
    assert 0 <= times.overlap <= 1 or math.isnan(times.overlap)
    idle = np.zeros_like(busy)
    gaps = idle_gaps(work, critical, 30, 170)
    for lane, a, b in zip(gaps.lane, gaps.start_ns, gaps.end_ns, strict=True):
        assert b > a and not idle[lane, a:b].any()
        idle[lane, a:b] = True
    np.testing.assert_array_equal(idle[:, 30:170], ~busy[:, 30:170])
    assert not idle[:, :30].any() and not idle[:, 170:].any()


def test_a_gap_names_the_lane_that_the_path_is_on() -> None:
    work = work_of((GPU, 0, 2), (CPU, 2, 8), (H2D, 2, 4), (GPU, 8, 10))
    gaps = idle_gaps(work, np.array([True, True, False, True]), 0, 12)
    named = list(zip(gaps.lane, gaps.start_ns, gaps.end_ns, gaps.path, strict=True))
    assert (GPU, 2, 8, CPU) in named and (GPU, 10, 12, -1) in named
    assert (CPU, 8, 12, GPU) in named and (D2H, 0, 12, CPU) in named


def test_the_union_is_as_few_as_can_be() -> None:
    start, end = union(np.array([5, 0, 2, 9]), np.array([6, 3, 5, 9]))
    assert (start.tolist(), end.tolist()) == ([0, 9], [6, 9])
    assert len(union(start[:0], end[:0])[0]) == 0
