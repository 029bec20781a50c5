"""Rotary angles from a table against the module's own code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig

from engine.rotary import BLOCK, rotary_from_table


def model_of() -> nn.Module:
    config = MixtralConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        vocab_size=20,
        num_local_experts=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_as_the_modules_own(dtype: torch.dtype) -> None:
    model = model_of()
    module, x = model.model.rotary_emb, torch.zeros(1, 1, 64, dtype=dtype)
    asked = [torch.tensor([[at]]) for at in (0, 1, BLOCK - 1, BLOCK, 1000)]
    asked += [torch.arange(5)[None], torch.tensor([[3], [4]])]
    expected = [module(x, position_ids=at) for at in asked]
    assert rotary_from_table(model) and not rotary_from_table(model)
    for at, wanted in zip(asked, expected, strict=True):
        for a, b in zip(module(x, position_ids=at), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=torch.finfo(dtype).eps)
            assert a.shape == b.shape and a.dtype == dtype


def test_angles_that_change_with_length_stay() -> None:
    model = model_of()
    model.model.rotary_emb.rope_type = "dynamic"
    assert not rotary_from_table(model)
    assert not rotary_from_table(nn.Linear(2, 2))
