"""What transformers' architectures cannot do here: model type -> why, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_OWN_ROUTING = (
    "transformers routes its experts in code of its own, not through the experts interface that "
    "this engine plugs into"
)

UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "dbrx": _OWN_ROUTING,
        "diffusion_gemma": (
            "it generates blocks of text by diffusion, with an encoder and a decoder that both "
            "route experts: there is no decode step of one token to record"
        ),
        "doge": _OWN_ROUTING,
        "jetmoe": _OWN_ROUTING,
        "llama4": _OWN_ROUTING,
        "llama4_text": _OWN_ROUTING,
        "longcat_flash": _OWN_ROUTING,
        "nllb-moe": _OWN_ROUTING + ", and it is an encoder-decoder",
        "openai_privacy_filter": "it labels tokens, it is no language model that generates",
        "qwen3_omni_moe": (
            "it is two language models in one, one that thinks and one that talks: save its "
            "thinker (qwen3_omni_moe_thinker) as a checkpoint of its own and load that"
        ),
        "step3p5": _OWN_ROUTING,
        "step3p7": _OWN_ROUTING,
        "switch_transformers": _OWN_ROUTING + ", and it is an encoder-decoder",
    }
)
"""Checked before any weights are read; a test holds that every other model file is supported."""

UNCHUNKED: Mapping[str, str] = MappingProxyType(
    {
        "jamba": "in transformers its Mamba layers forget, with each chunk, the text before it",
        "minimax": "transformers cannot begin a chunked prompt with the cache that it needs",
    }
)
"""Model types whose prompts cannot be split; a test holds that chunks change no other's output."""

UNCHUNKED_BY_WINDOW = ("qwen3_vl_moe", "qwen3_omni_moe_thinker")
"""Model types whose attention reads the whole text while their cache keeps to a window."""


def why_unchunked(config: Any) -> str | None:
    """Why a model of this transformers configuration cannot take a prompt in chunks, or None."""
    kind = config.model_type
    if kind in UNCHUNKED_BY_WINDOW and getattr(config.get_text_config(), "sliding_window", None):
        return (
            "its configuration sets sliding_window, by which transformers drops tokens from the "
            "cache that the attention of later chunks has to read"
        )
    return UNCHUNKED.get(kind)
