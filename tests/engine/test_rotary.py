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
    asked += [torch.tensor([[-3]]), torch.tensor([[2.5]])]  # between two positions
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


def test_other_frequencies_are_other_angles() -> None:
    model = model_of()
    module, x, at = model.model.rotary_emb, torch.zeros(1, 1, 64), torch.tensor([[7]])
    assert rotary_from_table(model)
    before, twice = module(x, at)[0], module(x, 2 * at)[0]
    module.inv_freq = module.inv_freq * 2
    torch.testing.assert_close(module(x, at)[0], twice)
    assert not torch.allclose(before, twice)


def test_made_in_inference_mode_they_serve_gradients() -> None:
    model = model_of()
    module, x, at = model.model.rotary_emb, torch.zeros(1, 1, 64), torch.tensor([[7]])
    assert rotary_from_table(model)
    with torch.inference_mode():
        module(x, at)
    weight = torch.ones(1, requires_grad=True)
    (weight * module(x, at)[0]).sum().backward()
    assert weight.grad is not None
