"""Calibration: made-up laps come back as the costs they were made of; a small model's, end to end.

No test here says how long anything may take.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from engine import bandwidth, calibrate
from engine.bandwidth import Rates
from engine.calibrator import Calibrator
from engine.cost import CostModel
from engine.errors import FiddlerError, InputError
from engine.generated import generated_model
from engine.hook import IMPLEMENTATION
from engine.hybrid import HybridEngine
from engine.loader import model_spec
from engine.machine import this_machine
from engine.measured import Reading
from engine.native.build import compiler
from engine.profile import Profile
from engine.recorder import Recorder
from engine.replay import replay
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from engine.store import ExpertStore
from tests.engine.test_costing import made_up

RATES = Rates(
    h2d_gbps=10.0, d2h_gbps=10.0, h2d_pageable_gbps=10.0, latency_ns=1000, link_contended=0.6,
    cpu_contended=0.5, cpu_call_ns=20_000, gpu=None, how="Measured: made up",
    how_contended="Measured: made up beside",
    readings=(Reading("host memory copy", 10.0, "GB/s", 0.0, 5, "measured"),),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return generated_model(
        layers=2, experts=4, hidden=32, expert_width=48, heads=4, kv_heads=2, vocabulary=64,
        positions=64, dtype=torch.float32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def spec(model: PreTrainedModel) -> ModelSpec:
    return model_spec(model, ExpertStore(model), "small")


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Made-up rates in place of measured ones, which take gigabytes."""
    monkeypatch.setattr(bandwidth, "measure", lambda probe: RATES)
    yield


def test_the_switch_to_torch_is_measured_and_used(
    model: PreTrainedModel,
    spec: ModelSpec,
    no_copies: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.cpu_lane.measured_switch", lambda kernel, some: 48)
    calibrator = Calibrator(model, spec)
    kernels = calibrator.probe._session.executor.lane.kernels
    if compiler() is None:
        pytest.skip("no C compiler")
    assert [kernel and kernel.switch_tokens for kernel in kernels] == [48, 48]
    calibrator.samples = made_up((1.0,))
    made = calibrator.spec("mine")
    costs = made.costs_of(spec)
    assert costs is not None and costs.switch_tokens == 48
    assert HardwareSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    model.save_pretrained(tmp_path)
    engine = HybridEngine.load(tmp_path, hardware=made, profile=Profile.uniform(spec.grid))
    used = engine.session.executor.lane.kernels
    assert [kernel and kernel.switch_tokens for kernel in used] == [48, 48]
    plain = HybridEngine.load(tmp_path, profile=Profile.uniform(spec.grid))
    assert all(kernel and kernel.takes(10**6) for kernel in plain.session.executor.lane.kernels)


def test_the_spec_is_of_a_machine_without_a_gpu(
    model: PreTrainedModel, spec: ModelSpec, no_copies: None
) -> None:
    calibrator = Calibrator(model, spec)
    calibrator.samples = made_up((1.0,))
    made = calibrator.spec("mine")
    assert (made.name, made.accelerator, made.gpu_memory_bytes) == ("mine", False, 0)
    assert made.calibrated and made.here() is made
    assert made.cpu_contended_gbps == pytest.approx(0.5 * made.cpu_gbps)
    assert made.h2d_contended_gbps == pytest.approx(6.0)
    assert made.calibration is not None
    assert made.calibration.machine == this_machine()
    assert all("easured" in text or "ssumed" in text for text in made.sources.values())
    assert "there is no GPU" in made.sources["gpu_gbps"]
    assert HardwareSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    # the fields alone give back what was measured with: a call, the weights, the arithmetic
    bare = CostModel.of(spec, made).cpu(1)
    rate = spec.expert_bytes / made.cpu_gbps + spec.expert_flops_per_token / made.cpu_tflops / 1e3
    assert made.cpu_call_ns + rate == pytest.approx(bare, rel=0.01)


# ---------------------------------------------------------------------- end to end


@pytest.fixture
def host(model: PreTrainedModel, tmp_path: Path) -> HybridEngine:
    model.save_pretrained(tmp_path / "small")
    return HybridEngine.load(tmp_path / "small", device="host", max_tokens=64)


def test_an_engine_is_measured_and_predicted(
    host: HybridEngine, tmp_path: Path, no_copies: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine is as it was; its trace replays on the calibrated machine, lanes in turns."""
    before = host.generate([1, 2, 3], 4, do_sample=False, eos_token_id=None)
    path = tmp_path / "folder" / "this.json"
    found = calibrate.calibrate(path, model=host, seconds=0.01)
    assert "calibrate: round 1" in capsys.readouterr().err
    assert HardwareSpec.load(path) == found
    after = host.generate([1, 2, 3], 4, do_sample=False, eos_token_id=None)
    assert after.tokens == before.tokens
    assert len(after.trace.step_rows) == len(before.trace.step_rows) == 4
    assert CostModel.of(host.real_spec, found).calibrated
    told = replay(after.trace, hardware=found).trace
    assert told.plan.costs.cpu == found.calibration.models[0].cpu
    length = told.work["end_ns"] - told.work["start_ns"]
    assert length.sum() == told.duration_ns  # nothing overlaps, nothing waits


def test_a_folder_and_its_lengths(tmp_path: Path, model: PreTrainedModel, no_copies: None) -> None:
    """Prompts stay within the model's positions; nothing is printed if not wanted."""
    model.save_pretrained(tmp_path / "small")
    small = str(tmp_path / "small")
    made = calibrate.calibrate(model=small, seconds=0.01, progress=False, name="x")
    assert made.name == "x" and made.calibration is not None
    assert made.calibration.models[0].model == "small"
    assert made.calibration.models[0].dense.points[-1][0] <= 64


def test_beside_a_profile_only_the_cpu_is_measured(host: HybridEngine, no_copies: None) -> None:
    made = calibrate.calibrate(model=host, seconds=0.01, progress=False, beside="rtx-4090")
    other = resolve_hardware("rtx-4090")
    assert made.accelerator and not made.calibrated
    assert made.gpu_gbps == other.gpu_gbps and made.h2d_gbps == other.h2d_gbps
    assert made.cpu_gbps != other.cpu_gbps
    assert "Measured" in made.sources["cpu_gbps"] and "Datasheet" in made.sources["gpu_gbps"]
    assert made.title.startswith("RTX 4090 (modelled) + ")
    costs = CostModel.of(host.real_spec, made)
    assert costs.cpu == made.calibration.models[0].cpu and not costs.calibrated


@pytest.mark.parametrize("value", [7, object(), ["demo"]])
def test_what_cannot_be_measured(value: Any) -> None:
    with pytest.raises(InputError, match="calibrate, model: expected an engine"):
        calibrate.calibrate(model=value, progress=False)


@pytest.mark.parametrize("seconds", [0, -1, "long", float("nan")])
def test_bad_seconds(seconds: Any) -> None:
    with pytest.raises(InputError, match="calibrate, seconds"):
        calibrate.calibrate(seconds=seconds, progress=False)


@pytest.mark.parametrize("wrong", [{"name": 3}, {"name": " "}, {"threads": 0}])
def test_the_rest_is_checked_before_anything_is_measured(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "generated_model", lambda: pytest.fail("it began"))
    with pytest.raises(InputError, match=rf"{next(iter(wrong))}: expected"):
        calibrate.calibrate(progress=False, **wrong)


def test_where_it_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        calibrate.calibrate(tmp_path, progress=False)


def test_what_is_written_comes_first_and_is_a_path(host: HybridEngine) -> None:
    with pytest.raises(InputError, match="expected the path of a file to write, got HybridEngine"):
        calibrate.calibrate(host, progress=False)  # type: ignore[arg-type]


def test_a_running_engine_is_refused(host: HybridEngine) -> None:
    owner = object()
    host.session.begin_run(owner, partial(Recorder, host.model_spec), record=False)
    try:
        with pytest.raises(FiddlerError, match="the engine is generating"):
            calibrate.calibrate(model=host, progress=False)
    finally:
        host.session.end_run(owner)


def test_a_generated_model_is_an_ordinary_one(model: PreTrainedModel) -> None:
    assert model.config._experts_implementation == IMPLEMENTATION
    weights = torch.cat([p.reshape(-1) for p in model.parameters() if p.ndim > 1])
    assert 0.015 < float(weights.std()) < 0.025
    assert len({float(p.flatten()[0]) for p in model.parameters() if p.ndim > 1}) > 4
