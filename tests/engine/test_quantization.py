"""Experts quantised on loading: the same answers on every path, fewer bytes, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

import fiddler_viz as fv
from engine.errors import CheckpointError, InputError, UnknownNameError, UnsupportedModelError
from engine.hook import IMPLEMENTATION
from engine.hybrid import HybridEngine
from engine.kernels import library
from engine.levels import SCHEMES
from engine.replay import replay
from engine.schemes import quantised_spec
from engine.spec import ModelSpec
from engine.store import ExpertStore
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.tiny_models import randomise, save_tiny, tiny_sizes

PROMPT = "JULIET:\nO Romeo, Romeo! wherefore art thou Romeo?\n"
KINDS = ("mixtral", "qwen3_moe", "gpt_oss", "nemotron_h")
"""Gated; with dense layers; transposed, interleaved, with biases; without a gate."""


def save(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random checkpoint whose experts' rows are multiples of 32."""
    sizes = tiny_sizes(CONFIG_MAPPING[kind]())
    wide = ("intermediate_size", "moe_intermediate_size", "moe_latent_size")
    sizes |= {name: 64 for name in wide if sizes.get(name)}
    config = AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation="eager")
    randomise(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return model.eval()


def round_experts(model: PreTrainedModel, engine: HybridEngine) -> None:
    """Give transformers' own model the weights that the engine's levels stand for."""
    ours = engine.session.store
    model.set_experts_implementation(IMPLEMENTATION)
    theirs = ExpertStore(model)
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for layer, module in enumerate(theirs.modules):
            for expert in range(theirs.experts):
                numbers = ours.weights(layer, expert).numbers(torch.float32)
                own = theirs.weights(layer, expert)
                for mine, number in zip((own.up, own.down), numbers, strict=True):
                    mine.copy_(number.T if module.is_transposed else number)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("device", ["virtual", "host"])
def test_the_same_as_transformers_with_rounded_weights(
    tmp_path: Path, kind: str, scheme: str, device: str
) -> None:
    model = save(tmp_path, kind)
    planned = {"gpu_memory": "60%", "policy": "fiddler"} if device == "virtual" else {}
    engine = fv.load(tmp_path, quantize=scheme, device=device, max_tokens=64, **planned)
    if device == "host" and library() is not None:
        assert all(engine.session.executor.lane.kernels), "all on the kernels"
    prompt = list(range(1, 12))
    run = engine.generate(prompt, 16, do_sample=False)
    round_experts(model, engine)
    given = torch.tensor([prompt])
    made = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=16, do_sample=False
    )
    assert run.tokens[0] == tuple(made[0, len(prompt) :].tolist())


@pytest.fixture(scope="module", params=SCHEMES)
def engine(request: pytest.FixtureRequest) -> HybridEngine:
    return fv.load("demo", quantize=request.param, gpu_memory="10MB", max_tokens=128)


def test_the_demo_speaks_and_its_run_replays(engine: HybridEngine, tmp_path: Path) -> None:
    run = engine.generate(PROMPT, 48, do_sample=False)
    assert "\n" in run.text and len(set(run.text.split())) > 5
    again = replay(run.trace).trace
    for name in ("step_rows", "work_rows", "move_rows"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run.trace, name))
    assert engine.residency.used_bytes <= engine.residency.budget_bytes
    assert engine.device.used_bytes <= engine.device.capacity_bytes
    assert engine.quantization is not None
    loaded = Trace.load(run.trace.save(tmp_path / "run.safetensors"))
    assert loaded.meta["quantization"] == engine.quantization.to_dict()


def test_caches_and_streams_copy_levels(engine: HybridEngine) -> None:
    engine.replan(policy="lru", cache_slots=20, gpu_memory="9MB")
    run = engine.generate(PROMPT, 12, do_sample=False)
    engine.replan(policy="cpu", gpu_memory="10MB", cache_slots=0)
    on_cpu = engine.generate(PROMPT, 12, do_sample=False)
    assert run.tokens == on_cpu.tokens
    slot = engine.device.slot_bytes
    assert slot == engine.real_spec.expert_bytes == engine.session.store.weights(3, 5).n_bytes


def test_what_it_says_of_itself(engine: HybridEngine) -> None:
    made, spec, store = engine.quantization, engine.real_spec, engine.session.store
    assert made is not None
    bits = SCHEMES[made.scheme].bits
    assert spec.bytes_per_weight == bits / 8 + 2 / made.group
    assert spec.expert_bytes == round(3 * 96 * 96 * spec.bytes_per_weight)
    assert made.bytes_after == spec.routed_bytes == store.n_bytes
    assert made.bytes_before == 4 * 3 * 96 * 96 * spec.experts_total
    assert 0 < made.error_mean <= made.error_worst < {8: 5e-5, 4: 1e-2}[bits]
    assert repr(made).startswith(f"Quantization({made.scheme}, groups of 32: experts 28.3 MB -> ")
    plain = fv.load("demo", gpu_memory="10MB", max_tokens=128)
    assert plain.quantization is None
    assert len(engine.plan.pinned) > 2 * len(plain.plan.pinned)
    same = ("dense_bytes", "expert_flops_per_token", "activation_bytes_per_token", "hidden")
    assert all(getattr(spec, name) == getattr(plain.real_spec, name) for name in same)


def test_the_model_keeps_no_other_weights(engine: HybridEngine) -> None:
    held = sum(part.numel() * part.element_size() for part in engine.model.parameters())
    assert held == engine.real_spec.total_bytes


def test_another_model_is_costed_as_quantised() -> None:
    engine = fv.load("demo", quantize="int4", as_model=demo.COSTED_AS, gpu_memory="24GB")
    assert engine.model_spec.name == f"{demo.COSTED_AS}-int4"
    assert engine.model_spec.bytes_per_weight == 0.5 + 2 / 128
    weights = 3 * 4096 * 14336
    assert engine.model_spec.expert_bytes == round(weights * 0.515625)
    assert len(engine.plan.pinned) > 180  # of bfloat16's: 56
    with pytest.raises(InputError, match=r"gpt-oss-120b has .* bytes per weight already"):
        quantised_spec(ModelSpec.preset("gpt-oss-120b"), SCHEMES["int8"])


def test_half_precision_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, "gpt_oss", torch.bfloat16)
    prompt = list(range(1, 12))
    for dtype in ("auto", "float16"):
        engines = [
            fv.load(tmp_path, dtype=dtype, quantize="int8", device=device, max_tokens=32)
            for device in ("host", "virtual")
        ]
        assert all(engine.real_spec.activation_bytes_per_token == 64 for engine in engines)
        host, virtual = (engine.generate(prompt, 1, do_sample=False) for engine in engines)
        assert host.tokens == virtual.tokens


@pytest.mark.parametrize(("wrong", "error"), [("int3", UnknownNameError), (4, InputError)])
def test_wrong_names_are_refused_before_anything_is_read(wrong: Any, error: type) -> None:
    with pytest.raises(error, match="quantize"):
        fv.load("demo", quantize=wrong)


def test_rows_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")  # 48 wide
    with pytest.raises(UnsupportedModelError, match="load them without quantize"):
        fv.load(tmp_path, quantize="int8", max_tokens=32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = save(tmp_path, "mixtral")
    with torch.no_grad():
        model.model.layers[2].mlp.experts.down_proj[3, 1, 1] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expert 3 of MoE layer 2 has weights that are not"):
        fv.load(tmp_path, quantize="int4", max_tokens=32)
