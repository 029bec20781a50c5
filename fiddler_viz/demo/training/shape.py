"""The model's shape: Mixtral-8x7B's routing grid (32 layers x 8 experts, top-2), made small."""

from __future__ import annotations

import math

import torch
from transformers import GenerationConfig, MixtralConfig, MixtralForCausalLM


def demo_config(vocabulary: int = 2048) -> MixtralConfig:
    """Mixtral's grid at hidden size 96: 8.2 M parameters."""
    return MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=96,
        num_hidden_layers=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def new_model(config: MixtralConfig, seed: int) -> MixtralForCausalLM:
    """A fresh float32 model; what writes to the residual stream starts smaller (GPT-2, 2.3)."""
    torch.manual_seed(seed)
    model = MixtralForCausalLM(config)
    scale = 1 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.experts.down_proj.mul_(scale)
    model.generation_config = GenerationConfig(
        eos_token_id=0, pad_token_id=0, do_sample=True, temperature=0.7, max_new_tokens=64
    )
    return model
