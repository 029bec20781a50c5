from __future__ import annotations

import numpy as np
import pytest

from engine import native
from engine.frequency import frequency_hits
from engine.stacks import lru_hits, opt_hits
from tests.engine import caches


@pytest.mark.parametrize("switch", ["1", "0"])
def test_lfu_and_lrfu_equal_brute_force(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, switch)
    if switch == "1":
        caches.need_library()
    for seed in range(1000):
        requests = caches.random_requests(seed)
        sizes = np.arange(requests.experts + 1)
        steps, segments = requests.step.tolist(), requests.segments
        expected = [caches.lfu(segments, n, steps, lambda age: 1) for n in sizes]
        assert frequency_hits(requests, sizes).tolist() == expected, seed
        if seed < 200:  # a worth of 1/4 per step: sums are exact, so equals are equal
            expected = [caches.lfu(segments, n, steps, lambda age: 0.25**age) for n in sizes]
            assert frequency_hits(requests, sizes, half_life=0.5).tolist() == expected, seed


def test_compiled_equals_python_with_any_half_life(monkeypatch: pytest.MonkeyPatch) -> None:
    caches.need_library()
    for seed in range(100):
        requests = caches.random_requests(seed, most_experts=8)
        sizes = np.arange(requests.experts + 1)
        for half_life in (0.3, 3.0, 8.0, np.inf):
            monkeypatch.setenv(native.SWITCH, "1")
            fast = frequency_hits(requests, sizes, half_life)
            monkeypatch.setenv(native.SWITCH, "0")
            assert fast.tolist() == frequency_hits(requests, sizes, half_life).tolist()
            assert (fast <= opt_hits(requests, preloaded=False)).all()


def test_a_very_short_half_life_is_nearly_lru() -> None:
    segments = [[n % 7] for n in (0, 1, 2, 0, 3, 1, 0, 4, 2, 0, 5, 1, 0, 6, 0, 1, 2)]
    requests = caches.requests_of(segments, 7, range(len(segments)))
    sizes = np.arange(8)
    short = frequency_hits(requests, sizes, half_life=0.01)
    assert short.tolist() == lru_hits(requests).tolist()


def test_lfu_is_not_monotone() -> None:
    """Why each size is simulated: there are runs where one more slot loses hits."""
    falls = 0
    for seed in range(300):
        requests = caches.random_requests(seed)
        hits = frequency_hits(requests, np.arange(requests.experts + 1))
        falls += bool((np.diff(hits) < 0).any())
    assert falls > 0
