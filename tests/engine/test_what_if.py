"""Another link or CPU of a machine: which figures go with what, and how sure they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.cost import CostModel
from engine.crossover import Crossover, crossover
from engine.errors import InputError
from engine.spec import HardwareSpec, ModelSpec
from engine.what_if import CORE_GBPS, RATES
from tests.engine.test_measured import MODEL, calibrated

MIXTRAL, RTX = ModelSpec.preset("mixtral-8x7b"), HardwareSpec.preset("rtx-4090")


def of(hardware: HardwareSpec) -> Crossover:
    return crossover(CostModel.of(MIXTRAL, hardware))


def test_a_faster_link_copies_sooner() -> None:
    faster = RTX.what_if(link_gbps=2 * RTX.h2d_gbps)
    assert faster.changed == {"link_gbps": 2 * RTX.h2d_gbps} and faster.h2d_gbps == 2 * RTX.h2d_gbps
    for name in ("d2h_gbps", "h2d_pageable_gbps", "h2d_contended_gbps"):
        assert getattr(faster, name) == pytest.approx(2 * getattr(RTX, name))
    assert of(faster).copy_ns == pytest.approx(of(RTX).copy_ns / 2, rel=0.01)
    assert (of(faster).break_even or 0) < (of(RTX).break_even or 0)


def test_a_faster_cpu_is_left_later() -> None:
    memory = RTX.what_if(cpu_gbps=2 * RTX.cpu_gbps)
    assert memory.cpu_contended_gbps == pytest.approx(2 * RTX.cpu_contended_gbps)
    assert (of(memory).break_even or 0) > (of(RTX).break_even or 0)
    cores = RTX.what_if(cpu_cores=2 * RTX.cpu_cores)
    assert cores.cpu_tflops == pytest.approx(2 * RTX.cpu_tflops) and cores.cpu_cores == 32
    assert cores.cpu_gbps == RTX.cpu_gbps
    assert (of(cores).break_even or 0) > (of(RTX).break_even or 0)


@pytest.mark.parametrize("name", HardwareSpec.presets())
def test_few_cores_cannot_use_up_the_memory(name: str) -> None:
    """Reading has one rate until too few cores are left to draw it; arithmetic always halves."""
    spec = HardwareSpec.preset(name)
    enough = -(-spec.cpu_gbps // max(CORE_GBPS, spec.cpu_gbps / spec.cpu_cores))
    assert 1 < enough <= spec.cpu_cores
    rates = [spec.what_if(cpu_cores=n).cpu_gbps for n in range(1, 2 * spec.cpu_cores)]
    assert all(a <= b for a, b in pairwise(rates))
    assert rates[int(enough) - 1 :] == [spec.cpu_gbps] * (len(rates) - int(enough) + 1)
    one = spec.what_if(cpu_cores=1)
    assert one.cpu_gbps == pytest.approx(max(CORE_GBPS, spec.cpu_gbps / spec.cpu_cores))
    assert one.cpu_contended_gbps / one.cpu_gbps == pytest.approx(
        spec.cpu_contended_gbps / spec.cpu_gbps
    )
    assert one.cpu_tflops == pytest.approx(spec.cpu_tflops / spec.cpu_cores)
    assert one.cpu_call_ns == spec.cpu_call_ns


def test_a_given_rate_of_memory_holds_whatever_the_cores() -> None:
    assert RTX.what_if(cpu_cores=1, cpu_gbps=50).cpu_gbps == 50


def test_it_says_what_it_is() -> None:
    made = RTX.what_if(link_gbps=50, cpu_cores=32)
    assert made.title == f"{RTX.title}, what if: link 50 GB/s, 32 CPU cores"
    assert made.name == "rtx-4090 (link 50 GB/s, 32 CPU cores)"
    assert made.original == RTX
    assert made.sources["h2d_gbps"].startswith("What if: 50 in place of 25.2")
    assert made.sources["gpu_gbps"] == RTX.sources["gpu_gbps"]


def test_asking_again_starts_from_the_machine_itself() -> None:
    once = RTX.what_if(link_gbps=50)
    assert once.what_if(link_gbps=60) == RTX.what_if(link_gbps=60)
    assert once.what_if(cpu_cores=8) == RTX.what_if(link_gbps=50, cpu_cores=8)
    assert once.what_if() == once
    assert once.what_if(link_gbps=RTX.h2d_gbps) == RTX  # what it has is no what-if


def test_nothing_changed_is_the_same() -> None:
    assert RTX.what_if() is RTX


def test_what_is_changed_is_not_calibrated() -> None:
    spec = calibrated(accelerator=True, gpu_memory_bytes=10**9, relative_error=0.05)
    changed = spec.what_if(link_gbps=10, model=MODEL)
    assert not changed.calibrated and changed.relative_error == 0.3
    assert CostModel.of(MODEL, changed).relative_error >= 0.3
    assert not CostModel.of(MODEL, changed).calibrated
    assert CostModel.of(MODEL, changed).cpu == CostModel.of(MODEL, spec).cpu  # still as measured
    assert replace(spec, relative_error=0.5).what_if(link_gbps=10).relative_error == 0.5
    assert spec.what_if(cpu_cores=64).calibration is None  # its times are not of these cores
    assert changed.what_if(link_gbps=spec.h2d_gbps) == spec  # and back


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("link_gbps", 0),
        ("link_gbps", "fast"),
        ("link_gbps", 1e-300),
        ("cpu_gbps", -1),
        ("cpu_gbps", 10**30),
        ("cpu_gbps", float("nan")),
        ("cpu_cores", 2.5),
        ("cpu_cores", 0),
    ],
)
def test_bad_what_ifs(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        RTX.what_if(**{name: value}, model=MIXTRAL)  # type: ignore[arg-type]


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="no accelerator"):
        calibrated().what_if(link_gbps=10, model=MODEL)
    with pytest.raises(InputError, match="were measured with this model"):
        calibrated().what_if(cpu_cores=4, model=MODEL)


def test_it_comes_back_from_a_file(tmp_path: Path) -> None:
    made = RTX.what_if(link_gbps=50, cpu_cores=8)
    made.save(tmp_path / "this.json")
    assert HardwareSpec.load(tmp_path / "this.json") == made


@pytest.mark.parametrize(
    "change",
    [
        {"changed": {"link_gbps": -1}},
        {"changed": {"gpu_gbps": 10}},
        {"changed": {}},
        {"changed": [3]},
        {"original": None},
        {"original": {}},
        {"original": 7},
    ],
)
def test_a_file_is_checked(change: dict[str, Any]) -> None:
    values = RTX.what_if(link_gbps=50).to_dict()
    with pytest.raises(InputError):
        HardwareSpec.from_dict(values | change)
    nested = values | {"original": values}
    with pytest.raises(InputError, match="got a what-if"):
        HardwareSpec.from_dict(nested)


def test_every_rate_is_a_figure() -> None:
    assert {f for fields in RATES.values() for f in fields} <= set(vars(RTX))


def test_numbers_of_numpy() -> None:
    cores, link = np.arange(4, 5)[0], np.float32(50)
    asked = RTX.what_if(cpu_cores=cores, link_gbps=link)  # type: ignore[arg-type]
    assert asked == RTX.what_if(cpu_cores=4, link_gbps=50.0)
    assert HardwareSpec.from_dict(asked.to_dict()) == asked
