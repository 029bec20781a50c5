"""Crossover: from how many tokens on copying a missing expert beats running it on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from engine.cost import TABLE_TOKENS, CostModel
from engine.errors import InputError
from engine.hardware_spec import UNCALIBRATED_ERROR, HardwareSpec
from engine.model_spec import ModelSpec
from engine.strict import check_int, check_number

Ints = NDArray[np.int64]
_POINTS = 97
"""Token counts at which the lines are drawn, evenly spaced on a logarithmic axis."""
_READING = re.compile(r"CPU expert, (\d+) tokens")
_RATES = {
    "link_gbps": ("h2d_gbps", "h2d_pageable_gbps", "h2d_contended_gbps", "d2h_gbps"),
    "cpu_gbps": ("cpu_gbps", "cpu_contended_gbps"),
}
"""What-ifs, and the figures of a spec that go with each: the first as given, others in step."""


@dataclass(frozen=True)
class Measured:
    """A point of the CPU's line as a calibration fitted it to its measurements."""

    tokens: int
    ns: float
    residual: float = 0.0
    """How far single measurements are from that, root mean square, as a fraction; 0: not known."""
    samples: int = 0
    """Measurements that went into it; 0: not known."""


@dataclass(frozen=True)
class Crossover:
    """Time of one expert on each way, by token count; arrays of equal length."""

    tokens: Ints
    """Ascending, from 1."""
    resident_ns: Ints
    """On the device, weights there."""
    stream_ns: Ints
    """Weights copied to the device, then run there."""
    cpu_ns: Ints
    """On the CPU: activations there, run, results back."""
    copy_ns: int
    """The part of ``stream_ns`` that is the copy."""
    break_even: int | None
    """Smallest token count at which copying wins; None: at none up to :data:`TABLE_TOKENS`."""
    earliest: int | None
    """The same with the copy as much quicker and the CPU as much slower as is stated."""
    latest: int | None
    """The same the other way round; None: perhaps never."""
    relative_error: float
    """Of every time: 0.3 means within 30% either way."""
    calibrated: bool
    """Whether the costs were measured on this machine."""
    accelerator: bool
    """False where there is none, so that nothing is copied and only the CPU's line counts."""
    expert_bytes: int
    model: str = "the model"
    machine: str = "the machine"
    """In words."""
    changed: Mapping[str, float] = field(default_factory=dict[str, float])
    """What-ifs by name: ``link_gbps``, ``cpu_gbps``, ``cpu_cores``."""
    measured: tuple[Measured, ...] = ()
    """Empty unless the CPU's line was measured with this model."""

    @property
    def largest(self) -> int:
        """Largest token count of the lines."""
        return int(self.tokens[-1])


def crossover(
    costs: CostModel,
    *,
    most_tokens: int = TABLE_TOKENS,
    model: str = "the model",
    machine: str = "the machine",
    changed: Mapping[str, float] | None = None,
    measured: tuple[Measured, ...] | None = None,
) -> Crossover:
    """The three lines of a cost model for 1 to ``most_tokens`` tokens, and where two of them cross.

    ``measured``: of :func:`measured_points`, without the activations' way; None: the points that
    the CPU's curve itself holds. Costs a few passes over 4,096 numbers: a slider can ask anew.
    Raises InputError unless ``most_tokens`` is a whole number of at least 2.
    """
    check_int("crossover, most_tokens", most_tokens, least=2)
    error = min(costs.relative_error, 1.0)
    every = np.arange(1, TABLE_TOKENS + 1)
    on_cpu, copied = _cpu(costs, every), costs.copy_ns + costs.gpu.array(every)
    break_even = _first(every, on_cpu > copied)
    spaced = np.geomspace(1, most_tokens, _POINTS).round().astype(np.int64)
    tokens = np.unique(np.append(spaced, break_even or 1))
    tokens = tokens[tokens <= most_tokens]
    if measured is None:
        measured = tuple(Measured(round(at), ns) for at, ns in costs.cpu.points)
    crossing = costs.to_host, costs.to_device
    return Crossover(
        tokens=tokens,
        resident_ns=costs.gpu.array(tokens),
        stream_ns=costs.copy_ns + costs.gpu.array(tokens),
        cpu_ns=_cpu(costs, tokens),
        copy_ns=costs.copy_ns,
        break_even=break_even,
        earliest=_first(every, on_cpu * (1 + error) > copied * (1 - error)),
        latest=_first(every, on_cpu * (1 - error) > copied * (1 + error)),
        relative_error=costs.relative_error,
        calibrated=costs.calibrated,
        accelerator=costs.overlap,
        expert_bytes=costs.expert_bytes,
        model=model,
        machine=machine,
        changed=changed or {},
        measured=tuple(
            replace(point, ns=point.ns + sum(way(point.tokens) for way in crossing))
            for point in measured
            if 1 <= point.tokens <= most_tokens
        ),
    )


def _cpu(costs: CostModel, tokens: Ints) -> Ints:
    return costs.to_host.array(tokens) + costs.cpu.array(tokens) + costs.to_device.array(tokens)


def _first(tokens: Ints, wins: NDArray[np.bool_]) -> int | None:
    return int(tokens[np.argmax(wins)]) if wins.any() else None


def measured_points(hardware: HardwareSpec, model: ModelSpec) -> tuple[Measured, ...]:
    """What a profile's calibration told of one expert of this very model on the CPU."""
    if hardware.calibration is None or hardware.costs_of(model) is None:
        return ()
    found: list[Measured] = []
    for reading in hardware.calibration.readings:
        if reading.unit == "ms" and (match := _READING.fullmatch(reading.what)):
            found.append(
                Measured(int(match[1]), reading.value * 1e6, reading.residual, reading.samples)
            )
    return tuple(found)


def what_if(
    hardware: HardwareSpec,
    model: ModelSpec,
    *,
    link_gbps: float | None = None,
    cpu_gbps: float | None = None,
    cpu_cores: int | None = None,
) -> tuple[HardwareSpec, Mapping[str, float]]:
    """A machine with another link or CPU, and what was changed by name.

    ``link_gbps``: effective rate of a pinned copy; the link's other rates keep their shares of it.
    ``cpu_gbps``: effective rate of reading expert weights from host memory. ``cpu_cores``: the
    CPU's operations per second go with them, as in the profiles; the rate of its memory does not.
    What comes back is no longer calibrated. Raises InputError for numbers that are none, for a link
    where there is no accelerator, and for a CPU whose times were measured with this model.
    """
    given = {"link_gbps": link_gbps, "cpu_gbps": cpu_gbps, "cpu_cores": cpu_cores}
    changed = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return hardware, {}
    for name, value in changed.items():
        if name == "cpu_cores":
            check_int(f"crossover, {name}", value, least=1)
        else:
            check_number(f"crossover, {name}", value)
    if not hardware.accelerator and link_gbps is not None:
        raise InputError(
            f"crossover, link_gbps: hardware {hardware.name!r} has no accelerator, so nothing is "
            "copied; give hardware= one that has"
        )
    if hardware.costs_of(model) is not None and (cpu_gbps is not None or cpu_cores is not None):
        raise InputError(
            f"crossover: the CPU's times in hardware {hardware.name!r} were measured with this "
            "model, so they do not follow from cpu_gbps or cpu_cores; give hardware= a preset"
        )
    values: dict[str, float] = {}
    for name, fields in _RATES.items():
        if name in changed:
            scale = changed[name] / getattr(hardware, fields[0])
            values |= {field: getattr(hardware, field) * scale for field in fields}
            values[fields[0]] = changed[name]
    if cpu_cores is not None:
        values["cpu_tflops"] = hardware.cpu_tflops * cpu_cores / hardware.cpu_cores
    cores = hardware.cpu_cores if cpu_cores is None else cpu_cores
    error = max(hardware.relative_error, UNCALIBRATED_ERROR)
    made = replace(
        hardware, calibrated=False, relative_error=error, **(values | {"cpu_cores": cores})
    )
    return made, changed
