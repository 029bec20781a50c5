"""A Mixture-of-Experts model of any size with random weights: something real to time."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from engine.hook import IMPLEMENTATION, register
from engine.pages import onto_large_pages

_BLOCK = 1 << 22
"""Random numbers drawn; weights are cut from them at changing places, for drawing takes long."""


def generated_model(
    *,
    layers: int = 4,
    experts: int = 8,
    top_k: int = 2,
    hidden: int = 2048,
    expert_width: int = 3584,
    heads: int = 16,
    kv_heads: int = 4,
    vocabulary: int = 32000,
    positions: int = 8192,
    dtype: torch.dtype = torch.bfloat16,
) -> PreTrainedModel:
    """A Mixtral of this shape with random weights; 1.6 GB as it stands."""
    register()
    config = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=expert_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, experts_implementation=IMPLEMENTATION
        )
    block = (torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "norm" in name:
                parameter.fill_(1.0)
                continue
            flat = parameter.view(-1)
            for turn, start in enumerate(range(0, flat.numel(), _BLOCK // 2)):
                part = flat[start : start + _BLOCK // 2]
                shift = (977 * number + 131 * turn) % (_BLOCK // 2)  # no two parts alike
                part.copy_(block[shift : shift + part.numel()])
    onto_large_pages(model)
    return model.eval().requires_grad_(False)
