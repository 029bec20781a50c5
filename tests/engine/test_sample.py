"""Samples of routing: packed small, read back strictly, counted on traces."""

from __future__ import annotations

import base64
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.profile import Profile
from engine.sample import SAMPLE_TOKENS, Sample
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from tests.engine.builders import MODEL, Driver, random_choices, recorded, toy_plan


def choices(tokens: int, layers: int = 3, experts: int = 4, top_k: int = 2) -> np.ndarray:
    rng = np.random.default_rng(tokens)
    return rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k].astype(np.int16)


CHOSEN = choices(20)
PROFILE = Profile.from_choices(CHOSEN, 4, "a test", (0, 8))


def sampled(profile: Profile) -> Sample:
    assert profile.sample is not None
    return profile.sample


def test_what_it_holds() -> None:
    sample = sampled(PROFILE)
    np.testing.assert_array_equal(sample.choices, np.sort(CHOSEN, axis=2))
    assert sample.choices.dtype == np.int16 and not sample.choices.flags.writeable
    assert (sample.tokens, sample.layers, sample.top_k, sample.experts) == (20, 3, 2, 4)
    assert repr(sample) == "Sample(20 tokens in 2 pieces of text, top 2 of 3 x 4)"
    assert PROFILE.tokens == 20
    assert PROFILE.array.sum() == 20 * 3 * 2
    assert PROFILE.counts[1][2] == (CHOSEN[:, 1] == 2).sum()


def test_profiles_with_samples_are_compared_and_hashed() -> None:
    again = Profile.from_choices(CHOSEN.copy(), 4, "a test", (0, 8))
    assert again == PROFILE and hash(again) == hash(PROFILE)
    assert Profile.from_choices(CHOSEN, 4, "a test") != PROFILE
    assert Profile.of(PROFILE.array, 20, "a test") != PROFILE


def test_pieces_do_not_cross_the_starts() -> None:
    sample = sampled(PROFILE)
    assert sample.pieces(5).tolist() == [0] * 5 + [1] * 3 + [2] * 5 + [3] * 5 + [4] * 2
    assert sample.pieces(100).tolist() == [0] * 8 + [1] * 12


def test_the_last_tokens_are_kept() -> None:
    many = choices(SAMPLE_TOKENS + 10, 1)
    sample = Sample.of(many, 4, (0, 5, 10, 700))
    assert sample.tokens == SAMPLE_TOKENS
    assert sample.starts == (0, 690)
    np.testing.assert_array_equal(sample.choices, np.sort(many[10:], axis=2))
    assert len(sample.packed) < sample.choices.nbytes / 4


def test_round_trips(tmp_path: Path) -> None:
    assert Profile.from_dict(PROFILE.to_dict()) == PROFILE
    assert Profile.load(PROFILE.save(tmp_path / "profile.json")) == PROFILE
    wide = Profile.from_choices(choices(9, 2, 600, 3), 600, "more than a byte")
    np.testing.assert_array_equal(
        sampled(Profile.from_dict(wide.to_dict())).choices, sampled(wide).choices
    )


def test_profiles_of_earlier_versions_have_none() -> None:
    values = PROFILE.to_dict()
    del values["sample"]
    assert Profile.from_dict(values) == Profile.of(PROFILE.array, 20, "a test")
    assert "sample" not in Profile.of(PROFILE.array, 20, "a test").to_dict()
    assert Profile.from_choices(CHOSEN[:0], 4, "nothing").sample is None


def packed(content: bytes) -> dict[str, Any]:
    return {"packed": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 0}, {"tokens": 19}, {"tokens": 21}, {"tokens": 2**60}, {"tokens": "20"},
        {"tokens": True}, {"top_k": 0}, {"top_k": 3}, {"top_k": 2**40}, {"top_k": None},
        {"starts": []}, {"starts": [1]}, {"starts": [0, 0]}, {"starts": [0, 20]},
        {"starts": [0, 5, 4]}, {"starts": 0}, {"starts": [0, "5"]}, {"starts": [0, -1]},
        {"packed": ""}, {"packed": "!!!"}, {"packed": 3}, {"packed": "AAAA"}, {"more": 1},
        packed(zlib.compress(bytes(240))),  # both choices the same expert
        packed(zlib.compress(b"\7" * 240)),  # no such expert
        packed(zlib.compress(bytes(10**7))),  # larger than it says
        packed(zlib.compress(bytes(239))), packed(zlib.compress(bytes(240))[:-3]),
    ],
)  # fmt: skip
def test_unsound_samples_are_refused(change: dict[str, Any]) -> None:
    values = PROFILE.to_dict()
    with pytest.raises(InputError, match="sample of routing"):
        Profile.from_dict(values | {"sample": values["sample"] | change})


@pytest.mark.parametrize("value", [[], 3, "sample", {}, {"tokens": 3}])
def test_what_is_no_sample(value: object) -> None:
    with pytest.raises(InputError, match="sample of routing"):
        Profile.from_dict(PROFILE.to_dict() | {"sample": value})


# ---------------------------------------------------------------------- from traces


def test_a_trace_s_profile() -> None:
    trace = synthetic_trace("mixtral-8x7b", prompt_tokens=7, decode_tokens=9, gpu_memory="50%")
    profile = Profile.from_trace(trace, "made up")
    assert (profile.tokens, profile.source, sampled(profile).starts) == (16, "made up", (0,))
    mine = sampled(profile).choices
    for row in range(0, len(trace.routing), 5):
        token, layer = trace.routing.token[row], trace.routing.layer[row]
        assert mine[token, layer].tolist() == sorted(trace.routing.experts[row].tolist())
    counts = np.bincount(trace.routing.flat(8), minlength=256).reshape(32, 8)
    np.testing.assert_array_equal(profile.array, counts)


def test_sequences_are_pieces_and_tokens_cut_short_are_left_out() -> None:
    rng = random.Random(0)
    driver = Driver(toy_plan(4))
    driver.step(rng, 6, sequences=3)
    driver.step(rng, 3, sequences=3)
    driver.step(rng, 3, sequences=3, layers=1)
    profile = Profile.from_trace(driver.trace())
    assert profile.tokens == 12
    assert sampled(profile).starts == (0, 3, 6)
    assert sampled(profile).tokens == 9
    assert Profile.from_trace(Driver(toy_plan(4)).trace()).sample is None


def test_a_trace_file_stores_a_profile_once(tmp_path: Path) -> None:
    rng = random.Random(1)
    made = Profile.from_choices(
        np.stack([random_choices(rng, 300)[0] for _ in range(3)], axis=1), MODEL.experts, "a test"
    )
    trace = recorded(2, toy_plan(5, profile=made), 10)
    again = Trace.load(trace.save(tmp_path / "run.safetensors"))
    assert again.plan.profile == made
    assert again.plan.profile.sample == made.sample
