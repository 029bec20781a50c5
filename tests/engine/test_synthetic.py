"""Made-up routing: its shape, its skew and locality, and that a seed is a seed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import BudgetError, InputError, UnknownNameError
from engine.events import StepKind
from engine.replay import replay
from engine.spec import ModelSpec
from engine.synthetic import Router, SyntheticRouting, synthetic_trace
from engine.synthetic.draw import chances, log_odds
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
    expected = SyntheticRouting.of(skew=0.3, locality=0.3).to_dict() | {"seed": 0}
    assert trace.meta["synthetic"] == expected
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
    chance, local = (repeats(made(locality=locality, **options)) for locality in (0.0, 0.8))
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
    sizes = {"cache_slots": 3, "seed": 1, "decode_tokens": 2, "domains": 2, "switch_tokens": 1}
    again = made(policy="lru", **{name: np.int64(value) for name, value in sizes.items()})
    assert again.meta == made(policy="lru", **sizes).meta


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt_tokens": -1}, InputError, "prompt_tokens: expected a whole number of at least 0"),
        ({"decode_tokens": -1}, InputError, "decode_tokens"),
        ({"decode_tokens": 2.0}, InputError, "decode_tokens"),
        ({"prompt_tokens": 0, "decode_tokens": 0}, InputError, "at least 1, got 0"),
        ({"skew": -1.0}, InputError, "skew"),
        ({"skew": float("nan")}, InputError, "skew"),
        ({"skew": 9.0}, InputError, "skew: expected a number from 0 to 8, got 9.0"),
        ({"skew": ()}, InputError, "skew: expected a tuple of numbers"),
        ({"skew": "0.3"}, InputError, "skew: expected numbers"),
        ({"locality": 1.0}, InputError, "locality: expected a number from 0 to 0.999"),
        ({"coupling": -0.1}, InputError, "coupling"),
        ({"domains": np.array([1, 2])}, InputError, "domains: expected a whole number"),
        ({"accuracy": "x"}, InputError, "accuracy: expected a number"),
        ({"accuracy": [0.5]}, InputError, "accuracy: expected a number"),
        ({"domains": 0}, InputError, "domains: expected a whole number of at least 1"),
        ({"contrast": 1.5}, InputError, "contrast: expected a number from 0 to 1"),
        ({"requests": 0}, InputError, "requests: expected a whole number of at least 1"),
        ({"switch_tokens": 0}, InputError, "switch_tokens"),
        ({"seed": -1}, InputError, "seed"),
        ({"routing": SyntheticRouting(), "skew": 0.1}, InputError, "got routing and skew"),
        ({"routing": "x"}, InputError, "routing: expected a SyntheticRouting, .* got 'x'"),
        ({"routing": {}, "skew": 0.1}, InputError, "routing: expected a SyntheticRouting"),
        ({"skew": np.array("x")}, InputError, "skew: expected a number"),
        ({"policy": np.array([1, 2])}, InputError, "policy: expected a name"),
        ({"quantize": np.array([1, 2])}, InputError, "quantize: expected"),
        ({"gpu_memory": "1KB"}, BudgetError, "smallest budget"),
        ({"policy": "magic"}, UnknownNameError, "magic"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**options)


def test_requests_one_after_the_other() -> None:
    trace = made(requests=3).check()
    assert trace.steps["kind"].tolist() == ([StepKind.PREFILL] + [StepKind.DECODE] * 8) * 3
    assert trace.steps["context"].tolist() == list(range(4, 13)) * 3
    assert trace.steps["token"].tolist()[9:11] == [12, 16]
    assert trace.tokens["position"].tolist() == list(range(12)) * 3
    np.testing.assert_array_equal(replay(trace).trace.work_rows, trace.work_rows)


def shared(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def by_part(trace: Trace, parts: int) -> list[np.ndarray]:
    """Tokens by (layer, expert) in equal parts of a decode."""
    experts = trace.routing.experts.reshape(parts, -1, 2, 2)
    return [
        np.array([np.bincount(part[:, layer].ravel(), minlength=16) for layer in range(2)])
        for part in experts
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"requests": 4, "decode_tokens": 500},
        {"requests": 1, "decode_tokens": 2000, "switch_tokens": 500},
    ],
)
def test_domains_take_turns(options: dict[str, Any]) -> None:
    domains = {"domains": 2, "contrast": 1.0, "skew": 1.0, "prompt_tokens": 0}
    a, b, again, _ = by_part(made(**domains, **options), 4)
    assert shared(a, again) > 0.95
    assert shared(a, b) < 0.5
    a, b, _, _ = by_part(made(**domains | {"contrast": 0.0}, **options), 4)
    assert shared(a, b) > 0.95


@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("skew", [0.0, 0.5, 2.0])
def test_popularity_is_what_was_asked_for_whatever_the_noise(top_k: int, skew: float) -> None:
    """Pareto sampling is close, not exact: 0.02 of a probability, on 8 layers of 16 experts."""
    routing = SyntheticRouting.of(skew=skew, locality=0.5, coupling=0.5)
    router = Router.of(routing, (8, 16), top_k, 0)
    wanted = router.chances[0]
    np.testing.assert_allclose(wanted.sum(axis=1), top_k, rtol=1e-4)
    np.testing.assert_allclose(router.logits[0].std(axis=1), skew, atol=1e-4)
    tokens = 20_000
    drawn = router.draw(
        np.zeros(tokens, np.int64), np.arange(tokens) == 0, np.random.default_rng(0)
    )
    hot = np.zeros((tokens, 8, 16), dtype=bool)
    np.put_along_axis(hot, drawn.experts.astype(np.int64), True, axis=2)
    assert (hot.sum(axis=2) == top_k).all()
    assert np.abs(hot.mean(axis=0) - wanted).max() < 0.03
    assert np.abs(hot.mean(axis=0) - wanted).mean() < 0.01


def test_log_odds_without_a_choice() -> None:
    """As many are chosen as there are: every chance is as good as one."""
    assert chances(log_odds(np.array([-1.0, 0.0, 1.0]), 3)).min() > 0.999_99


def test_long_drawings_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    routing = SyntheticRouting.of(skew=1.0, locality=0.5, coupling=0.5)
    router = Router.of(routing, (3, 8), 2, 5)

    def drawn(seed: int = 0) -> Any:
        domain, first = np.zeros(100, np.int64), np.arange(100) % 40 == 0
        return router.draw(domain, first, np.random.default_rng(seed), accuracy=0.5)

    whole, other = drawn(), drawn(1)
    monkeypatch.setattr("engine.synthetic.draw._CHUNK_SCORES", 7 * 24)
    parts = drawn()
    np.testing.assert_array_equal(parts.experts, whole.experts)
    np.testing.assert_array_equal(parts.weights, whole.weights)
    np.testing.assert_array_equal(parts.predicted, whole.predicted)
    assert (other.experts != whole.experts).any()


def test_a_noise_step_by_step() -> None:
    """The fast draw against a loop over tokens and layers, with the same random numbers."""
    routing = SyntheticRouting.of(skew=1.0, locality=(0.0, 0.9), coupling=(0.0, 0.8))
    router = Router.of(routing, (4, 6), 2, 0)
    first = np.array([True, False, False, True, False])
    drawn = router.draw(np.zeros(5, np.int64), first, np.random.default_rng(3))
    raw = np.random.default_rng(3).standard_normal((5, 4, 6), dtype=np.float32).astype(float)
    before = np.zeros((4, 6))
    for token in range(5):
        new = np.zeros((4, 6))
        for layer in range(4):
            c, r = float(router.coupling[layer]), float(router.locality[layer])
            new[layer] = raw[token, layer]
            if layer:
                raw[token, layer] *= np.sqrt(1 - c * c)
                raw[token, layer] += c * raw[token, layer - 1][router.kin[layer]]
                new[layer] = raw[token, layer]
            if not first[token]:
                new[layer] = r * before[layer] + np.sqrt(1 - r * r) * new[layer]
        before = new
        score = router.logits[0] + 1.5976 * new + 0.070566 * new**3
        best = np.argsort(-score, axis=1)[:, :2]
        np.testing.assert_array_equal(drawn.experts[token], best)


@pytest.mark.parametrize(
    ("experts", "top_k", "accuracy"), [(16, 2, 0.8), (16, 2, 0.0), (8, 6, 0.7)]
)
def test_predictions_have_the_accuracy_asked_for(experts: int, top_k: int, accuracy: float) -> None:
    router = Router.of(SyntheticRouting(), (4, experts), top_k, 0)
    domain, first = np.zeros(3000, np.int64), np.arange(3000) == 0
    plain = router.draw(domain, first, np.random.default_rng(0))
    drawn = router.draw(domain, first, np.random.default_rng(0), accuracy=accuracy)
    assert plain.predicted is None
    np.testing.assert_array_equal(drawn.experts, plain.experts)
    assert drawn.predicted is not None
    assert (drawn.predicted[:, -1] == -1).all()
    guess, real = drawn.predicted[:, :-1], drawn.experts[:, 1:]
    ordered = np.sort(guess, axis=2)
    assert (ordered[..., 1:] != ordered[..., :-1]).all()  # different experts
    right = (guess[..., None] == real[:, :, None, :]).any(axis=3)
    assert right.mean() == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, 0.5, float("nan")])
def test_an_accuracy_out_of_range(accuracy: float) -> None:
    router = Router.of(SyntheticRouting(), (4, 8), 6, 0)  # two wrong ones at most
    with pytest.raises(InputError, match=r"expected a share from 0\.667 to 1 for top-6 of 8"):
        router.draw(np.zeros(1, np.int64), np.ones(1, bool), np.random.default_rng(0),
                    accuracy=accuracy)  # fmt: skip


def test_parameters_go_to_another_depth_and_back_from_json() -> None:
    routing = SyntheticRouting.of(skew=(0.0, 1.0), locality=0.5, domains=2, contrast=0.3)
    np.testing.assert_allclose(routing.at(5)["skew"], [0, 0.25, 0.5, 0.75, 1])
    assert routing.at(1)["locality"].tolist() == [0.5]
    assert SyntheticRouting.from_dict(json.loads(json.dumps(routing.to_dict()))) == routing
    with pytest.raises(InputError, match="missing skew"):
        SyntheticRouting.from_dict({})
    with pytest.raises(InputError, match=r"expected a tuple of numbers, got 0\.3"):
        SyntheticRouting(skew=0.3)  # type: ignore[arg-type]
    assert "2 domains of contrast 0.30" in repr(routing)


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3"])
def test_grids_that_nobody_here_can_run(model: str) -> None:
    trace = synthetic_trace(
        model, prompt_tokens=20, decode_tokens=30, gpu_memory="30%", domains=2, requests=2
    ).check()
    assert trace.routing.experts.shape == (100 * trace.model.layers, trace.model.top_k)


def test_experts_of_fewer_bytes() -> None:
    options: dict[str, Any] = {"decode_tokens": 2, "gpu_memory": "24GB"}
    plain, small = (
        synthetic_trace("mixtral-8x7b", quantize=scheme, **options) for scheme in (None, "int4")
    )
    assert small.model.name == "mixtral-8x7b-int4"
    assert small.model.routed_bytes < plain.model.routed_bytes / 3.5
    assert len(small.plan.pinned) > 3 * len(plain.plan.pinned)
    assert np.array_equal(small.routing.experts, plain.routing.experts)
    with pytest.raises(InputError, match="bytes per weight already"):
        synthetic_trace("gpt-oss-120b", quantize="int4")
