"""A model's costs: made-up laps come back as what they were made of, busy rounds left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.costing import LEAST_ERROR, drift_of, model_costs
from engine.errors import FiddlerError
from engine.timing import Laps, Samples
from tests.engine.builders import MODEL

DENSE = 20_000
"""Nanoseconds for each token."""


def laps(tokens: int, context: int, pace: float = 1.0, compute: float | None = None) -> Laps:
    """A step on a machine whose costs are lines: see the test that recovers them.

    At another pace reading takes longer; computing too, unless told otherwise.
    """
    compute = pace if compute is None else compute
    counts = [1, 1] if tokens == 1 else [tokens, max(tokens // 2, 1)]
    dense = pace * (500_000 + 300 * context) + compute * DENSE * tokens
    experts = [round(pace * 1_000_000 + compute * 50_000 * count) for count in counts]
    made = Laps(0, tokens, context, dense_ns=round(dense), counts=[counts])
    made.expert_ns, made.head_ns = [experts], round(pace * 80_000)
    made.end_ns = made.dense_ns + sum(experts) + made.head_ns
    return made


def made_up(
    paces: Sequence[float], compute: float | None = None, seed: int | None = None
) -> Samples:
    """A round for each pace: how much slower the machine was."""
    samples = Samples()
    random = np.random.default_rng(seed)
    for number, usual in enumerate(paces):
        for length in (1, 2, 4, 8, 16, 32):
            pace = usual if seed is None else float(random.choice(paces))
            steps = [laps(length, length, pace, compute)]
            steps += [laps(1, length + new, pace, compute) for new in range(1, 6)]
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


@pytest.mark.parametrize("compute", [None, 1.0])
def test_a_machine_of_two_paces(compute: float | None) -> None:
    """Each length meets them as chance has it, most of them another one than decode's median.

    Costs are those at the pace that was more often, whether computing follows it or not.
    """
    samples = made_up((1.0, 1.0, 1.0, 1.0, 1.45, 1.45, 1.45), compute, seed=5)
    costs, _ = model_costs(samples, MODEL)
    for tokens in (1, 2, 8, 24):
        told = laps(tokens, tokens, 1.0, compute)
        assert costs.cpu(tokens) == pytest.approx(told.expert_ns[0][0], rel=0.03)
        dense = costs.dense(tokens) + costs.kv_ns * tokens
        assert dense == pytest.approx(told.dense_ns, rel=0.03)


def test_pauses_do_not_count() -> None:
    """A step in ten takes 0.3 s longer."""
    samples = made_up((1.0,) * 5)
    steps = [step for each in samples.generations for step in each.steps]
    for step in steps[::10]:
        step.expert_ns[0][0] += 300_000_000
        step.end_ns += 300_000_000
    costs, _ = model_costs(samples, MODEL)
    for tokens in (1, 3, 8, 30):
        assert costs.cpu(tokens) == pytest.approx(1_000_000 + 50_000 * tokens, rel=0.02)


def test_shares_of_a_call_are_no_costs() -> None:
    """Beside an expert of many tokens one of few gets more of the memory; calls add up."""
    samples = made_up((1.0,) * 3)
    for each in samples.generations:
        for step in each.prefill:
            shift = round(0.2 * step.expert_ns[0][1])
            step.expert_ns[0][0] += shift
            step.expert_ns[0][1] -= shift
    costs, _ = model_costs(samples, MODEL)
    for each in samples.generations:
        for step in each.steps:
            told = sum(costs.cpu(count) for count in step.counts[0])
            assert told == pytest.approx(sum(step.expert_ns[0]), rel=0.01)


def test_one_round_s_halves_show_its_drift() -> None:
    samples = made_up((1.0,))
    assert drift_of(samples) < 0.05
    steps = [step for each in samples.generations for step in each.decode]
    for at, step in enumerate(steps):
        step.end_ns = 100 if at < len(steps) // 2 else 150
    assert drift_of(samples) == pytest.approx(0.2)


def test_nothing_measured() -> None:
    with pytest.raises(FiddlerError, match="nothing was measured"):
        model_costs(Samples(), MODEL)
