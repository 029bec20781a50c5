"""When layers ran, against the steps that they fill."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from engine.spans import layer_span, what_ran
from engine.trace import Trace
from tests.engine.builders import MODEL, Driver, toy_plan


@pytest.fixture(scope="module")
def trace() -> Trace:
    driver, rng = Driver(toy_plan(4, 2, "lru")), random.Random(0)
    for tokens in (4, 1, 1):
        driver.step(rng, tokens)
    driver.step(rng, layers=2)
    return driver.trace()


def test_layers_fill_their_step_up_to_the_head(trace: Trace) -> None:
    for step in range(3):
        spans = [layer_span(trace, step, layer) for layer in range(MODEL.layers)]
        assert spans[0][0] == trace.steps["start_ns"][step]
        assert all(one[1] == then[0] for one, then in pairwise(spans))
        assert spans[-1][1] < trace.steps["end_ns"][step]
        for layer, (start, end) in enumerate(spans):
            assert what_ran(trace, start) == what_ran(trace, end - 1) == (step, layer)
        assert what_ran(trace, spans[-1][1]) == (step, None)


def test_a_layer_that_was_not_reached_shows_its_step(trace: Trace) -> None:
    step = tuple(int(trace.steps[name][3]) for name in ("start_ns", "end_ns"))
    assert layer_span(trace, 3, 2) == step
    assert layer_span(trace, 3, 1)[1] == step[1]


def test_beside_the_run_nothing_ran(trace: Trace) -> None:
    assert what_ran(trace, -1) is None
    assert what_ran(trace, trace.duration_ns + 1) is None
    assert what_ran(Driver(toy_plan(2)).trace(), 0) is None
