"""Made-up routing: its shape, its skew and locality, and that a seed is a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import BudgetError, InputError, UnknownNameError
from engine.events import StepKind
from engine.replay import replay
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from tests.engine.builders import MODEL

WIDE = replace(MODEL, layers=2, experts=16, top_k=2)


def made(**options: Any) -> Trace:
    return synthetic_trace(WIDE, **{"prompt_tokens": 4, "decode_tokens": 8} | options)


def test_one_prompt_and_a_decode_for_each_token() -> None:
    trace = made().check()
    assert trace.steps["kind"].tolist() == [StepKind.PREFILL] + [StepKind.DECODE] * 8
    assert trace.steps["tokens"].tolist() == [4] + [1] * 8
    assert trace.steps["context"].tolist() == list(range(4, 13))
    assert trace.steps["token"].tolist() == [0, *range(4, 12)]
    assert trace.tokens["position"].tolist() == list(range(12))
    assert trace.tokens["step"].tolist() == [0] * 4 + list(range(1, 9))
    assert trace.meta["synthetic"] == {"skew": 0.3, "locality": 0.3, "seed": 0}
    assert len(trace.routing) == 12 * 2
    assert trace.routing.token[:8].tolist() == [0, 1, 2, 3] * 2  # layer by layer
    assert trace.routing.layer[:8].tolist() == [0] * 4 + [1] * 4


def test_a_token_goes_to_different_experts_and_its_weights_add_up() -> None:
    routing = made(decode_tokens=50).routing
    assert (routing.experts[:, 0] != routing.experts[:, 1]).all()
    np.testing.assert_allclose(routing.weights.sum(axis=1), 1, rtol=1e-5)
    assert (routing.weights[:, 0] >= routing.weights[:, 1]).all()  # the best first


@pytest.mark.parametrize(("prompt", "decode"), [(0, 3), (3, 0), (1, 1)])
def test_without_prompt_or_without_decode(prompt: int, decode: int) -> None:
    trace = made(prompt_tokens=prompt, decode_tokens=decode).check()
    assert len(trace.token_rows) == prompt + decode
    assert len(trace.decode_steps) == decode
    np.testing.assert_array_equal(replay(trace).trace.work_rows, trace.work_rows)


def test_a_seed_is_a_seed() -> None:
    one, same, other = made(seed=1), made(seed=1), made(seed=2)
    np.testing.assert_array_equal(one.routing.experts, same.routing.experts)
    np.testing.assert_array_equal(one.work_rows, same.work_rows)
    assert one.plan == same.plan
    assert (one.routing.experts != other.routing.experts).any()


def counts(trace: Trace) -> np.ndarray:
    """Tokens by (layer, expert)."""
    routing = trace.routing
    flat = routing.layer.astype(np.int64)[:, None] * 16 + routing.experts
    return np.bincount(flat.ravel(), minlength=32).reshape(2, 16)


def repeats(trace: Trace) -> float:
    """Share of choices that the previous token made, too, in the same layer."""
    experts = trace.routing.experts.reshape(-1, 2, 2)  # decode only: (tokens, layers, top_k)
    again = (experts[1:, :, :, None] == experts[:-1, :, None, :]).any(axis=3)
    return float(again.mean())


def test_skew_makes_experts_unequal() -> None:
    options = {"prompt_tokens": 0, "decode_tokens": 600, "locality": 0.0}
    flat, skewed = (counts(made(skew=skew, **options)) for skew in (0.0, 1.5))
    assert flat.max() < 2 * flat.mean()
    assert skewed.max() > 3 * skewed.mean()


def test_locality_makes_tokens_alike() -> None:
    options = {"prompt_tokens": 0, "decode_tokens": 600, "skew": 0.0}
    chance, local = (repeats(made(locality=locality, **options)) for locality in (0.0, 3.0))
    assert chance == pytest.approx(2 / 16, abs=0.03)
    assert local > 0.4


def test_the_profile_is_of_another_draw_of_the_same_taste() -> None:
    trace = made(skew=1.5, decode_tokens=600)
    profile = trace.plan.profile
    assert profile.tokens == 604
    assert "second draw" in profile.source
    mine = counts(trace)
    assert (profile.array != mine).any()
    assert np.corrcoef(profile.array.ravel(), mine.ravel())[0, 1] > 0.9


def test_plan_arguments_reach_the_plan() -> None:
    trace = made(policy="lru", cache_slots=3, gpu_memory="50%", hardware="l4")
    plan = trace.plan
    assert (plan.policy, plan.cache_slots, plan.room, plan.hardware) == ("lru", 3, 16, "l4")
    assert trace.model is WIDE
    assert synthetic_trace("olmoe-1b-7b", decode_tokens=1).model == ModelSpec.preset("olmoe-1b-7b")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt_tokens": -1}, InputError, "prompt_tokens: expected a whole number of at least 0"),
        ({"decode_tokens": -1}, InputError, "decode_tokens"),
        ({"decode_tokens": 2.0}, InputError, "decode_tokens"),
        ({"prompt_tokens": 0, "decode_tokens": 0}, InputError, "at least 1, got 0"),
        ({"skew": -1.0}, InputError, "skew"),
        ({"skew": float("nan")}, InputError, "skew"),
        ({"gpu_memory": "1KB"}, BudgetError, "smallest budget"),
        ({"policy": "magic"}, UnknownNameError, "magic"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**options)
