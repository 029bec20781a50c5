"""Checkpoints that are not what they should be, and small ones of other architectures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, modeling_utils
from transformers.utils import logging

import fiddler_viz as fv
from engine import loader
from engine.errors import BudgetError, CheckpointError, InputError, UnsupportedModelError
from engine.loader import load_model, load_tokenizer
from fiddler_viz import demo
from tests.engine.tiny_models import save_tiny


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint, to be broken."""
    return Path(shutil.copytree(demo.model_folder(), tmp_path / "broken"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint folder at .*nowhere"):
        fv.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="give 'demo'"):
        fv.load("dmo")
    with pytest.raises(CheckpointError, match="no checkpoint folder at /nowhere: "):
        fv.load("/nowhere")
    with pytest.raises(CheckpointError, match="give the whole path"):
        fv.load("~/nowhere")
    with pytest.raises(CheckpointError, match=r"fv\.synthetic\('deepseek-v3'\) makes up"):
        fv.load("deepseek-v3")
    for name in ("a" * 5000, "a/" * 3000 + "b", "a" * 3000 + "/" + "b" * 3000, "a\0b"):
        for path in (name, Path(name)):
            with pytest.raises(CheckpointError):
                fv.load(path)


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


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_model_that_memory_cannot_hold(
    checkpoint: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "onto_large_pages", lambda model: None)
    size = sum(part.nbytes for part in loader.load_model(checkpoint, dtype).parameters())
    need = round(size * 1.05)
    monkeypatch.setattr(loader, "free_memory_bytes", lambda: need - 1)
    monkeypatch.setattr(loader.Weights, "read_once", lambda *_: pytest.fail("it was read"))
    with pytest.raises(
        BudgetError, match=r"loading .* takes .* of host memory.* are free"
    ) as error:
        loader.load_model(checkpoint, dtype)
    assert error.value.minimum_bytes == need and "engine.close()" in str(error.value)
    assert ("dtype='bfloat16'" in str(error.value)) is (dtype == "float32")
    monkeypatch.undo()
    for free in (need, None):
        monkeypatch.setattr(loader, "free_memory_bytes", lambda free=free: free)
        assert loader.load_model(checkpoint, dtype) is not None


def test_damaged_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="configuration"):
        fv.load(checkpoint)


def edit_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_experts_per_tok": 9}, CheckpointError, "more experts per token than there are"),
        ({"hidden_size": "32"}, CheckpointError, "cannot read the configuration .*'hidden_size'"),
        ({"num_local_experts": -1}, UnsupportedModelError, "cannot build a 'mixtral'"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            UnsupportedModelError,
            r"are quantised \(gptq\).* take a checkpoint .* that is not quantised",
        ),
    ],
)
def test_a_config_that_cannot_be(
    checkpoint: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(error, match=message):
        fv.load(checkpoint)


def test_weights_that_need_a_package(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ImportError("needs `triton`")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r"without another package \(needs `triton`\)"):
        load_model(checkpoint)


def test_tensors_without_a_place_are_told(tmp_path: Path) -> None:
    """They may belong there (a head that predicts further tokens), or the config is another's."""
    save_tiny(tmp_path, "mixtral")
    edit_config(tmp_path, num_hidden_layers=3)
    with pytest.warns(UserWarning, match=r"hold \d+ tensors .* no place for \('model\.layers\.3"):
        load_model(tmp_path)


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


def test_not_a_mixture(tmp_path: Path) -> None:
    save_tiny(tmp_path / "dense", "llama")
    with pytest.raises(UnsupportedModelError, match="not a Mixture-of-Experts model"):
        fv.load(tmp_path / "dense")


def greedy(model: Any) -> list[int]:
    ids = torch.tensor([[3, 14, 15, 92, 65, 35]])
    return model.generate(ids, max_new_tokens=6, do_sample=False)[0, 6:].tolist()


def test_hub_id_in_the_cache_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub's cache as huggingface_hub lays it out: blobs, a ref, a snapshot of links."""
    made = tmp_path / "made"
    plain = save_tiny(made, "mixtral")
    commit, repository = "0" * 40, tmp_path / "hub" / "models--someone--tiny-moe"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(made.iterdir())):
        file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    engine = fv.load("someone/tiny-moe", gpu_memory="40%")
    assert engine.real_spec.name == "tiny-moe"
    assert list(engine.generate([3, 14, 15, 92, 65, 35], 6).tokens[0]) == greedy(plain)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickle files \(pytorch_model\.bin\)"):
        fv.load("someone/tiny-moe")
    with pytest.raises(CheckpointError, match="check the path or hub id"):
        fv.load("someone/another-moe")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shards_and_dtypes(tmp_path: Path, dtype: str) -> None:
    plain = save_tiny(tmp_path / "whole", "qwen3_moe").to(getattr(torch, dtype))
    plain.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 3
    model = load_model(tmp_path / "parts")
    assert model.dtype == getattr(torch, dtype)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_model(tmp_path / "parts", "float32").dtype == torch.float32
    next((tmp_path / "parts").glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(tmp_path / "parts")


def test_fused_and_per_expert_files(tmp_path: Path) -> None:
    """Files with a tensor for each expert's matrix, and with fused ones, are the same model."""
    plain = save_tiny(tmp_path / "each", "qwen3_moe")
    plain.save_pretrained(tmp_path / "fused", save_original_format=False)
    each, fused = (load_file(tmp_path / kind / "model.safetensors") for kind in ("each", "fused"))
    assert any(".experts.7.up_proj." in name for name in each)
    assert any(name.endswith(".experts.gate_up_proj") for name in fused)
    for kind in ("each", "fused"):
        ours, theirs = load_model(tmp_path / kind).state_dict(), plain.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), kind


@pytest.mark.parametrize(
    ("kind", "dtype", "pieces"),
    [("fused", "auto", False), ("fused", "bfloat16", True), ("each", "auto", True)],
)
def test_files_that_need_conversion_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, pieces: bool
) -> None:
    """Mapped files beside converted tensors would double the peak (benchmarks/load.py)."""
    plain = save_tiny(tmp_path / "each", "qwen3_moe")
    plain.save_pretrained(tmp_path / "fused", save_original_format=False)
    seen: list[tuple[bool, str | None]] = []
    real = AutoModelForCausalLM.from_pretrained

    def look(*args: Any, **options: Any) -> Any:
        own = modeling_utils.safe_open is not safe_open
        seen.append((own, os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")))
        return real(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", look)
    load_model(tmp_path / kind, dtype)
    assert seen == [(pieces, "1" if pieces else None)]
    assert modeling_utils.safe_open is safe_open
    assert "HF_DEACTIVATE_ASYNC_LOAD" not in os.environ


def test_code_in_a_checkpoint_is_not_run(checkpoint: Path) -> None:
    """Unknown model types are refused; known ones are opened by transformers' own classes."""
    ran = checkpoint / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass Own: pass\n"
    (checkpoint / "configuration_own.py").write_text(code)
    (checkpoint / "modeling_own.py").write_text(code)
    content = json.loads((checkpoint / "config.json").read_text())
    content["auto_map"] = {
        "AutoConfig": "configuration_own.Own",
        "AutoModelForCausalLM": "modeling_own.Own",
    }
    (checkpoint / "config.json").write_text(json.dumps(content))
    assert load_model(checkpoint).config.model_type == "mixtral"
    content["model_type"] = "own_moe"
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"code of its own .*'own_moe'.*not run here\. Use"):
        load_model(checkpoint)
    content["model_type"] = "bert"  # known, but with no model that generates images or text
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        load_model(checkpoint)
    assert not ran.exists()


def test_only_pickle_files_say_what_to_do(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model-00001-of-00002.bin").write_bytes(b"not opened")
    with pytest.raises(CheckpointError, match=r"can run code when opened.*save_pretrained\(\)"):
        load_model(checkpoint)


def test_a_progress_bar_for_long_loads_only(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers' own bar, which is a widget in a notebook: tqdm.auto chooses."""
    logging.enable_progress_bar()
    load_model(checkpoint)
    assert capsys.readouterr().err == ""
    assert logging.is_progress_bar_enabled()
    monkeypatch.setattr("engine.checkpoint.LONG_BYTES", 1000)
    load_model(checkpoint)
    assert "Loading weights: 100%" in capsys.readouterr().err
    assert logging.tqdm_lib.__name__ == "tqdm.auto"


def test_token_ids_without_a_tokenizer(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", "mixtral")
    engine = fv.load(tmp_path / "tiny")
    with pytest.raises(InputError, match="token ids"):
        engine.generate("text")
    run = engine.generate([1, 2, 3], 4)
    assert run.trace.texts[:3] == ("1 ", "2 ", "3 ")
    assert "random token ids" in engine.plan.profile.source
