"""A profile judged on another text: counted the slow way, and by replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import BudgetError, InputError
from engine.heldout import HeldOut, heldout
from engine.profile import Profile
from engine.replay import replay, replay_plan
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.builders import Driver, toy_plan

BUDGETS = ["0%", "24GB", "48GB", "60%", "100%"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return demo.trace()


@pytest.fixture(scope="module")
def report(trace: Trace) -> HeldOut:
    return heldout(trace, gpu_memory=BUDGETS)


def test_hit_rates_are_a_replay_s(trace: Trace, report: HeldOut) -> None:
    """Of the policy that only pins, with the placement in question."""
    frame = report.to_pandas()
    assert frame["pinned"].tolist()[0] == 0
    for row, budget in zip(frame.to_dict("records"), report.budgets, strict=True):
        for name, planner in (("profile", "popularity"), ("random", "random")):
            plan = toy(trace, budget.gpu_memory, planner)
            assert len(plan.plan.pinned) == row["pinned"]
            assert plan.summary.hit_rate == pytest.approx(row[name])


def toy(trace: Trace, gpu_memory: int, planner: str) -> Trace:
    from engine.placement import change_plan

    plan = change_plan(
        trace.plan, model=trace.model, gpu_memory=gpu_memory, policy="cpu", planner=planner,
        cache_slots=0,
    )  # fmt: skip
    return replay_plan(trace, plan).trace


def test_nothing_beats_the_oracle(trace: Trace, report: HeldOut) -> None:
    frame = report.to_pandas()
    assert (frame["oracle"] >= frame[["profile", "random", "expected"]].max(axis=1) - 1e-12).all()
    assert frame.loc[0, ["profile", "random", "expected", "oracle"]].tolist() == [0.0] * 4
    assert frame.loc[4, ["profile", "random", "expected", "oracle"]].tolist() == [1.0] * 4
    assert frame["gain"].isna().tolist() == [True, False, False, False, True]
    rng = np.random.default_rng(0)
    batch = trace.batch
    flat = batch.layer[batch.segment] * 8 + batch.expert
    pinned = report.budgets[1].pinned
    rates = [float(np.isin(flat, rng.permutation(256)[:pinned]).mean()) for _ in range(300)]
    assert max(rates) <= frame["oracle"][1]
    assert np.mean(rates) == pytest.approx(frame["expected"][1], abs=0.005)


def test_the_bundled_profile_is_worth_something_on_the_bundled_run(report: HeldOut) -> None:
    """Other text: the profile beats chance and stays below the oracle."""
    frame = report.to_pandas().iloc[1:4]
    print(report)
    assert (frame["profile"] > frame["expected"]).all()
    assert (frame["profile"] < frame["oracle"]).all()


def test_layers_add_up(report: HeldOut) -> None:
    whole, layers = report.to_pandas(), report.to_pandas("layer")
    assert len(layers) == len(BUDGETS) * 32
    for name in ("profile", "random", "oracle"):
        hits = (layers[name] * layers["calls"]).groupby(layers["gpu_memory_gb"]).sum()
        calls = layers["calls"].groupby(layers["gpu_memory_gb"]).sum()
        np.testing.assert_allclose((hits / calls).to_numpy(), whole[name].to_numpy())
    assert layers["layer"].tolist() == list(range(32)) * len(BUDGETS)


def test_a_profile_from_a_trace(trace: Trace) -> None:
    profile = Profile.from_trace(trace)
    assert profile.tokens == 270
    assert profile.array.sum() == 270 * 32 * 2
    assert profile.source == "a run that began 'To be, or not to be, that is the question:'"
    layer, expert = 3, 5
    mine = trace.routing.experts[trace.routing.layer == layer]
    assert profile.array[layer, expert] == (mine == expert).sum()
    made = synthetic_trace(trace.model, decode_tokens=20)
    assert Profile.from_trace(made).source == "a recorded run"
    assert Profile.from_trace(made, "plays").source == "plays"
    assert heldout(trace, made).profile == Profile.from_trace(made)


def test_its_own_profile_is_nearly_the_oracle(trace: Trace) -> None:
    """Tokens and calls differ by the prompt alone, which calls an expert once."""
    own = Profile.from_trace(trace)
    twice = Profile.of(2 * own.array, 2 * own.tokens, "the same text twice")
    frame = heldout(trace, twice).to_pandas()
    assert (frame["gain"] > 0.98).all()


def test_the_profile_of_made_up_routing_carries_over() -> None:
    trace = synthetic_trace("olmoe-1b-7b", skew=1.5, decode_tokens=500, gpu_memory="50%")
    frame = heldout(trace).to_pandas()
    assert frame["gpu_memory_gb"].is_monotonic_increasing
    assert (frame["gain"] > 0.9).all()


def test_default_budgets_and_words(trace: Trace) -> None:
    report = heldout(trace)
    assert len(report.budgets) == 4
    assert repr(report).startswith(
        "Held out: popularity from 2048 tokens of the bundled calibration text, judged on 270 "
        "tokens of a run that began 'To be, or not to be, that is the question:' through "
        "mixtral-8x7b: with 13.6 GB (25 of 256 experts pinned) it hits "
    )
    assert len(heldout(trace, gpu_memory="24GB").budgets) == 1


def test_a_run_is_not_judged_on_itself(trace: Trace) -> None:
    """Whatever it comes as: compared is what was counted."""
    same = (trace, Trace.load(demo.trace_path()), replace(trace, texts=()), replay(trace).trace)
    for other in (*same, Profile.from_trace(trace), Profile.from_trace(trace, "a play")):
        with pytest.raises(InputError, match=r"another text, got .* the judged run itself did"):
            heldout(trace, other)


def test_bad_input(trace: Trace) -> None:
    with pytest.raises(InputError, match=r"profile is for 2 layers x 4 experts, .* has 32 x 8"):
        heldout(trace, Profile.uniform((2, 4)))
    with pytest.raises(InputError, match="gpu_memory: expected one or more to compare, got none"):
        heldout(trace, gpu_memory=[])
    with pytest.raises(InputError, match="gpu_memory: expected an amount of memory"):
        heldout(trace, gpu_memory=1.5)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="smallest budget"):
        heldout(trace, gpu_memory="1KB")
    with pytest.raises(InputError, match="expected a trace of a text to judge on"):
        heldout(Driver(toy_plan(4)).trace())
    with pytest.raises(InputError, match="unknown way to group 'expert'"):
        heldout(trace, gpu_memory="24GB").to_pandas("expert")  # type: ignore[arg-type]
    whatever: Any = np.array([1, 2])
    with pytest.raises(InputError, match="unknown way to group"):
        heldout(trace, gpu_memory="24GB").to_pandas(whatever)
    one: Any = np.array("24GB")
    assert heldout(trace, gpu_memory=one).budgets[0].gpu_memory == 24 * 10**9
    assert heldout(replace(trace, texts=()), gpu_memory="24GB").tokens == 270
