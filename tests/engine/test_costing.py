"""A model's costs: made-up laps come back as what they were made of, busy rounds left out."""

from __future__ import annotations

import pytest

from engine.costing import LEAST_ERROR, drift_of, model_costs
from engine.errors import FiddlerError
from engine.timing import Samples, _Laps
from tests.engine.builders import MODEL


def laps(tokens: int, context: int, scale: float = 1.0) -> _Laps:
    """A step on a machine whose costs are lines: see the test that recovers them."""
    counts = [1, 1] if tokens == 1 else [tokens, max(tokens // 2, 1)]
    dense = 500_000 + 20_000 * tokens + 300 * context
    experts = [round(scale * (1_000_000 + 50_000 * count)) for count in counts]
    made = _Laps(0, tokens, context, layers=1, dense_ns=round(scale * dense), counts=counts)
    made.expert_ns, made.head_ns = experts, round(scale * 80_000)
    made.end_ns = made.dense_ns + sum(experts) + made.head_ns
    return made


def made_up(scales: tuple[float, ...]) -> Samples:
    """A round for each scale: how much slower the machine was."""
    samples = Samples()
    for number, scale in enumerate(scales):
        for length in (1, 2, 4, 8, 16, 32):
            steps = [laps(length, length, scale)]
            steps += [laps(1, length + new, scale) for new in range(1, 6)]
            samples.take(number, steps)
    return samples


def test_costs_are_recovered_from_laps() -> None:
    costs, readings = model_costs(made_up((1.0, 1.0, 1.0)), MODEL)
    for tokens in (1, 3, 8, 30, 100):
        assert costs.cpu(tokens) == pytest.approx(1_000_000 + 50_000 * tokens, rel=0.01)
    assert costs.kv_ns == pytest.approx(300, rel=0.02)
    assert costs.dense(1) == pytest.approx(520_000, rel=0.01)
    assert costs.dense(24) == pytest.approx(500_000 + 20_000 * 24, rel=0.01)
    assert costs.head(1) == 80_000
    assert costs.relative_error == LEAST_ERROR
    assert [row.what for row in readings][:2] == ["CPU expert, 1 tokens", "CPU expert, 4 tokens"]


def test_a_busy_round_is_left_out_but_widens_the_interval() -> None:
    samples = made_up((1.0, 1.5, 1.0))
    costs, _ = model_costs(samples, MODEL)
    assert costs.cpu(4) == pytest.approx(1_200_000, rel=0.01)
    assert drift_of(samples) == pytest.approx(0.25, abs=0.01)
    assert costs.relative_error >= 0.25


def test_one_round_s_halves_show_its_drift() -> None:
    samples = made_up((1.0,))
    assert drift_of(samples) < 0.05
    samples.decode[0] = [100] * 10 + [150] * 10
    assert drift_of(samples) == pytest.approx(0.2)


def test_nothing_measured() -> None:
    with pytest.raises(FiddlerError, match="nothing was measured"):
        model_costs(Samples(), MODEL)
