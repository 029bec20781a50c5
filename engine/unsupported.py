"""Architectures that transformers knows and this engine cannot run: model type -> why, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
