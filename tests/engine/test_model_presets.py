"""The presets' counts against transformers' own modules, built on the meta device."""

from typing import Any

import pytest

from engine.spec import ModelSpec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# What the published config.json of each model says, for all that changes a parameter's shape.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral-8x7b": (
        "mixtral",
        {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
         "num_experts_per_tok": 2, "vocab_size": 32000},
    ),
    "qwen3-30b-a3b": (
        "qwen3_moe",
        {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
         "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
         "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
         "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151936},
    ),
    "olmoe-1b-7b": (
        "olmoe",
        {"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
         "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
         "num_experts_per_tok": 8, "vocab_size": 50304},
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
         "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
         "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
         "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512,
         "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
         "vocab_size": 129280},
    ),
    "gpt-oss-120b": (
        "gpt_oss",
        {"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
         "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
         "num_local_experts": 128, "num_experts_per_tok": 4, "vocab_size": 201088},
    ),
}  # fmt: skip


def test_every_preset_is_checked() -> None:
    assert sorted(CONFIGS) == ModelSpec.presets()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_counts_are_those_of_transformers_modules(name: str) -> None:
    kind, values = CONFIGS[name]
    config = transformers.AutoConfig.for_model(kind, tie_word_embeddings=False, **values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    routed = {key: size for key, size in sizes.items() if ".mlp.experts." in key}
    biases = sum(size for key, size in routed.items() if key.endswith("_bias"))
    layers = {key.split(".")[2] for key in routed}

    spec = ModelSpec.preset(name)
    dense = sum(sizes.values()) - sum(routed.values())
    assert spec.dense_bytes == 2 * dense
    matrices = sum(routed.values()) - biases
    assert spec.routed_bytes == matrices * spec.bytes_per_weight + 2 * biases
    assert spec.grid == (len(layers), next(iter(_parameters(model, routed))).shape[0])
    assert spec.top_k == config.num_experts_per_tok
    assert spec.hidden == config.hidden_size
    assert spec.expert_flops_per_token * spec.experts_total == 2 * matrices
    embeddings, head = sizes["model.embed_tokens.weight"], sizes["lm_head.weight"]
    assert (spec.embedding_bytes, spec.head_bytes) == (2 * embeddings, 2 * head)
    assert spec.dense_flops_per_token == 2 * (dense - embeddings - head)
    assert spec.kv_bytes_per_token == 2 * config.num_hidden_layers * _cached(config)


def _parameters(model: Any, names: dict[str, int]) -> Any:
    return (parameter for key, parameter in model.named_parameters() if key in names)


def _cached(config: Any) -> int:
    """Elements cached per token and layer."""
    if getattr(config, "kv_lora_rank", None):
        return config.kv_lora_rank + config.qk_rope_head_dim
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_key_value_heads * head
