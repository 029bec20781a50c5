"""Write docs/architectures.md: what transformers' model files use, and what the engine runs.

python tools/architectures.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.moe import _default_apply_gate

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architectures.md"
sys.path.insert(0, str(ROOT))

HEAD = """# Architectures

Every model file of transformers {version} that routes its experts through the experts interface
({files} files), and the older ones that do not. `tests/engine/test_architectures.py` builds a small
random model of each supported type and compares it with transformers' own experts: logits of
prefill and of decode within 1e-4 in float32, greedy tokens the same, for every policy and three
budgets. Written by `python tools/architectures.py`; a test compares.

The features are those of a default configuration. *Router ahead*: whether a prefetching policy can
ask the next layer's router. *Chunks*: whether `prefill_chunk_tokens` may split a prompt; where it
would change the output it raises `InputError` with the reason.

## Supported ({count} model types)

| model type | class | experts | around them | router ahead | chunks |
| --- | --- | --- | --- | --- | --- |
"""

TAIL = """
## Not supported

Loading one of these raises `UnsupportedModelError` with the reason.

| model type | why |
| --- | --- |
"""

LAYERS = {
    "linear attention": "linear_attention",
    "convolutions": "conv",
    "sliding window": "sliding",
    "indexed attention": "indexed",
    "compressed attention": "compressed",
}
"""Words -> what is in configurations' names of such layers."""


def page() -> str:
    """The whole page, from tiny models of every type (their weights are never made)."""
    from engine.unsupported import UNSUPPORTED
    from tests.engine.tiny_models import model_files, supported

    kinds = supported()
    head = HEAD.format(version=transformers.__version__, files=len(model_files()), count=len(kinds))
    why = [f"| `{kind}` | {reason} |\n" for kind, reason in UNSUPPORTED.items()]
    return head + "".join(map(_line, kinds)) + TAIL + "".join(why)


def _line(kind: str) -> str:
    from engine.store import experts_modules
    from tests.engine.tiny_models import NOT_AHEAD, auto_class, tiny_config

    ahead = NOT_AHEAD.get(kind)
    ahead = f"not all: {ahead}" if ahead else "yes"
    config = tiny_config(kind)
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    experts = experts_modules(model)[0]
    around = ", ".join(_around(model, config.get_text_config()))
    layout = ", ".join(_layout(experts))
    cells = (f"`{kind}`", f"`{type(model).__name__}`", layout, around, ahead, _chunks(kind))
    return f"| {' | '.join(cells)} |\n"


def _chunks(kind: str) -> str:
    from engine.unsupported import UNCHUNKED, UNCHUNKED_BY_WINDOW

    if kind in UNCHUNKED_BY_WINDOW:
        return "unless its configuration sets `sliding_window`"
    return f"no: {UNCHUNKED[kind]}" if kind in UNCHUNKED else "yes"


def _layout(experts: Any) -> list[str]:
    """What transformers' flags say of an experts module."""
    flags = {
        "transposed": experts.is_transposed,
        "interleaved": not experts.is_concatenated,
        "biased": experts.has_bias,
        "un-gated": not experts.has_gate,
        "own gate": experts.has_gate and type(experts)._apply_gate is not _default_apply_gate,
        "post-norm": experts.has_post_expert_norm,
    }
    return [word for word, flag in flags.items() if flag] or ["plain"]


def _around(model: Any, config: Any) -> list[str]:
    """What stands around the experts."""
    from engine.store import experts_modules

    layers = set(getattr(config, "layer_types", None) or ())
    names = [name for name, _ in model.get_decoder().named_modules()]
    sizes = {tuple(module.down_proj.shape) for module in experts_modules(model)}
    found = {
        "shared experts": any("shared_expert" in name or "shared_mlp" in name for name in names),
        "dense layers": len(experts_modules(model)) < config.num_hidden_layers,
        "latent attention": bool(getattr(config, "kv_lora_rank", None)),
        **{word: any(part in kind for kind in layers) for word, part in LAYERS.items()},
        "Mamba layers": any(name.endswith(".mamba") for name in names),
        "hashed routing": any(name.endswith("tid2eid") for name in model.state_dict()),
        "images": hasattr(model.config, "vision_config"),
        "experts for images, which count as dense": len(sizes) > 1,
    }
    return [word for word, flag in found.items() if flag]


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
    print(f"{PAGE}: {page().count(chr(10))} lines")
