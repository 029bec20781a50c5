"""Checkpoints that are not what they should be, and small ones of other architectures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import fiddler_viz as fv
from engine.errors import CheckpointError, InputError, UnsupportedModelError
from engine.loader import load_model, load_tokenizer
from engine.policies import LIVE
from fiddler_viz import demo


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint, to be broken."""
    return Path(shutil.copytree(demo.model_folder(), tmp_path / "broken"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint folder at .*nowhere"):
        fv.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="give 'demo'"):
        fv.load("dmo")


@pytest.mark.parametrize("path", [None, 3, b"demo", ["demo"]])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(InputError, match="expected 'demo', a checkpoint's folder or a hub id"):
        fv.load(path)


def test_unknown_hub_id_offline() -> None:
    with pytest.raises(CheckpointError, match="check the path or hub id"):
        fv.load("nobody/nothing-8x7b")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        fv.load(tmp_path)


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \.safetensors weights"):
        fv.load(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"not opened")
    with pytest.raises(CheckpointError, match="only pickle files"):
        fv.load(checkpoint)


def test_renamed_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"Found: weights\.safetensors"):
        fv.load(checkpoint)


@pytest.mark.parametrize("keep", [0, 5, 4000, -1000])
def test_truncated_weights(checkpoint: Path, keep: int) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cannot be read"):
        fv.load(checkpoint)


def test_weights_of_another_model(checkpoint: Path) -> None:
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(
        config.replace('"intermediate_size": 96', '"intermediate_size": 128')
    )
    with pytest.raises(CheckpointError):
        fv.load(checkpoint)
    (checkpoint / "config.json").write_text(
        config.replace('"num_hidden_layers": 32', '"num_hidden_layers": 33')
    )
    with pytest.raises(CheckpointError, match="lack"):
        fv.load(checkpoint)


def test_damaged_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="configuration"):
        fv.load(checkpoint)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"added_tokens": []}'], ids=["none", "empty", "list", "no model"]
)
def test_damaged_tokenizer(checkpoint: Path, content: str) -> None:
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"the tokenizer in .*broken .*tokenizer\.json"):
        load_tokenizer(checkpoint)
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    assert load_tokenizer(checkpoint) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        AssertionError("our bug"),
    ],
    ids=["python", "torch", "bug"],
)
def test_what_is_no_damage_is_not_called_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(type(error)) as raised:
        load_model(checkpoint)
    assert raised.value is error


def save_tiny(folder: Path, model_type: str, **sizes: Any) -> Path:
    """A random checkpoint of an architecture, small enough to run at once."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
        }
        | sizes,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_not_a_mixture(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense", "llama")
    with pytest.raises(UnsupportedModelError, match="not a Mixture-of-Experts model"):
        fv.load(folder)


ARCHITECTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    },
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "n_shared_experts": 1,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_architectures(tmp_path: Path, name: str) -> None:
    """Layouts differ (transposed, biased, own gates, dense first layers): the results do not."""
    folder = save_tiny(tmp_path / name, name, **ARCHITECTURES[name])
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    engine = fv.load(folder, dtype="float32", gpu_memory="40%")
    assert engine.tokenizer is None
    prompt = [3, 14, 15, 92, 65, 35]
    expected = plain.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    with torch.no_grad():
        logits = plain(expected).logits
    for policy in LIVE:
        engine.replan(policy=policy)
        with torch.no_grad():
            assert (engine.model(expected).logits - logits).abs().max().item() <= 1e-4, policy
        run = engine.generate(prompt, 12, do_sample=False)
        assert list(run.tokens[0]) == expected[0, len(prompt) :].tolist(), policy
    spec = engine.model_spec
    assert spec.routed_bytes + spec.dense_bytes == 4 * sum(p.numel() for p in plain.parameters())


def test_token_ids_without_a_tokenizer(tmp_path: Path) -> None:
    engine = fv.load(save_tiny(tmp_path / "tiny", "mixtral", **ARCHITECTURES["mixtral"]))
    with pytest.raises(InputError, match="token ids"):
        engine.generate("text")
    run = engine.generate([1, 2, 3], 4)
    assert run.trace.texts[:3] == ("1 ", "2 ", "3 ")
    assert "random token ids" in engine.plan.profile.source
