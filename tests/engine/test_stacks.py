from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from engine import native
from engine.events import Action
from engine.orchestrator import Orchestrator
from engine.stacks import Requests, lru_hits, opt_hits, static_hits
from engine.trace import Start
from tests.engine import caches
from tests.engine.builders import MODEL, random_batch, toy_plan

TRACES = 1000


@pytest.fixture(params=["compiled", "python"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both twins."""
    monkeypatch.setenv(native.SWITCH, "0" if request.param == "python" else "1")
    if request.param == "compiled":
        caches.need_library()
    yield request.param


@pytest.mark.usefixtures("code")
def test_lru_equals_brute_force_at_every_size() -> None:
    for seed in range(TRACES):
        requests = caches.random_requests(seed, most_experts=6)
        expected = [caches.lru(requests.segments, n) for n in range(requests.experts + 1)]
        assert lru_hits(requests).tolist() == expected, seed


@pytest.mark.usefixtures("code")
def test_opt_equals_brute_force_at_every_size() -> None:
    for seed in range(TRACES):
        requests = caches.random_requests(seed, most_layers=2, most_experts=3)
        sizes = range(requests.experts + 1)
        for preloaded in (True, False):
            expected = [
                caches.optimum(requests.segments, requests.experts, n, preloaded=preloaded)
                for n in sizes
            ]
            assert opt_hits(requests, preloaded=preloaded).tolist() == expected, seed


def test_compiled_equals_python_on_longer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    caches.need_library()
    rng = random.Random(0)
    for experts, top in ((8, 2), (40, 5), (150, 3)):
        segments = [
            sorted(
                layer * experts + e for e in rng.sample(range(experts), rng.choice((top, top, 8)))
            )
            for _ in range(60)
            for layer in range(4)
        ]
        requests = caches.requests_of(segments, 4 * experts, [0] * len(segments))
        monkeypatch.setenv(native.SWITCH, "1")
        fast = lru_hits(requests), opt_hits(requests), opt_hits(requests, preloaded=False)
        monkeypatch.setenv(native.SWITCH, "0")
        slow = lru_hits(requests), opt_hits(requests), opt_hits(requests, preloaded=False)
        for a, b in zip(fast, slow, strict=True):
            assert a.tolist() == b.tolist()
        sizes = rng.sample(range(4 * experts), 12)
        assert fast[0][sizes].tolist() == [caches.lru(segments, n) for n in sizes]


def test_lru_is_the_engines_own_at_every_size_with_pins() -> None:
    rng = random.Random(1)
    total = MODEL.experts_total
    for _ in range(12):
        batch = random_batch(rng, 40)
        pins = rng.choice((0, 0, 3, 7))
        fixed = np.arange(total) < pins  # the toy plan's popular experts
        hits = lru_hits(Requests.of(batch, total, fixed)) + int(fixed[batch.flat].sum())
        for slots in range(total - pins + 1):
            plan = toy_plan(pins + slots, slots, "lru")
            assert plan.pinned == tuple(range(pins))
            found = Orchestrator(plan, Start()).decide_all(batch).action
            assert int((found == Action.RESIDENT).sum()) == hits[slots]


def test_static_equals_brute_force_at_every_size_and_never_beats_opt() -> None:
    for seed in range(TRACES):
        requests = caches.random_requests(seed)
        order = random.Random(seed).sample(range(requests.experts), requests.experts)
        hits = static_hits(requests, np.array(order))
        asked = [expert for active in requests.segments for expert in active]
        for slots in range(requests.experts + 1):
            assert hits[slots] == sum(expert in order[:slots] for expert in asked)
        assert (hits <= opt_hits(requests)).all()


def test_opt_is_never_beaten_and_more_slots_never_hurt_it() -> None:
    for seed in range(300):
        requests = caches.random_requests(seed)
        best, cold = opt_hits(requests), opt_hits(requests, preloaded=False)
        assert (best >= cold).all() and (cold >= lru_hits(requests)).all()
        assert (np.diff(best) >= 0).all() and best[-1] == len(requests)
        assert cold[-1] == len(requests) - len(np.unique(requests.flat))


def test_nothing_asked_for_is_nothing_hit() -> None:
    requests = caches.requests_of([], 5, [])
    assert requests.most == 0 and requests.segments == []
    for hits in (lru_hits(requests), opt_hits(requests)):
        assert hits.tolist() == [0] * 6


def test_next_use_is_the_segment_that_uses_it_again() -> None:
    requests = caches.requests_of([[0, 2], [2], [0]], 3, [0, 0, 1])
    assert requests.next_use.tolist() == [2, 1, 3, 3]
