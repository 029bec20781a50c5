"""Random checkpoints of every architecture, small enough to run at once: sizes as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from engine.unsupported import UNSUPPORTED

VOCABULARY = 128

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "shared_experts_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "model_max_length": 256,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 8,
    "sliding_window": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "chunk_size": 8,
    "depth": 2,
    "num_heads": 4,
    "n_layers": 1,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "max_source_positions": 16,
    "output_dim": 32,
    "out_hidden_size": 32,
    "text_hidden_size": 32,
    "adapter_in_dim": 32,
    "adapter_out_dim": 32,
    "adapter_input_size": 32,
    "downsample_hidden_size": 8,
    "conv_output_size": 160,
    "projector_hidden_size": 32,
    "projection_hidden_dim": 32,
    "projection_intermediate_size": 32,
    "output_channels": 8,
    "mlp_dim": 16,
    "moe_hidden_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
"""Fields that most configurations share -> a small size."""

LATENT = {"num_key_value_heads": 4}
"""Multi-head latent attention has as many KV heads as heads."""

HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2}

NEMOTRON = ["linear_attention", "moe", "full_attention", "moe"]

OWN: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "bailing_hybrid": LATENT | {"layer_group_size": 2},
    "deepseek_ocr2_text": {
        "num_key_value_heads": 4,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "diffusion_gemma_text": {"global_head_dim": 8},
    "dots1": {"num_key_value_heads": 4},
    "dots3_note_vision_encoder": {"per_layer_config": {}},
    "dots3_note_text": LATENT
    | {
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "per_layer_config": {},
        "head_dim": 16,
    },
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [16, 8],
        "num_attention_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [3, 3, 2],
        },
    },
    "gemma4_text": {
        "enable_moe_block": True,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
    },
    "glm4_moe_lite": LATENT,
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 1.0,
        }
    },
    "glm5_next_text": LATENT | {"qk_rope_head_dim": 0, "index_kpool": 4},
    "glm_moe_dsa": LATENT,
    "granitemoehybrid": HYBRID,
    "inkling_vision": {"n_layers": 8},
    "inkling_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8},
    "inkling2_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "unpadded_vocab_size": 120,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LATENT | HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mistral4": LATENT | {"head_dim": 16},
    "mistral_large4_text": LATENT,
    "muse_spark_audio": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    "nemotron_h": {"moe_latent_size": 24, "layers_block_type": NEMOTRON},
    "qwen3_omni_moe_text": {"sliding_window": None},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 120},
    "qwen3_omni_moe_audio_encoder": {"n_window": 4},
    "qwen3_vl_moe_text": {"sliding_window": None},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 8,
    },
    "unlimited_ocr_text": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}
"""Model type -> what it needs beyond, or in place of, the shared sizes."""


NOT_AHEAD = {
    "deepseek_v4": "hashed layers route by token id",
    "zaya": "routers carry a state from layer to layer",
}
"""Model types with routers that cannot be asked about a hidden state alone -> why."""


def model_files() -> dict[str, str]:
    """Folder of each model file that uses the experts interface -> its source."""
    root = Path(transformers.__file__).parent / "models"
    texts = {path.parent.name: path.read_text("utf-8") for path in root.glob("*/modeling_*.py")}
    return {name: texts[name] for name in sorted(texts) if "@use_experts_impl" in texts[name]}


def model_types(source: str) -> list[str]:
    """Model types whose causal, or image and text, language model a source file defines."""
    classes = set(re.findall(r"^class (\w+)", source, re.MULTILINE))
    both = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    found = (kind for names in both for kind, name in names.items() if name in classes)
    return list(dict.fromkeys(found))


def supported() -> list[str]:
    """The model types of all these files that the engine runs, in alphabetical order."""
    kinds = {kind for source in model_files().values() for kind in model_types(source)}
    return sorted(kinds - set(UNSUPPORTED))


def auto_class(config: Any) -> Any:
    """transformers' class for a configuration: causal, or image and text."""
    known = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if known else AutoModelForImageTextToText


def tiny_config(model_type: str) -> Any:
    """A small configuration: the shared sizes it knows, then its own, parts likewise."""
    return AutoConfig.for_model(model_type, **tiny_sizes(CONFIG_MAPPING[model_type]()))


def tiny_sizes(config: Any) -> dict[str, Any]:
    """What to give a configuration's class in order to get a small one."""
    known = set(config.to_dict())
    sizes = {name: size for name, size in SIZES.items() if name in known}
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            sizes[name] = tiny_sizes(part) | {"model_type": part.model_type}
    own = OWN.get(config.model_type, {})
    return sizes | {
        name: sizes[name] | value if isinstance(sizes.get(name), dict) else value
        for name, value in own.items()
    }


def save_tiny(folder: Path, model_type: str) -> PreTrainedModel:
    """Write a random checkpoint; returns the model, which runs transformers' ``eager`` experts."""
    config = tiny_config(model_type)
    torch.manual_seed(0)
    model = auto_class(config).from_config(
        config, dtype=torch.float32, experts_implementation="eager"
    )
    randomise(model)
    model.generation_config.eos_token_id = None  # all tokens, whatever they are
    model.save_pretrained(folder)
    return model.eval()


def randomise(model: nn.Module) -> None:
    """Weights large enough for experts, gates and routers to matter (mutates ``model``)."""
    with torch.no_grad():
        learnt = dict(model.named_parameters())
        for part in learnt.values():
            noise = torch.randn_like(part)
            part.copy_(noise / part.shape[-1] ** 0.5 if part.ndim > 1 else part + 0.1 * noise)
        for name, part in model.state_dict().items():
            if "bias" in name and name not in learnt:
                part += 0.1 * torch.randn_like(part)  # corrections of routers' scores
            if name.endswith("tid2eid"):  # token id -> experts, of routers that look them up
                part += torch.stack([torch.randperm(8)[: part.shape[1]] for _ in part])
