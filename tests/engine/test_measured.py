"""A calibration's record: what is kept, where it counts, and what other machines make of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from engine.cost import CostModel, Curve
from engine.errors import InputError
from engine.machine import Machine, this_machine
from engine.measured import Calibration, ModelCosts, Reading
from engine.plan import Plan
from engine.replay import replay
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from tests.engine.builders import MODEL, recorded, toy_plan

COSTS = ModelCosts(
    model="toy",
    shape=ModelCosts.shape_of(MODEL),
    cpu=Curve(points=((1, 900), (4, 700), (16, 1500))),
    dense=Curve(points=((1, 300), (16, 900))),
    head=Curve(((50, 0),)),
    kv_ns=2.0,
    relative_error=0.07,
    switch_tokens=96,
)
ELSEWHERE = Machine("Another CPU", 64, "NVIDIA L4", "1.0")


def calibrated(machine: Machine | None = None, **figures: Any) -> HardwareSpec:
    """A machine without a GPU, measured with the toy model."""
    record = Calibration(
        machine=machine or this_machine(),
        versions={"python": "3.11"},
        date="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        drift=0.02,
        models=(COSTS,),
        readings=(
            Reading("CPU expert, 1 tokens", 3.25, "ms", 0.013, 880, "measured; table"),
            Reading("call of an expert", 17.4, "us", 0.0, 0, "measured"),
        ),
    )
    changes: dict[str, Any] = {
        "name": "mine", "title": "no GPU + 2 cores, measured", "calibrated": True,
        "accelerator": False, "gpu_memory_bytes": 0, "calibration": record,
    }  # fmt: skip
    return replace(resolve_hardware("rtx-4090"), **changes | figures)


def test_a_file_from_before_there_was_a_switch() -> None:
    values = asdict(COSTS)
    del values["switch_tokens"]
    assert ModelCosts.from_dict(values) == replace(COSTS, switch_tokens=None)


def test_costs_of_the_very_model() -> None:
    spec = calibrated()
    assert spec.costs_of(MODEL) == COSTS
    assert spec.costs_of(replace(MODEL, expert_width=MODEL.expert_width + 1)) is None
    assert resolve_hardware("rtx-4090").costs_of(MODEL) is None


def test_the_table_says_what_was_measured_and_how_well() -> None:
    shown = repr(calibrated().calibration)
    assert "measured 2026-01-02T03:04:05+00:00 in 12 s" in shown
    assert str(this_machine()) in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("CPU expert")]
    assert " ".join(line.split()) == "CPU expert, 1 tokens 3.25 ms 1.3% 880 measured; table"
    assert "2.0% more or less" in shown


def test_round_trip(tmp_path: Path) -> None:
    spec = calibrated()
    assert HardwareSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    spec.save(tmp_path / "mine.json")
    assert HardwareSpec.load(tmp_path / "mine.json") == spec
    assert hash(spec) == hash(replace(spec))
    assert repr(spec).startswith("HardwareSpec('mine': no GPU, CPU ")
    assert repr(spec).endswith(", calibrated 2026-01-02)")


def test_the_measured_model_is_costed_with_its_curves() -> None:
    """With its own interval; and nothing overlaps where there is no GPU."""
    costs = CostModel.of(MODEL, calibrated())
    assert (costs.cpu, costs.gpu) == (COSTS.cpu, COSTS.cpu)
    assert (costs.dense, costs.head, costs.kv_ns) == (COSTS.dense, COSTS.head, 2.0)
    assert (costs.relative_error, costs.calibrated, costs.overlap) == (0.07, True, False)
    assert costs.dense_ns(1, 100) == 300 + 200
    assert CostModel.from_dict(json.loads(json.dumps(costs.to_dict()))) == costs


def test_another_model_is_costed_with_the_rates_and_more_uncertainty() -> None:
    costs = CostModel.of(ModelSpec.preset("mixtral-8x7b"), calibrated())
    assert costs.cpu.lines and not costs.cpu.points
    assert (costs.relative_error, costs.calibrated) == (0.3, True)
    other = replace(MODEL, expert_width=9)
    assert not COSTS.fits(other) and COSTS.fits(replace(MODEL, name="renamed"))


def test_beside_a_gpu_the_dense_part_is_the_gpu_s() -> None:
    costs = CostModel.of(MODEL, calibrated(accelerator=True, gpu_memory_bytes=10**9))
    assert costs.cpu == COSTS.cpu and costs.overlap
    assert costs.dense != COSTS.dense and costs.gpu != COSTS.cpu


# ---------------------------------------------------------------------- on another machine


def test_what_was_measured_elsewhere_is_uncalibrated_here(tmp_path: Path) -> None:
    foreign = calibrated(ELSEWHERE)
    foreign.save(tmp_path / "theirs.json")
    found = resolve_hardware(tmp_path / "theirs.json")
    assert not found.calibrated
    assert "uncalibrated here: other cpu" in found.title
    assert repr(found).endswith(", uncalibrated)")
    assert found.relative_error == 0.3
    costs = CostModel.of(MODEL, found)
    assert (costs.calibrated, costs.relative_error) == (False, 0.3)
    assert foreign.here(ELSEWHERE) is foreign
    assert found.here() is found
    assert HardwareSpec.preset("l4").here().title == HardwareSpec.preset("l4").title


def test_another_torch_counts_as_another_machine() -> None:
    found = calibrated(replace(this_machine(), torch="0.1")).here()
    assert not found.calibrated and "uncalibrated here: other torch" in found.title


def test_a_calibration_without_a_record_is_none(tmp_path: Path) -> None:
    calibrated(calibration=None).save(tmp_path / "bare.json")
    found = HardwareSpec.load(tmp_path / "bare.json")
    assert not found.calibrated and "no record of the measurement" in found.title


def test_every_view_s_words_say_uncalibrated(tmp_path: Path) -> None:
    """The plan, the trace's machine and the summary."""
    trace = recorded(0, toy_plan(4), 3)
    calibrated(ELSEWHERE).save(tmp_path / "theirs.json")
    calibrated().save(tmp_path / "mine.json")
    theirs = replay(trace, hardware=tmp_path / "theirs.json", policy="cpu").trace
    mine = replay(trace, hardware=tmp_path / "mine.json", policy="cpu").trace
    assert "mine (uncalibrated):" in repr(theirs.plan)
    assert "uncalibrated" in theirs.machine
    assert "modelled clock, uncalibrated" in str(theirs.summary)
    assert theirs.summary.tokens_per_s_high > 1.2 * theirs.summary.tokens_per_s
    for shown in (repr(mine.plan), mine.machine, str(mine.summary)):
        assert "uncalibrated" not in shown
    assert mine.summary.tokens_per_s_high == pytest.approx(mine.summary.tokens_per_s / 0.93)
    assert "there is no GPU" in repr(mine.plan)
    assert Plan.from_dict(json.loads(json.dumps(mine.plan.to_dict()))) == mine.plan


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), 7, "calibration: expected a mapping"),
        (("colour",), 1, "calibration: unknown colour"),
        (("date",), "", "calibration, date"),
        (("drift",), -1, "calibration, drift"),
        (("models",), None, "calibration, models: expected a list"),
        (("machine", "cores"), 0, "machine, cores"),
        (("versions",), [], "versions: expected texts"),
        (("versions", "python"), 3, "versions, python"),
        (("models", 0, "kv_ns"), "x", "model costs, kv_ns"),
        (("models", 0, "kv_ns"), 1e20, "kv_ns: .* absurdly large"),
        (("models", 0, "shape", "layers"), 1.5, "shape, layers"),
        (("models", 0, "shape", "more"), 1, "shape: unknown more"),
        (("models", 0, "cpu"), None, "model costs, cpu: expected pairs"),
        (("readings", 0, "samples"), -1, "reading, samples"),
        (("readings", 0, "unit"), "", "reading, unit"),
    ],
)
def test_unsound_files_are_refused(
    path: tuple[Any, ...], value: Any, message: str, tmp_path: Path
) -> None:
    data = json.loads(json.dumps(calibrated().to_dict()))
    at, last = data, "calibration"
    for key in path:
        at, last = at[last], key
    at[last] = value
    (tmp_path / "bad.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        HardwareSpec.load(tmp_path / "bad.json")


def test_a_record_s_plain_values_are_the_record() -> None:
    record = calibrated().calibration
    assert record is not None
    assert Calibration.from_dict(json.loads(json.dumps(asdict(record)))) == record
