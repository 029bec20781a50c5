"""Checkpoints: transformers' own loading, and what the model is in bytes and flops."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
)

from engine.checkpoint import Weights, fused_names
from engine.configuration import DAMAGE, auto_class, configuration, short
from engine.errors import BudgetError, CheckpointError, UnsupportedModelError
from engine.hook import IMPLEMENTATION, register
from engine.machine import free_memory_bytes
from engine.pages import onto_large_pages
from engine.spec import ModelSpec
from engine.store import ExpertStore, experts_modules, require_experts
from engine.strict import check_name
from engine.units import format_bytes

SPARE_SHARE = 0.05
"""Of the weights: what loading takes besides, one layer's at a time."""
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(path: str | Path, dtype: str = "auto") -> PreTrainedModel:
    """Open a checkpoint folder or hub id with its experts dispatched to the engine.

    Peak host memory is that of the weights as loaded, and one layer's while it is converted and
    moved onto large pages.

    Raises:
        CheckpointError: no such folder, no model in it, a damaged or incomplete file, only pickle
            files, a configuration that cannot be, or a model that needs code of its own.
        UnsupportedModelError: not a Mixture-of-Experts model that transformers' experts interface
            serves.
        InputError: an unknown dtype.
        BudgetError: more weights than this machine's free memory holds; before they are read.

    Warns of tensors in the files that the model has no place for.
    """
    check_name("dtype", dtype, DTYPES)
    register()
    config = configuration(path)
    auto = auto_class(config)
    with torch.device("meta"):  # look at the modules before reading gigabytes
        blank = _from_config(auto, config)
    experts = require_experts(blank)
    weights = Weights.find(path)
    _check_memory(path, blank, config, dtype, weights)
    try:
        with weights.bar_if_long(), weights.read_once(fused_names(blank, experts), dtype):
            model, info = auto.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                experts_implementation=IMPLEMENTATION,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except ImportError as error:
        raise _needs_package(path, config, error) from error
    except DAMAGE as error:
        if _out_of_memory(error):
            raise
        raise CheckpointError(
            f"the weights in {path} cannot be read ({short(error)}): the files are damaged, "
            f"incomplete or renamed. {weights.found()} Copy the checkpoint again"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if missing:
        raise CheckpointError(
            f"the weights in {path} lack {len(missing)} of the model's tensors ({missing[0]!r} is "
            f"the first): the checkpoint is incomplete, or its config.json is of another model"
        )
    unused = sorted(info["unexpected_keys"])
    if unused:
        warnings.warn(
            f"the weights in {path} hold {len(unused)} tensors that the model has no place for "
            f"({unused[0]!r} is the first); they are left out. Where that is a surprise, its "
            "config.json is of another model",
            stacklevel=2,
        )
    onto_large_pages(model)
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
            f"the tokenizer in {path} cannot be read ({short(error)}): {', '.join(files[:8])} "
            "damaged, incomplete or in need of another package. Copy the checkpoint again, or move "
            "these files away and give prompts as token ids"
        ) from error


def model_spec(model: PreTrainedModel, store: ExpertStore, name: str) -> ModelSpec:
    """What a loaded model weighs and computes, counted on its parameters.

    Read in every step are the text decoder without its lookup tables, and the head; what a text
    does not read (lookup tables, towers for images and sound) counts as ``embedding_bytes``.
    """
    module, weights = store.modules[0], store.weights(0, 0)
    width, inner = weights.sizes(module.is_transposed)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    ours = {id(part) for each in experts_modules(model) for part in each.parameters(recurse=False)}
    looked_up = {
        id(part)
        for each in model.modules()
        if isinstance(each, nn.Embedding)
        for part in each.parameters(recurse=False)
    }
    read = [
        part
        for part in model.get_decoder().parameters()
        if id(part) not in ours and id(part) not in looked_up
    ]
    dense_bytes = sum(map(_n_bytes, model.parameters())) - store.n_bytes
    head_bytes = _n_bytes(head.weight)
    return ModelSpec(
        name=name,
        layers=len(store),
        experts=store.experts,
        top_k=store.probe.top_k,
        hidden=width,
        expert_width=inner,
        expert_bytes=store.expert_bytes,
        dense_bytes=dense_bytes,
        head_bytes=head_bytes,
        embedding_bytes=dense_bytes - head_bytes - sum(map(_n_bytes, read)),
        expert_flops_per_token=2 * weights.n_weights,
        dense_flops_per_token=2 * sum(part.numel() for part in read),
        head_flops_per_token=2 * head.weight.numel(),
        kv_bytes_per_token=store.probe.kv_bytes_per_token,
        activation_bytes_per_token=width * store.dtype.itemsize,
        vocabulary=table.weight.shape[0],
        bytes_per_weight=weights.bytes_per_weight,
        source="counted on the loaded model",
    )


def _n_bytes(part: Tensor) -> int:
    return part.numel() * part.element_size()


def _check_memory(
    path: str | Path, blank: nn.Module, config: Any, dtype: str, weights: Weights
) -> None:
    """Raise BudgetError where the weights, as they will be loaded, exceed free host memory.

    Else the system would swap for minutes, or end the process without a word.
    """
    free = free_memory_bytes()
    kind = getattr(config.get_text_config(), "dtype", None) if dtype == "auto" else None
    kind = getattr(torch, dtype) if dtype != "auto" else kind
    if isinstance(kind, torch.dtype):
        size = sum(part.numel() for part in blank.parameters()) * kind.itemsize
    else:  # as they are in the files
        size = weights.n_bytes
    need = round(size * (1 + SPARE_SHARE))
    if free is None or need <= free:
        return
    smaller = " with dtype='bfloat16'," if kind == torch.float32 else ""
    raise BudgetError(
        f"loading {path} takes {format_bytes(need)} of host memory, where all experts are kept "
        f"({format_bytes(size)} of weights{f' in {kind}' if kind else ''}, and room to read them); "
        f"{format_bytes(free)} are free. Close what else uses memory (an engine before it: "
        f"engine.close()), load it{smaller} or on a larger machine, or see what it would do with "
        "fv.synthetic(), which needs no weights. (quantize= makes experts smaller only once they "
        "are loaded)",
        minimum_bytes=need,
    )


def _from_config(auto: Any, config: Any) -> nn.Module:
    try:
        return auto.from_config(
            config, experts_implementation=IMPLEMENTATION, trust_remote_code=False
        )
    except (StrictDataclassError, ImportError, ArithmeticError, *DAMAGE) as error:
        raise UnsupportedModelError(
            f"transformers cannot build a {config.model_type!r} from this configuration "
            f"({short(error)})"
        ) from error


def _needs_package(path: str | Path, config: Any, error: ImportError) -> CheckpointError:
    """The error for weights that transformers opens with a package that is not here."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return CheckpointError(
            f"the weights in {path} cannot be opened without another package ({short(error)})"
        )
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    return UnsupportedModelError(
        f"the weights in {path} are quantised ({method}), and experts have to be in float32, "
        "float16 or bfloat16 here: take a checkpoint of the same model that is not quantised"
    )


def _out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of host memory: it has no exception of its own for that."""
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
