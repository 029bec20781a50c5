"""Checkpoints: transformers' own loading, and what the model is in bytes and flops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from engine.errors import CheckpointError, InputError, UnsupportedModelError
from engine.hook import IMPLEMENTATION, register
from engine.spec import ModelShapes, ModelSpec
from engine.store import ExpertStore, experts_modules

_LONG_BYTES = 500_000_000
"""A checkpoint from this size on takes long enough to show a progress bar."""

_DAMAGE = (
    SafetensorError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError,
)  # fmt: skip
"""What reading files that are not what they should be raises, in one library or another."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(path: str | Path, dtype: str = "auto") -> PreTrainedModel:
    """Open a checkpoint folder or hub id with its experts dispatched to the engine.

    Raises:
        CheckpointError: no such folder, no model in it, a damaged or incomplete file.
        UnsupportedModelError: not a Mixture-of-Experts model that transformers' experts interface
            serves.
        InputError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    register()
    _check_folder(path)
    config = _config(path)
    with torch.device("meta"):  # look at the modules before reading gigabytes
        blank = _from_config(config)
    if not experts_modules(blank):
        ExpertStore(blank)  # raises, and says why
    try:
        with _bar_if_long(path):
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                experts_implementation=IMPLEMENTATION,
                use_safetensors=True,
                output_loading_info=True,
            )
    except _DAMAGE as error:
        if _out_of_memory(error):
            raise
        raise CheckpointError(
            f"the weights in {path} cannot be read ({_short(error)}): the files are damaged, "
            f"incomplete or renamed. {_found(path)} Copy the checkpoint again"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if missing:
        raise CheckpointError(
            f"the weights in {path} lack {len(missing)} of the model's tensors ({missing[0]!r} is "
            f"the first): the checkpoint is incomplete, or its config.json is of another model"
        )
    return model.eval().requires_grad_(False)


def load_tokenizer(path: str | Path) -> Any | None:
    """The checkpoint's tokenizer, or None where it has none (token ids work without).

    Raises CheckpointError where a folder has tokenizer files that cannot be read.
    """
    files = sorted(file.name for file in Path(path).glob("tokenizer*"))
    if Path(path).is_dir() and not files:
        return None
    try:
        return AutoTokenizer.from_pretrained(path)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises no narrower one
        if not files and isinstance(error, OSError | ValueError):
            return None  # a hub id without a tokenizer
        raise CheckpointError(
            f"the tokenizer in {path} cannot be read ({_short(error)}): {', '.join(files[:8])} "
            "damaged, incomplete or in need of another package. Copy the checkpoint again, or move "
            "these files away and give prompts as token ids"
        ) from error


def model_spec(model: PreTrainedModel, store: ExpertStore, name: str) -> ModelSpec:
    """What a loaded model weighs: shapes from its config, parameters counted on its modules."""
    config = model.config.get_text_config()
    module = store.modules[0]
    weights = store.weights(0, 0)
    matrices = 3 if module.has_gate else 2
    routed = len(store) * store.experts * sum(part.numel() for part in weights.parts)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    latent = getattr(config, "kv_lora_rank", None)  # multi-head latent attention
    element = weights.up.element_size()
    head = model.get_output_embeddings()
    table = model.get_input_embeddings()
    return ModelShapes(
        name=name,
        layers=len(store),
        all_layers=config.num_hidden_layers,
        experts=store.experts,
        top_k=_top_k(config),
        hidden=config.hidden_size,
        expert_width=weights.down.numel() // config.hidden_size,
        expert_matrices=matrices,
        expert_bias=bool(module.has_bias),
        kv_elements=latent + config.qk_rope_head_dim if latent else 2 * heads * size,
        vocabulary=table.weight.shape[0],
        tied=head is None or head.weight is table.weight,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        routed_parameters=routed,
        bytes_per_weight=float(element),
        dense_bytes_per_weight=element,
        source="counted on the loaded model",
    ).spec()


@contextmanager
def _bar_if_long(path: str | Path) -> Iterator[None]:
    """transformers' progress bar, but not for a folder that loads in an instant."""
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    if not 0 < size < _LONG_BYTES or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _top_k(config: Any) -> int:
    for name in ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise UnsupportedModelError(
        f"{type(config).__name__} does not say how many experts each token gets "
        "(num_experts_per_tok)"
    )


def _check_folder(path: str | Path) -> None:
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} holds no config.json: give the folder of a transformers checkpoint"
            )
        if not any(folder.glob("*.safetensors")):
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
            why = (
                "only pickle files, which can run code when they are opened" if pickled else "none"
            )
            raise CheckpointError(
                f"{folder} holds no .safetensors weights ({why}): save the model with "
                "save_pretrained() of a current transformers"
            )
    elif isinstance(path, Path) or folder.exists() or str(path).count("/") != 1:
        raise CheckpointError(
            f"no checkpoint folder at {path}: give 'demo', a folder with config.json and "
            ".safetensors files, or a hub id (owner/name)"
        )


def _config(path: str | Path) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"cannot read the configuration of {path} ({_short(error)}): check the path or hub "
            "id; models that bring their own code are not run"
        ) from error


def _from_config(config: Any) -> nn.Module:
    try:
        return AutoModelForCausalLM.from_config(config, experts_implementation=IMPLEMENTATION)
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            f"transformers has no causal language model for this configuration ({_short(error)})"
        ) from error


def _found(path: str | Path) -> str:
    names = sorted(file.name for file in Path(path).glob("*.safetensors*"))
    return f"Found: {', '.join(names[:8])}." if names else ""


def _out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of host memory: it has no exception of its own for that."""
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
