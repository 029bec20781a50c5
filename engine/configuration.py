"""A checkpoint's configuration: found, read, and of a model type that runs here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)
from transformers.utils import CONFIG_NAME

from engine.checkpoint import Weights
from engine.errors import CheckpointError, UnsupportedModelError
from engine.spec import ModelSpec
from engine.unsupported import UNSUPPORTED

DAMAGE = (
    SafetensorError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError,
)  # fmt: skip
"""What reading files that are not what they should be raises, in one library or another."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def configuration(path: str | Path) -> Any:
    """Of a checkpoint folder or hub id.

    Raises:
        CheckpointError: no such folder, no weights in it, a configuration that cannot be, or a
            model that needs code of its own.
        UnsupportedModelError: a model type whose experts cannot be served.
    """
    _check_folder(path)
    config = _config(path)
    _check_supported(config)
    return config


def _check_folder(path: str | Path) -> None:
    folder = Path(path)
    if os.path.isdir(folder):  # pathlib's own raises for a name that the system refuses
        if not (folder / CONFIG_NAME).is_file():
            raise CheckpointError(
                f"{folder} holds no config.json: give the folder of a transformers checkpoint"
            )
        Weights.find(folder)
    elif isinstance(path, Path) or os.path.exists(folder) or not _HUB_ID.fullmatch(path):
        raise CheckpointError(
            f"no checkpoint folder at {path}: give 'demo', a folder with config.json and "
            ".safetensors files, or a hub id (owner/name)" + _instead(str(path))
        )


def _instead(path: str) -> str:
    """What else a name that is no folder may have been meant for; empty where nothing."""
    if path.startswith("~"):
        return "; ~ is not your home folder here: give the whole path"
    if path in ModelSpec.presets():
        return (
            f". {path!r} is a preset of sizes, without weights: fv.synthetic({path!r}) makes up a "
            "run of it, as_model= costs the demo as a model of its grid"
        )
    return ""


def _config(path: str | Path) -> Any:
    """The configuration, by transformers' own class for it; code in a checkpoint never runs."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(path)
        kind = content.get("model_type")
        if "auto_map" in content and kind not in CONFIG_MAPPING:
            raise CheckpointError(
                f"{path} brings code of its own for its model type {kind!r} (auto_map in "
                "config.json), which is not run here. Use a checkpoint of the same model in "
                "transformers' own format, or a newer transformers that knows the model type"
            )
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (StrictDataclassError, *DAMAGE) as error:
        raise CheckpointError(
            f"cannot read the configuration of {path} ({short(error)}): check the path or hub "
            "id; models that bring their own code are not run"
        ) from error


def _check_supported(config: Any) -> None:
    reason = UNSUPPORTED.get(config.model_type)
    if reason is not None:
        raise UnsupportedModelError(
            f"{config.model_type} is not supported: {reason}. docs/architectures.md lists the "
            "model types that are"
        )


def auto_class(config: Any) -> Any:
    """transformers' class that opens this configuration's language model.

    The causal one, where there is one; else the one that takes images and text, run on text.
    """
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            return auto
    raise UnsupportedModelError(
        f"transformers has no causal language model for the model type {config.model_type!r}: it "
        "is no model that generates text, or one with an encoder"
    )


def short(error: Exception) -> str:
    """What an error says, in one line that fits into another message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
