"""Crossover: from how many tokens on copying a missing expert beats running it on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from engine.cost import TABLE_TOKENS, CostModel
from engine.hardware_spec import HardwareSpec
from engine.model_spec import ModelSpec
from engine.strict import whole

Ints = NDArray[np.int64]
_POINTS = 97
"""Token counts at which the lines are drawn, evenly spaced on a logarithmic axis."""
_READING = re.compile(r"CPU expert, (\d+) tokens")


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
    """What-ifs by name: ``link_gbps``, ``cpu_gbps``, ``cpu_cores`` (:mod:`engine.what_if`)."""
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
    most_tokens = whole("crossover, most_tokens", most_tokens, least=2)
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
