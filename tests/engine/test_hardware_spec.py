"""HardwareSpec: presets by hand, a source for each figure, one rule for all, strict reading."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.hardware_spec
from engine.cost import CostModel
from engine.errors import InputError, UnknownNameError
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware

NAMES = ["h200", "l4", "quadro-rtx-6000", "rtx-3060-laptop", "rtx-4090", "rtx-6000-ada"]
FIGURES = [
    field.name
    for field in fields(HardwareSpec)
    if field.name not in ("name", "title", "calibrated", "sources", "accelerator", "calibration")
    and field.name not in ("changed", "original")
]
FOLDER = Path(engine.hardware_spec.__file__).parent / "data" / "hardware"


def test_presets_are_these() -> None:
    assert HardwareSpec.presets() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_round_trips_and_names_a_source_for_each_figure(
    name: str, tmp_path: Path
) -> None:
    spec = HardwareSpec.preset(name)
    assert spec.name == name
    assert sorted(spec.sources) == sorted(FIGURES)
    for text in spec.sources.values():
        words = ("datasheet", "paper", "assumed", "arithmetic", "authors")
        assert any(word in text.lower() for word in words)
    assert not spec.calibrated
    assert spec.relative_error == 0.3
    assert HardwareSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    spec.save(tmp_path / "this.json")
    assert resolve_hardware(tmp_path / "this.json") == spec
    assert resolve_hardware(str(tmp_path / "this.json")) == spec
    assert resolve_hardware(name) == spec
    assert resolve_hardware(spec) is spec
    assert hash(spec) == hash(replace(spec))
    assert resolve_hardware(FOLDER / f"{name}.json") == spec, "a copied preset works as a start"


@pytest.mark.parametrize("name", NAMES)
def test_one_rule_for_all(name: str) -> None:
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    found = {key: content[key]["product"].get("efficiency") for key in FIGURES}
    paper = {"quadro-rtx-6000": None, "rtx-6000-ada": 0.415}
    expected = {
        "gpu_gbps": 0.85,
        "gpu_tflops": 0.6,
        "h2d_gbps": 0.8,
        "d2h_gbps": 0.8,
        "h2d_pageable_gbps": 0.8,
        "h2d_contended_gbps": 0.8,
        "cpu_contended_gbps": paper.get(name, 0.7),
        "cpu_gbps": paper.get(name, 0.7),
        "cpu_tflops": 0.5,
    }
    assert found == {key: expected.get(key) for key in FIGURES}


def test_environment_1_by_hand() -> None:
    spec = HardwareSpec.preset("quadro-rtx-6000")
    assert spec.gpu_memory_bytes == 24 * 10**9
    assert spec.gpu_gbps == pytest.approx(672 * 0.85)
    assert spec.h2d_gbps == pytest.approx(12.6, abs=0.01)
    assert spec.cpu_gbps == pytest.approx(352_321_536 / 6.627e6, rel=1e-4)  # bytes/ns = GB/s
    assert spec.cpu_gbps / 128 == pytest.approx(0.415, abs=0.001)
    assert repr(spec) == (
        "HardwareSpec('quadro-rtx-6000': 24.0 GB at 571.2 GB/s, link 12.6 GB/s, CPU 53.2 GB/s)"
    )


def test_environment_1_s_expert_on_the_cpu_takes_the_authors_7_ms() -> None:
    """Reading, call and arithmetic together: none of them is counted twice."""
    costs = CostModel.of(ModelSpec.preset("mixtral-8x7b"), HardwareSpec.preset("quadro-rtx-6000"))
    assert costs.cpu(1) == pytest.approx(7_000_000, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"gpu_gbps": 0},
        {"gpu_gbps": -1.0},
        {"h2d_gbps": float("inf")},
        {"cpu_tflops": "2"},
        {"gpu_memory_bytes": 24e9},
        {"gpu_launch_ns": -1},
        {"cpu_cores": 0},
        {"relative_error": float("nan")},
        {"calibrated": 1},
        {"accelerator": "no"},
        {"h2d_pageable_gbps": 0},
        {"cpu_contended_gbps": -3.0},
        {"sources": []},
        {"sources": {"gpu_gbps": ""}},
        {"title": " "},
    ],
)
def test_bad_figures_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change)).removesuffix("s")):
        replace(HardwareSpec.preset("l4"), **change)


def test_fixed_costs_and_uncertainty_may_be_zero() -> None:
    spec = replace(HardwareSpec.preset("l4"), gpu_launch_ns=0, cpu_call_ns=0, relative_error=0.0)
    assert spec.gpu_launch_ns == 0


def test_without_an_accelerator_there_is_no_memory_of_its_own() -> None:
    spec = replace(HardwareSpec.preset("l4"), accelerator=False, gpu_memory_bytes=0)
    assert not CostModel.of(ModelSpec.preset("mixtral-8x7b"), spec).overlap
    with pytest.raises(InputError, match="gpu_memory_bytes"):
        replace(spec, accelerator=True)


@pytest.mark.parametrize("name", NAMES)
def test_shares_assumed_for_every_preset(name: str) -> None:
    """Half of the link where memory is not pinned; less of both where both are busy."""
    spec = HardwareSpec.preset(name)
    assert spec.h2d_pageable_gbps == pytest.approx(spec.h2d_gbps / 2)
    assert spec.h2d_contended_gbps == pytest.approx(spec.h2d_gbps * 8.4 / 13, rel=1e-5)
    assert spec.cpu_contended_gbps == pytest.approx(spec.cpu_gbps * 22 / 30, rel=1e-5)


def test_files_of_the_first_version_are_completed(tmp_path: Path) -> None:
    """A copied preset, and what `save` wrote, without the figures that came later."""
    later = ("h2d_pageable_gbps", "h2d_contended_gbps", "cpu_contended_gbps")
    spec = HardwareSpec.preset("l4")
    content = json.loads((FOLDER / "l4.json").read_text(encoding="utf-8"))
    saved = spec.to_dict()
    for name in later:
        del content[name], saved[name], saved["sources"][name]
    del saved["accelerator"], saved["calibration"]
    for data in (content, saved):
        (tmp_path / "old.json").write_text(json.dumps(data), encoding="utf-8")
        old = HardwareSpec.load(tmp_path / "old.json")
        for name in FIGURES:
            assert getattr(old, name) == pytest.approx(getattr(spec, name), rel=1e-5)
        assert all("assumed" in old.sources[name].lower() for name in later)


def test_a_source_of_an_unknown_field_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'gpu_gbps'"):
        replace(HardwareSpec.preset("l4"), sources={"gpu_gbp": "datasheet"})


def test_reading_is_strict(tmp_path: Path) -> None:
    data = HardwareSpec.preset("l4").to_dict()
    with pytest.raises(InputError, match="unknown colour"):
        HardwareSpec.from_dict({**data, "colour": 1})
    del data["cpu_cores"]
    with pytest.raises(InputError, match="missing cpu_cores"):
        HardwareSpec.from_dict(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.json.*missing cpu_cores"):
        HardwareSpec.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b" " * (2**20 + 1), b'{"sources": {}}'],
)
def test_files_that_are_no_spec(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.json"):
        HardwareSpec.load(path)


@pytest.mark.parametrize("name", ["gpu_gbps", "gpu_memory_bytes"])
@pytest.mark.parametrize(
    "figure",
    [
        7,
        {"product": {}, "source": "x"},
        {"product": {"GB/s": "1008"}, "source": "x"},
        {"product": {"GB/s": 10**400}, "source": "x"},
        {"product": {"GB/s": 1e29, "more": 1e29}, "source": "x"},
        {"product": {str(term): 1e29 for term in range(20)}, "source": "x"},
        {"product": {"GB/s": 1008}, "source": ""},
        {"product": {"GB/s": 1008}},
    ],
)
def test_a_profile_whose_figure_is_not_a_product(tmp_path: Path, figure: Any, name: str) -> None:
    content = json.loads((FOLDER / "l4.json").read_text(encoding="utf-8"))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**content, name: figure}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"mine\.json.*{name}"):
        resolve_hardware(path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", str(tmp_path / "none.json"), tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            resolve_hardware(path)
    path = tmp_path / "made" / "x.json"
    HardwareSpec.preset("l4").save(path)
    assert HardwareSpec.load(path) == HardwareSpec.preset("l4")
    with pytest.raises(InputError, match="cannot write"):
        HardwareSpec.preset("l4").save(path / "below.json")


def test_unknown_names_list_the_presets() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'rtx-4090'\?.*quadro-rtx-6000"):
        resolve_hardware("rtx4090")
    with pytest.raises(UnknownNameError):
        resolve_hardware("")
    with pytest.raises(UnknownNameError):
        HardwareSpec.preset(np.array([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a preset's name"):
        resolve_hardware(None)  # type: ignore[arg-type]


def test_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        HardwareSpec.preset("l4").cpu_cores = 1  # type: ignore[misc]
