"""Two plans beside each other: the replays' own figures, their differences, what is not claimed."""

from __future__ import annotations

import math

import pytest

from engine.comparison import Figure, compare_plans, unlike
from engine.errors import InputError
from engine.replay import replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=10, prompt_tokens=3)


def test_figures_are_the_replays_own(trace: Trace) -> None:
    other = replay(trace, gpu_memory="48GB").trace
    found = compare_plans(trace, other)
    a, b = trace.summary, other.summary
    speed = found["speed"]
    assert (speed.a, speed.b) == (a.tokens_per_s, b.tokens_per_s)
    assert (speed.b_low, speed.b_high) == (b.tokens_per_s_low, b.tokens_per_s_high)
    assert speed.difference == b.tokens_per_s - a.tokens_per_s > 0
    assert speed.ratio == b.tokens_per_s / a.tokens_per_s
    assert found["hit rate"].b == b.hit_rate
    assert found["over the link, per token"].a == a.bytes_per_token
    assert found["calls on the CPU"].a == a.calls["cpu"] / sum(a.calls.values()) == a.cpu_share
    assert found["pinned"].difference == len(other.plan.pinned) - len(trace.plan.pinned)


def test_meeting_intervals_claim_nothing() -> None:
    assert Figure("speed", "tokens/s", 3, 4, 2, 5, 3, 6).overlap
    assert not Figure("speed", "tokens/s", 3, 9, 2, 5, 6, 12).overlap
    assert not Figure("pinned", "experts", 3, 3).overlap  # nothing uncertain about it
    assert math.isnan(Figure("pinned", "experts", 0, 3).ratio)


def test_what_differs(trace: Trace) -> None:
    assert unlike(trace, trace) == {}
    other = replay(trace, gpu_memory="48GB", policy="lru", cpu_cores=8).trace
    assert unlike(trace, other) == {
        "GPU memory": ("24.0 GB", "48.0 GB"),
        "cache": ("0 experts", f"{other.plan.cache_slots} experts"),
        "policy": ("fiddler", "lru"),
        "hardware": ("rtx-4090", "rtx-4090 (8 CPU cores)"),
    }


def test_only_the_same_routing_is_compared(trace: Trace) -> None:
    with pytest.raises(InputError, match="the same routing"):
        compare_plans(trace, synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=4))
