"""Where copying an expert begins to beat the CPU, compared with a slow search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.cost import TABLE_TOKENS, CostModel, Curve
from engine.crossover import Measured, crossover, measured_points
from engine.errors import InputError
from engine.spec import HardwareSpec, ModelSpec
from tests.engine.builders import COSTS
from tests.engine.test_measured import MODEL, calibrated

MIXTRAL, RTX = ModelSpec.preset("mixtral-8x7b"), HardwareSpec.preset("rtx-4090")


def slow(costs: CostModel, slower: float = 1.0, quicker: float = 1.0) -> int | None:
    """First token count at which the copy wins, one after the other."""
    for tokens in range(1, TABLE_TOKENS + 1):
        if costs.cpu_ns(tokens) * slower > costs.stream_ns(tokens) * quicker:
            return tokens
    return None


@pytest.mark.parametrize("costs", [COSTS, CostModel.of(MIXTRAL, RTX)])
def test_it_is_the_first_count_that_wins(costs: CostModel) -> None:
    found, error = crossover(costs), costs.relative_error
    assert found.break_even == costs.break_even_tokens == slow(costs)
    assert found.earliest == slow(costs, 1 + error, 1 - error)
    assert found.latest == slow(costs, 1 - error, 1 + error)


def test_lines_are_the_cost_model_s() -> None:
    found = crossover(COSTS, most_tokens=300)
    assert found.tokens[0] == 1 and found.largest == 300 and (np.diff(found.tokens) > 0).all()
    assert found.break_even in found.tokens
    for i, tokens in enumerate(found.tokens.tolist()):
        assert found.resident_ns[i] == COSTS.gpu(tokens)
        assert found.stream_ns[i] == COSTS.stream_ns(tokens)
        assert found.cpu_ns[i] == COSTS.cpu_ns(tokens)


def test_it_may_never_cross_or_at_once() -> None:
    assert crossover(replace(COSTS, copy_ns=10**9)).break_even is None
    at_once = crossover(replace(COSTS, copy_ns=0))
    assert at_once.break_even == 1 and at_once.tokens[0] == 1


@pytest.mark.parametrize("most", [1, 0, 2.5, True, "9"])
def test_bad_ends(most: object) -> None:
    with pytest.raises(InputError, match="most_tokens"):
        crossover(COSTS, most_tokens=most)  # type: ignore[arg-type]


def test_measured_points_get_the_way_of_activations() -> None:
    found = crossover(COSTS, measured=(Measured(2, 50.0, 0.1, 7), Measured(5000, 1.0)))
    (point,) = found.measured
    assert point == Measured(2, 50 + COSTS.to_host(2) + COSTS.to_device(2), 0.1, 7)
    table = replace(COSTS, cpu=Curve(points=((1, 30.0), (4, 25.0))))
    assert [p.tokens for p in crossover(table).measured] == [1, 4]


def test_points_of_a_calibration() -> None:
    spec = calibrated()
    assert measured_points(spec, MODEL) == (Measured(1, 3.25e6, 0.013, 880),)
    assert measured_points(spec, MIXTRAL) == () == measured_points(RTX, MIXTRAL)
