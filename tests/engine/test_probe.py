"""What a text makes of a model, against counting by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import UnsupportedModelError
from engine.loader import load_model, model_spec
from engine.probe import probe
from engine.store import ExpertStore, experts_modules
from tests.engine.tiny_models import save_tiny

FLOAT = 4
KV = 2 * 2 * 8 * FLOAT
"""Keys and values, two heads of eight, float32: what a layer with plain attention keeps."""

BY_HAND = {
    # layers with experts, top-k, bytes of KV cache per token
    "mixtral": (4, 2, 4 * KV),
    "hunyuan_v1_moe": (4, 2, 4 * KV),  # moe_topk
    "gpt_oss": (4, 2, 4 * KV),  # half of them keep a window only: counted in full
    "deepseek_v3": (3, 2, 4 * (16 + 8) * FLOAT),  # the latent vector and the shared rotary key
    "deepseek_v32": (3, 2, 4 * (16 + 8 + 16) * FLOAT),  # and the indexer's keys
    "jamba": (2, 2, 2 * KV),  # Mamba layers keep none, and every other layer is dense
    "granitemoehybrid": (4, 2, 2 * KV),
    "kimi_linear": (3, 2, 2 * (16 + 8) * FLOAT),
    "lfm2_moe": (3, 2, 2 * KV),  # convolutions
    "zaya": (4, 1, 4 * KV),
    "nemotron_h": (2, 2, KV),  # one layer of four has attention
    "ernie4_5_vl_moe": (3, 2, 4 * 2 * 2 * 16 * FLOAT),  # its experts for images are not counted
}


@pytest.mark.parametrize("kind", list(BY_HAND))
def test_by_hand(tmp_path: Path, kind: str) -> None:
    save_tiny(tmp_path, kind)
    model = load_model(tmp_path)
    store = ExpertStore(model)
    spec = model_spec(model, store, kind)
    assert (spec.layers, spec.top_k, spec.kv_bytes_per_token) == BY_HAND[kind]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.fiddler_session is None for module in store.modules)


def test_bytes_and_operations_by_hand(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    model = load_model(tmp_path)
    spec = model_spec(model, ExpertStore(model), "mixtral")
    table = 128 * 32
    attention = 2 * 32 * 32 + 2 * 32 * 16
    in_layers = 4 * (attention + 8 * 32 + 2 * 32) + 32  # routers, norms
    assert spec.expert_bytes == 3 * 32 * 48 * FLOAT
    assert spec.expert_flops_per_token == 2 * 3 * 32 * 48
    assert (spec.head_bytes, spec.embedding_bytes) == (table * FLOAT, table * FLOAT)
    assert spec.dense_bytes == (in_layers + 2 * table) * FLOAT
    assert spec.dense_flops_per_token == 2 * in_layers
    assert spec.activation_bytes_per_token == 32 * FLOAT


def test_experts_on_a_narrower_vector(tmp_path: Path) -> None:
    save_tiny(tmp_path, "nemotron_h")
    model = load_model(tmp_path)
    spec = model_spec(model, ExpertStore(model), "nemotron_h")
    assert (spec.hidden, spec.expert_width) == (24, 16)  # of 32
    assert spec.expert_bytes == 2 * 24 * 16 * FLOAT  # no gate
    assert spec.activation_bytes_per_token == 24 * FLOAT


def test_images_are_held_but_not_read(tmp_path: Path) -> None:
    plain = save_tiny(tmp_path, "qwen3_vl_moe")
    model = load_model(tmp_path)
    spec = model_spec(model, ExpertStore(model), "qwen3_vl_moe")
    tower = sum(part.numel() for part in plain.model.visual.parameters())
    table = plain.get_input_embeddings().weight.numel()
    assert spec.embedding_bytes == (tower + table) * FLOAT


def test_layers_that_differ_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    model = load_model(tmp_path)
    modules = experts_modules(model)
    down = modules[2].down_proj.data
    modules[2].down_proj = nn.Parameter(torch.cat([down, down], dim=-1), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match="differ in their experts' shapes"):
        ExpertStore(model)


def test_another_top_k_in_some_layer_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    model = load_model(tmp_path)
    model.model.layers[1].mlp.gate.top_k = 3
    with pytest.raises(UnsupportedModelError, match=r"a token \[2, 3\] experts"):
        probe(model, experts_modules(model))


def test_experts_that_run_twice_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    model = load_model(tmp_path)
    model.model.layers[1].mlp.experts = model.model.layers[0].mlp.experts
    with pytest.raises(UnsupportedModelError, match="more than once"):
        probe(model, experts_modules(model))
