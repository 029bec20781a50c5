"""What a calibration measured: one model's costs as curves, and a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, cast

from engine.errors import InputError
from engine.latency import MOST, Curve
from engine.machine import Machine, require_text_map
from engine.model_spec import ModelSpec
from engine.strict import check_int, check_keys, check_number, check_text

_SHAPE = (
    "layers", "hidden", "expert_width", "expert_bytes", "expert_flops_per_token", "dense_bytes",
    "head_bytes", "kv_bytes_per_token",
)  # fmt: skip
"""Fields of a ModelSpec that its times depend on."""
_CURVES = ("cpu", "dense", "head")


@dataclass(frozen=True)
class Reading:
    """One line of a calibration's table."""

    what: str
    value: float
    unit: str
    residual: float
    """How far single measurements are from what was fitted, root mean square, as a fraction."""
    samples: int
    how: str
    """``measured``, ``modelled`` or ``assumed``, and from what."""

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read back what ``asdict`` gave; raises InputError."""
        given = check_keys("reading", values, [field.name for field in fields(cls)])
        for name in ("what", "unit", "how"):
            check_text(f"reading, {name}", given[name])
        for name in ("value", "residual"):
            check_number(f"reading, {name}", given[name], zero=True)
        check_int("reading, samples", given["samples"], least=0)
        return cls(**given)


@dataclass(frozen=True)
class DeviceCosts:
    """Times of one model's parts on a GPU and over its link, measured in its own steps."""

    gpu: Curve
    """One expert on the device, by token count."""
    dense: Curve
    """The dense part of a layer, with what the host takes to decide and to submit."""
    head: Curve
    to_host: Curve
    to_device: Curve
    """Activations over the link, by token count."""
    kv_ns: float
    """Reading one cached position in one layer."""
    copy_ns: int
    """One expert's weights, host to device."""
    copy_contended_ns: int
    """The same while the CPU runs experts."""
    cpu_contended: float
    """Share of its rate that the CPU keeps while weights are copied."""

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read back what ``asdict`` gave; raises InputError."""
        given: Any = check_keys("device costs", values, [field.name for field in fields(cls)])
        for name in ("gpu", "dense", "head", "to_host", "to_device"):
            given[name] = Curve.from_dict(f"device costs, {name}", given[name])
        for name in ("copy_ns", "copy_contended_ns"):
            check_int(f"device costs, {name}", given[name], least=0)
        for name in ("kv_ns", "cpu_contended", "copy_ns", "copy_contended_ns"):
            check_number(f"device costs, {name}", given[name], zero=True)
            if given[name] > MOST:
                raise InputError(f"device costs, {name}: {given[name]} is absurdly large.")
        return cls(**given)


@dataclass(frozen=True)
class ModelCosts:
    """Times of one model's parts on the CPU, measured in its own forward passes."""

    model: str
    """Its name; what counts is the shape."""
    shape: Mapping[str, int]
    """Figures of the ModelSpec that times depend on."""
    cpu: Curve
    """One expert, by token count."""
    dense: Curve
    """The dense part of a layer, without reading the KV cache."""
    head: Curve
    kv_ns: float
    """Reading one cached position in one layer."""
    relative_error: float
    """Of a predicted time: twice the fit's residual, or the drift while it was measured."""
    switch_tokens: int | None = None
    """Experts with more tokens are left to torch by the CPU kernels; None: none is."""
    device: DeviceCosts | None = None
    """The same beside a GPU, whose parts then count in place of the CPU's ``dense``, ``head`` and
    ``kv_ns``; None: it was measured on the CPU alone."""

    @classmethod
    def shape_of(cls, model: ModelSpec) -> dict[str, int]:
        """The figures of a spec that its times depend on."""
        return {name: getattr(model, name) for name in _SHAPE}

    def fits(self, model: ModelSpec) -> bool:
        """Whether these are times of that model."""
        return self.shape == self.shape_of(model)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read back what ``asdict`` gave; raises InputError."""
        if isinstance(values, Mapping):  # of files from before there was a switch, or a GPU
            values = {"switch_tokens": None, "device": None, **cast("Mapping[str, Any]", values)}
        given: Any = check_keys("model costs", values, [field.name for field in fields(cls)])
        check_text("model costs, model", given["model"])
        shape = check_keys("model costs, shape", given["shape"], _SHAPE)
        for name, value in shape.items():
            check_int(f"model costs, shape, {name}", value, least=0)
        for name in ("kv_ns", "relative_error"):
            check_number(f"model costs, {name}", given[name], zero=True)
            if given[name] > MOST:
                raise InputError(f"model costs, {name}: {given[name]} is absurdly large.")
        if given["switch_tokens"] is not None:
            check_int("model costs, switch_tokens", given["switch_tokens"], least=0)
        if given["device"] is not None:
            given["device"] = DeviceCosts.from_dict(given["device"])
        for name in _CURVES:
            given[name] = Curve.from_dict(f"model costs, {name}", given[name])
        return cls(**given)


@dataclass(frozen=True, repr=False)
class Calibration:
    """Where, when and with what a machine was measured, and what came out."""

    machine: Machine
    versions: Mapping[str, str]
    date: str
    """ISO 8601, UTC."""
    seconds: float
    """How long it took."""
    drift: float
    """Spread of the same work's time while it was measured, as a fraction (half the range)."""
    models: tuple[ModelCosts, ...]
    readings: tuple[Reading, ...]

    def __repr__(self) -> str:
        names = ", ".join(model.model for model in self.models) or "no model"
        head = f"measured {self.date} in {self.seconds:.0f} s on {self.machine} ({names})"
        lines = [f"{'':32}{'':>14}  {'residual':>8} {'samples':>8}"]
        for row in self.readings:
            value = f"{row.value:.4g} {row.unit}"
            residual = f"{row.residual:.1%}" if row.samples else ""
            samples = str(row.samples) if row.samples else ""
            lines.append(f"{row.what:32}{value:>14}  {residual:>8} {samples:>8}  {row.how}")
        drift = f"the same work took {self.drift:.1%} more or less at times"
        return "\n".join([head, *lines, drift])

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read back what ``asdict`` gave; raises InputError."""
        given = check_keys("calibration", values, [field.name for field in fields(cls)])
        check_text("calibration, date", given["date"])
        for name in ("seconds", "drift"):
            check_number(f"calibration, {name}", given[name], zero=True)
        for name in ("models", "readings"):
            if not isinstance(given[name], list | tuple):
                raise InputError(f"calibration, {name}: expected a list.")
        return cls(
            machine=Machine.from_dict(given["machine"]),
            versions=require_text_map("calibration, versions", given["versions"]),
            date=given["date"],
            seconds=given["seconds"],
            drift=given["drift"],
            models=tuple(ModelCosts.from_dict(entry) for entry in given["models"]),
            readings=tuple(Reading.from_dict(entry) for entry in given["readings"]),
        )
