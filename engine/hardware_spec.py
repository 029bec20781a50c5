"""What a machine can do: memory, effective bandwidths, operations per second, fixed costs.

A preset is a JSON file in `data/hardware/`. Each figure in it is a product of stated numbers (the
datasheet's value, an efficiency, ...) with a source, so the effective figure can be audited:

    "gpu_gbps": {"product": {"GB/s": 1008, "efficiency": 0.85}, "source": "datasheet; ..."}

The same efficiencies serve every profile, and none was fitted to a result: link 0.8 of its raw
rate, GPU memory 0.85, GPU operations 0.6, CPU operations 0.5, CPU memory 0.7 (the paper's two
machines: what the authors' own microbenchmark shows). The files say what is assumed.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from engine.destination import writing
from engine.errors import InputError, unknown_name
from engine.hardware_file import completed, derived
from engine.machine import Machine, this_machine
from engine.measured import Calibration, ModelCosts
from engine.model_spec import ModelSpec
from engine.strict import check_int, check_keys, check_name, check_number, check_text, read_json
from engine.units import format_bytes
from engine.what_if import WORDS, check_asked, figures, own, refuse_no_link, sources, words

_FOLDER = Path(__file__).parent / "data" / "hardware"
_WORDS = (
    "name", "title", "calibrated", "sources", "accelerator", "calibration", "changed", "original",
)  # fmt: skip
UNCALIBRATED = "uncalibrated"
UNCALIBRATED_ERROR = 0.3
"""Uncertainty assumed where nothing was measured on the machine at hand, as in the presets."""


@dataclass(frozen=True, repr=False)
class HardwareSpec:
    """A GPU, the link to it and the CPU beside it, as the cost model sees them. Immutable.

    Bandwidths are effective (what a well-written kernel or a pinned copy reaches), in 1e9 bytes/s;
    operations effective, in 1e12 per second. Raises InputError where a figure is out of range.
    """

    name: str
    title: str
    """For people: the GPU, the cores and the CPU."""
    gpu_memory_bytes: int
    gpu_gbps: float
    """Effective bandwidth of streaming weights from device memory."""
    gpu_tflops: float
    """Effective 16-bit operations."""
    gpu_launch_ns: int
    """Fixed cost of one expert call on the GPU."""
    gpu_layer_ns: int
    """Fixed cost of one layer's dense work on the GPU: attention, router, norms."""
    h2d_gbps: float
    """Effective rate of a pinned copy from host to device."""
    d2h_gbps: float
    """Effective rate of a pinned copy from device to host."""
    h2d_pageable_gbps: float
    """Effective rate of a copy from host memory that is not pinned."""
    h2d_contended_gbps: float
    """Effective rate of a pinned copy to the device while the CPU runs experts."""
    link_latency_ns: int
    """Fixed cost of one copy."""
    cpu_cores: int
    cpu_gbps: float
    """Effective bandwidth of streaming expert weights from host memory."""
    cpu_contended_gbps: float
    """The same while weights are copied to the device."""
    cpu_tflops: float
    """Effective operations of an expert kernel on the CPU."""
    cpu_call_ns: int
    """Fixed cost of one expert call on the CPU."""
    relative_error: float
    """Stated uncertainty of a time predicted from this profile: 0.3 = plus or minus 30%."""
    calibrated: bool
    """Whether the figures were measured on this machine rather than read from datasheets."""
    sources: dict[str, str] = field(hash=False)
    """Where each figure comes from, by field: datasheet, paper, measured, assumed, arithmetic."""
    accelerator: bool = True
    """False where there is no GPU: the GPU's figures are then those of the CPU itself, which does
    one thing after the other, and ``gpu_memory_bytes`` is 0."""
    calibration: Calibration | None = field(default=None, hash=False)
    """What :func:`engine.calibrate.calibrate` measured, where and when."""
    changed: dict[str, float] = field(default_factory=dict[str, float], hash=False)
    """Of a what-if: what was asked, by name (:meth:`what_if`); empty where nothing was."""
    original: HardwareSpec | None = field(default=None, hash=False)
    """Of a what-if: the machine that it starts from."""

    def __post_init__(self) -> None:
        what = f"hardware spec {self.name!r}"
        check_text(f"{what}, name", self.name)
        check_text(f"{what}, title", self.title)
        for name in _figures():
            value = getattr(self, name)
            if name in _integers():
                none = name.endswith("_ns") or (name == "gpu_memory_bytes" and not self.accelerator)
                check_int(f"{what}, {name}", value, least=0 if none else 1)
            else:
                check_number(f"{what}, {name}", value, zero=name == "relative_error")
        for name in ("calibrated", "accelerator"):
            if type(getattr(self, name)) is not bool:
                got = getattr(self, name)
                raise InputError(f"{what}, {name}: expected true or false, got {got!r}.")
        _check_sources(what, self.sources)
        _check_changed(what, self.changed, self.original)

    def check_budget(self, gpu_memory: object) -> None:
        """Raise InputError where no budget is given and there is no GPU whose memory it could be.

        ``gpu_memory`` is the argument of that name: None where it was left out.
        """
        if gpu_memory is None and not self.accelerator:
            raise InputError(
                f"hardware {self.name!r} has no GPU whose memory could be the budget: give "
                "gpu_memory= as well, for what a GPU's memory of that size would change; or load "
                "without device, policy, planner, cache_slots and as_model, to run on the CPU"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HardwareSpec:
        """The spec of `to_dict`. Raises InputError on unknown, missing or bad entries."""
        given = check_keys("hardware spec", data, [entry.name for entry in fields(cls)])
        if given["calibration"] is not None:
            given["calibration"] = Calibration.from_dict(given["calibration"])
        if given["original"] is not None:
            check_keys("hardware spec, original", given["original"], given)
            if given["original"]["original"] is not None:
                raise InputError("hardware spec, original: expected a machine, got a what-if.")
            given["original"] = cls.from_dict(given["original"])
        return cls(**given)

    @classmethod
    def load(cls, path: str | Path) -> HardwareSpec:
        """A spec from a JSON file: one that `save` wrote, or one shaped like a preset's.

        One that was measured on another machine comes as `here` says: uncalibrated.

        Raises InputError where there is no such file or its content is not such a spec.
        """
        data = read_json("hardware spec", path)
        try:
            if isinstance(data, Mapping) and "sources" not in data:
                return cls(**derived(cast("Mapping[str, Any]", data), _figures(), _integers()))
            return cls.from_dict(completed(cast("Any", data))).here()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the spec as JSON, to be read by `load`; makes its folder.

        Raises InputError where it cannot be written.
        """
        with writing(path) as prepared:
            content = json.dumps(self.to_dict(), indent=2) + "\n"
            prepared.write_text(content, encoding="utf-8")

    def here(self, machine: Machine | None = None) -> HardwareSpec:
        """The spec as it holds on this machine (or the one given).

        Times measured on other hardware, or with another torch, are no calibration here: then it
        says so in its title, and its uncertainty is at least that of a datasheet's figures.
        """
        if not self.calibrated:
            return self
        record = self.calibration
        differs = ["nothing recorded"] if record is None else []
        if record is not None:
            differs = record.machine.unlike(machine or this_machine())
        if not differs:
            return self
        return replace(
            self,
            calibrated=False,
            title=f"{self.title} ({UNCALIBRATED} here: other {', '.join(differs)})"
            if record is not None
            else f"{self.title} ({UNCALIBRATED}: no record of the measurement)",
            relative_error=max(self.relative_error, UNCALIBRATED_ERROR),
        )

    def what_if(
        self,
        *,
        link_gbps: float | None = None,
        cpu_gbps: float | None = None,
        cpu_cores: int | None = None,
        model: ModelSpec | None = None,
    ) -> HardwareSpec:
        """The same machine with another link, memory or number of cores; its title says so.

        What goes with what is in :mod:`engine.what_if`. Of a what-if: the machine it started from
        with what was asked of it before, and this; a figure asked as it is there is none. What
        comes back is not calibrated. ``model``: whose costs are wanted.

        Raises InputError for numbers that are none, for a link where there is no accelerator, and
        for the CPU of a machine that measured this very ``model``.
        """
        given = {"link_gbps": link_gbps, "cpu_gbps": cpu_gbps, "cpu_cores": cpu_cores}
        asked = {name: value for name, value in given.items() if value is not None}
        start = self.original or self
        asked = self.changed | check_asked(asked)
        asked = {name: value for name, value in asked.items() if value != own(start, name)}
        if not asked:
            return start
        refuse_no_link(start, asked)
        on_cpu = asked.keys() & {"cpu_gbps", "cpu_cores"}
        if on_cpu and model is not None and start.costs_of(model) is not None:
            raise InputError(
                f"what if: the CPU's times in hardware {start.name!r} were measured with this "
                "model, so they do not follow from cpu_gbps or cpu_cores; give hardware= a preset"
            )
        known = None if model is None else start.costs_of(model)
        if "link_gbps" in asked and known is not None and known.device is not None:
            raise InputError(
                f"what if: the link's times in hardware {start.name!r} were measured with this "
                "model, so they do not follow from link_gbps; give hardware= a preset"
            )
        values = figures(start, asked)
        return replace(
            start,
            **values,
            name=f"{start.name} ({words(asked)})",
            title=f"{start.title}, what if: {words(asked)}",
            calibrated=False,
            relative_error=max(start.relative_error, UNCALIBRATED_ERROR),
            sources=start.sources | sources(start, values),
            calibration=None if on_cpu else start.calibration,
            changed=asked,
            original=start,
        )

    def costs_of(self, model: ModelSpec) -> ModelCosts | None:
        """What the calibration measured of this very model; None where it did not."""
        known = () if self.calibration is None else self.calibration.models
        return next((costs for costs in known if costs.fits(model)), None)

    @classmethod
    def preset(cls, name: str) -> HardwareSpec:
        """A machine that comes with the library. Raises UnknownNameError, which lists them."""
        check_name("hardware", name, cls.presets())
        return cls.load(_FOLDER / f"{name}.json")

    @classmethod
    def presets(cls) -> list[str]:
        """Names of the machines that come with the library, sorted."""
        return sorted(path.stem for path in _FOLDER.glob("*.json"))

    def __repr__(self) -> str:
        gpu = (
            f"{format_bytes(self.gpu_memory_bytes)} at {self.gpu_gbps:.4g} GB/s, "
            f"link {self.h2d_gbps:.3g} GB/s, "
            if self.accelerator
            else "no GPU, "
        )
        state = ""
        if self.calibrated:
            when = f" {self.calibration.date[:10]}" if self.calibration is not None else ""
            state = f", calibrated{when}"
        elif self.calibration is not None:
            state = f", {UNCALIBRATED}"
        return f"HardwareSpec({self.name!r}: {gpu}CPU {self.cpu_gbps:.3g} GB/s{state})"


def resolve_hardware(value: str | Path | HardwareSpec) -> HardwareSpec:
    """A spec from a preset's name, the path of a JSON file, or the spec itself.

    A string that ends in ".json" or holds a path separator is a path. Raises UnknownNameError
    (lists the presets) for another string that is no preset, InputError where a file is bad.
    """
    if isinstance(value, HardwareSpec):
        return value
    if isinstance(value, Path):
        return HardwareSpec.load(value)
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            "hardware: expected a preset's name, the path of a JSON file or a HardwareSpec, "
            f"got {type(value).__name__}."
        )
    if value.endswith(".json") or "/" in value or "\\" in value:
        return HardwareSpec.load(value)
    return HardwareSpec.preset(value)


def _figures() -> list[str]:
    return [entry.name for entry in fields(HardwareSpec) if entry.name not in _WORDS]


def _integers() -> list[str]:
    return [entry.name for entry in fields(HardwareSpec) if entry.type == "int"]


def _check_sources(what: str, sources: object) -> None:
    known = [entry.name for entry in fields(HardwareSpec)]
    if not isinstance(sources, dict):
        raise InputError(f"{what}, sources: expected texts by field, got {reprlib.repr(sources)}.")
    for key, text in cast("dict[object, object]", sources).items():
        if key not in known:
            raise unknown_name(f"field in the sources of {what}", key, known)
        check_text(f"{what}, source of {key}", text)


def _check_changed(what: str, changed: object, original: object) -> None:
    known = cast("dict[Any, Any]", changed)
    if not isinstance(changed, dict) or (original is None) is bool(known):
        raise InputError(f"{what}: what was changed and the original go together.")
    for name in known:
        if name not in WORDS:
            raise unknown_name(f"what-if of {what}", name, WORDS)
    check_asked(known)
