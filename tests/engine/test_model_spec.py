"""ModelSpec: presets' figures by hand, strict reading, refusals."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from engine.errors import InputError, UnknownNameError
from engine.spec import ModelSpec, resolve_model

NAMES = ["deepseek-v3", "gpt-oss-120b", "mixtral-8x7b", "olmoe-1b-7b", "qwen3-30b-a3b"]


def test_presets_are_these() -> None:
    assert ModelSpec.presets() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_round_trips(name: str) -> None:
    spec = ModelSpec.preset(name)
    assert spec.name == name
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert resolve_model(name) == spec
    assert resolve_model(spec) is spec
    assert hash(spec) == hash(replace(spec))
    assert spec.total_bytes == spec.dense_bytes + spec.layers * spec.experts * spec.expert_bytes


def test_mixtral_by_hand() -> None:
    spec = ModelSpec.preset("mixtral-8x7b")
    assert spec.grid == (32, 8)
    assert (spec.experts_total, spec.top_k) == (256, 2)
    assert spec.expert_bytes == 3 * 4096 * 14336 * 2 == 352_321_536
    assert spec.dense_bytes == (46_702_792_704 - 45_097_156_608) * 2
    assert spec.routed_bytes == 45_097_156_608 * 2
    assert spec.kv_bytes_per_token == 32 * 2 * 8 * 128 * 2 == 131_072
    assert spec.head_bytes == spec.embedding_bytes == 32000 * 4096 * 2
    assert spec.expert_flops_per_token == 2 * 3 * 4096 * 14336
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    norms_and_router = 2 * 4096 + 8 * 4096
    assert spec.dense_flops_per_token == 2 * (32 * (attention + norms_and_router) + 4096)
    assert spec.head_flops_per_token == 2 * 32000 * 4096
    assert spec.activation_bytes_per_token == 4096 * 2
    assert repr(spec) == (
        "ModelSpec('mixtral-8x7b': 32 x 8 experts, top-2, 352 MB each, 93.4 GB in all)"
    )


def test_gpt_oss_counts_blocks_of_4_bits_with_their_scales_and_wide_biases() -> None:
    spec = ModelSpec.preset("gpt-oss-120b")
    blocks = 3 * 2880 * 2880 // 32
    assert spec.expert_bytes == blocks * (32 // 2 + 1) + (2 * 2880 + 2880) * 2
    assert spec.total_bytes == pytest.approx(65.2e9, rel=0.01)  # the released files: about 65 GB


def test_deepseek_caches_its_latent_vector_in_all_61_layers() -> None:
    spec = ModelSpec.preset("deepseek-v3")
    assert spec.grid == (58, 256)
    assert spec.kv_bytes_per_token == 61 * (512 + 64) * 2


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"experts": 8.0},
        {"top_k": 9},
        {"hidden": True},
        {"kv_bytes_per_token": -1},
        {"bytes_per_weight": float("nan")},
        {"bytes_per_weight": 10**400},
        {"dense_bytes": 5},
        {"name": ""},
        {"source": None},
    ],
)
def test_bad_figures_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(ModelSpec.preset("mixtral-8x7b"), **change)


def test_reading_is_strict() -> None:
    data = ModelSpec.preset("mixtral-8x7b").to_dict()
    with pytest.raises(InputError, match="unknown colour"):
        ModelSpec.from_dict({**data, "colour": 1})
    del data["hidden"]
    with pytest.raises(InputError, match="missing hidden"):
        ModelSpec.from_dict(data)
    with pytest.raises(InputError, match="expected a mapping"):
        ModelSpec.from_dict([1])  # type: ignore[arg-type]


def test_unknown_names_list_the_presets() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mixtral-8x7b'\?.*qwen3-30b-a3b"):
        resolve_model("mixtral-8x7")
    for name in ("../models/mixtral-8x7b", "", "mixtral-8x7b.json"):
        with pytest.raises(UnknownNameError):
            resolve_model(name)
    with pytest.raises(InputError, match="a name or a ModelSpec"):
        resolve_model(7)  # type: ignore[arg-type]


def test_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelSpec.preset("mixtral-8x7b").layers = 1  # type: ignore[misc]
