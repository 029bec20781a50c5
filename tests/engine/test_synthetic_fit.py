"""Parameters found again, and made-up traces beside the recorded one they were fitted to."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.spec import ModelSpec
from engine.synthetic import CacheFigures, SyntheticRouting, likeness, synthetic_trace
from engine.synthetic.choices import NEAR_TOKENS, Choices
from engine.synthetic.likeness import SIZES, lru_hit_rate
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.builders import recorded, toy_plan

MODEL = replace(ModelSpec.preset("olmoe-1b-7b"), layers=6)
"""6 layers of 64 experts, top 8."""


def made(**options: Any) -> Trace:
    asked = {"prompt_tokens": 0, "decode_tokens": 2000, "gpu_memory": "50%"} | options
    return synthetic_trace(MODEL, **asked)


@cache
def fitted() -> SyntheticRouting:
    """To the bundled run."""
    return SyntheticRouting.fit(demo.trace())


@pytest.mark.parametrize(
    ("skew", "locality", "coupling"), [(0.5, 0.5, 0.0), (1.0, 0.0, 0.7), (1.5, 0.8, 0.9)]
)
def test_parameters_are_found_again(skew: float, locality: float, coupling: float) -> None:
    """In 2,000 tokens: skew to 0.08 in every layer, locality to 0.05, coupling to 0.15."""
    found = SyntheticRouting.fit(made(skew=skew, locality=locality, coupling=coupling))
    np.testing.assert_allclose(found.skew, skew, atol=0.08)
    np.testing.assert_allclose(found.locality, locality, atol=0.05)
    np.testing.assert_allclose(found.coupling[1:], coupling, atol=0.15)
    assert (found.domains, found.contrast) == (1, 0.0)
    assert found.source == "fitted to 2000 tokens of olmoe-1b-7b"


@pytest.mark.parametrize(
    ("domains", "contrast"), [(1, 0.0), (2, 0.3), (3, 0.5), (4, 0.8), (3, 1.0)]
)
def test_domains_are_found_again(domains: int, contrast: float) -> None:
    """In 12 requests of 200 tokens: their number, and the contrast to 0.1."""
    trace = made(
        requests=12, prompt_tokens=20, decode_tokens=180, skew=1.0, locality=0.3,
        domains=domains, contrast=contrast,
    )  # fmt: skip
    found = SyntheticRouting.fit(trace)
    assert found.domains == domains
    assert found.contrast == pytest.approx(contrast, abs=0.1)
    np.testing.assert_allclose(found.skew, 1.0, atol=0.2)
    assert np.mean(found.locality) == pytest.approx(0.3, abs=0.03)


def test_made_up_routing_looks_like_the_bundled_run_to_a_cache() -> None:
    """Each of its figures to 0.04, LRU hit rates among them, whatever the seed."""
    source = demo.trace()
    for seed in range(3):
        trace = synthetic_trace(
            source.model, routing=fitted(), prompt_tokens=14, decode_tokens=256, seed=seed
        )
        report = likeness(source, trace)
        frame = report.to_pandas()
        print(report)
        assert frame["difference"].abs().max() < 0.04
        assert frame["figure"].is_unique


def test_the_whole_lru_curve_of_the_bundled_run() -> None:
    """Every size from 0 to all experts, brute force: 0.04 at worst, 0.015 on average."""
    source = demo.trace()
    trace = synthetic_trace(source.model, routing=fitted(), prompt_tokens=14, decode_tokens=256)
    sizes = range(0, 257, 16)
    curves = [[brute_force_lru(calls(t), size) for size in sizes] for t in (source, trace)]
    apart = np.abs(np.subtract(*curves))
    print(
        f"LRU, {len(apart)} sizes: apart by {apart.mean():.4f} on average, {apart.max():.4f} most"
    )
    assert apart.max() < 0.04
    assert apart.mean() < 0.015
    unlike = synthetic_trace(source.model, skew=0.0, locality=0.0, decode_tokens=256)
    flat = [brute_force_lru(calls(unlike), size) for size in sizes]
    assert np.abs(np.subtract(curves[0], flat)).max() > 0.1  # it takes the fit


def calls(trace: Trace) -> list[int]:
    """Experts one token after the other, layer by layer, as a reader would list them."""
    routing = trace.routing
    order = np.lexsort((routing.layer, routing.token))
    flat = routing.layer[:, None].astype(np.int64) * trace.model.experts + routing.experts
    return [int(expert) for row in flat[order] for expert in sorted(row)]


def brute_force_lru(accesses: list[int], size: int) -> float:
    """A list in order of last use."""
    held: list[int] = []
    hits = 0
    for access in accesses:
        if access in held:
            held.remove(access)
            hits += 1
        held.append(access)
        held = held[max(0, len(held) - size) :]
    return hits / len(accesses)


def test_lru_hit_rates_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 3, 9, 30):
        accesses = rng.integers(12, size=300) * rng.integers(2, size=300)
        assert lru_hit_rate(accesses, size) == brute_force_lru(accesses.tolist(), size)
    trace = recorded(0, toy_plan(4))
    figures = CacheFigures.of(trace)
    for size, rate in zip(SIZES, figures.lru, strict=True):
        assert rate == brute_force_lru(calls(trace), round(size * 12))


def test_a_fit_goes_to_another_grid() -> None:
    trace = synthetic_trace("qwen3-30b-a3b", routing=fitted(), decode_tokens=200, requests=2)
    figures = CacheFigures.of(trace)
    assert figures.reuse.shape == (48,)
    assert figures.reuse[24:].mean() > figures.reuse[:24].mean()  # as in the source
    assert fitted().at(48)["skew"][[0, -1]].tolist() == [fitted().skew[0], fitted().skew[-1]]


def test_a_fit_is_the_same_twice() -> None:
    assert SyntheticRouting.fit(demo.trace()) == fitted()


def test_choices_against_loops() -> None:
    """Reuse, chance and requests of a recording with aborted steps, read the slow way."""
    trace = synthetic_trace(
        replace(MODEL, layers=2, experts=5, top_k=2), requests=2, prompt_tokens=3,
        decode_tokens=40, gpu_memory="50%",
    )  # fmt: skip
    choices = Choices.of(trace)
    assert choices.bounds == (0, 43, 86)
    tokens: dict[tuple[int, int], set[int]] = {}
    routing = trace.routing
    for token, layer, experts in zip(
        routing.token.tolist(), routing.layer.tolist(), routing.experts.tolist(), strict=True
    ):
        tokens[token, layer] = set(experts)
    for layer in range(2):
        near, far = [], []
        for a, b in product(range(86), repeat=2):
            if a // 43 == b // 43 and a < b:
                common = len(tokens[a, layer] & tokens[b, layer]) / 2
                near += [common] * (b - a == 1)
                far += [common] * (b - a > min(NEAR_TOKENS, 43 // 4))
        assert choices.reuse[layer] == pytest.approx(np.mean(near))
        assert choices.chance[layer] == pytest.approx(np.mean(far))


def test_foresight_of_layers_that_copy_and_of_layers_that_do_not() -> None:
    sure = Choices.of(made(skew=0.0, locality=0.0, coupling=1.0))
    none = Choices.of(made(skew=0.0, locality=0.0, coupling=0.0))
    assert np.isnan(sure.foresight[0])
    assert (sure.foresight[1:] > 0.9).all()
    assert (none.foresight[1:] < 0.2).all()  # chance: 8 of 64


def test_aborted_steps_and_several_sequences_are_requests_of_their_own() -> None:
    trace = recorded(3, toy_plan(4), steps=30, aborts=0.3)
    choices = Choices.of(trace)
    assert len(choices.hot) < len(trace.token_rows)
    assert (choices.hot.sum(axis=2) <= 2).all()
    SyntheticRouting.fit(trace)


def test_too_short_to_learn_from() -> None:
    for trace in (made(decode_tokens=1), recorded(0, toy_plan(4), steps=0, aborts=1.0)):
        with pytest.raises(InputError, match="expected a request of at least two tokens"):
            SyntheticRouting.fit(trace)
    SyntheticRouting.fit(made(decode_tokens=2))


def test_only_a_trace_is_learned_from() -> None:
    wrong: Any = "run.safetensors"
    with pytest.raises(InputError, match="expected a Trace, got"):
        SyntheticRouting.fit(wrong)
