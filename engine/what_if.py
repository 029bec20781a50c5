"""What if a machine had another link, other memory or other cores: its figures, as they follow.

Which of a profile's figures go with a change, and how:

- ``link_gbps``, the effective rate of a pinned copy to the device: the link's other rates (back,
  unpinned, beside a busy CPU) keep their shares of it. Its latency stays.
- ``cpu_gbps``, the effective rate of reading expert weights from host memory: the rate beside
  copies keeps its share of it.
- ``cpu_cores``: an expert's time on the CPU is a fixed cost, reading its weights, and arithmetic.
  *Arithmetic* goes with the cores: so many times the cores, so many times the operations per
  second. *Reading* does not: memory has one rate for all cores, which few of them use up. It stays
  the profile's rate as long as the cores can draw it, at :data:`CORE_GBPS` each (or what each of
  the profile's own cores draws, where that is more); below that it falls with them. More cores
  than the profile has never read faster than it does: what its memory has left is not known. The
  fixed cost stays.

All of this is assumed, none of it measured: a what-if is never calibrated, and at least as
uncertain as what it starts from, and as a datasheet's figures are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.strict import check_int, check_number, plain

if TYPE_CHECKING:
    from engine.hardware_spec import HardwareSpec

CORE_GBPS = 12.0
"""What one core can draw from memory, in GB/s: some 16 lines of 64 bytes under way at a time, each
some 85 ns (Little's law). Assumed, and low for desktops, whose memory answers sooner."""

RATES: Mapping[str, tuple[str, ...]] = {
    "link_gbps": ("h2d_gbps", "h2d_pageable_gbps", "h2d_contended_gbps", "d2h_gbps"),
    "cpu_gbps": ("cpu_gbps", "cpu_contended_gbps"),
}
"""What can be asked, and the figures that go with each: the first as given, others in step."""
LEAST_GBPS, MOST_GBPS = 1e-3, 1e6
"""Rates that can be asked for; below, times would soon not fit in 64 bits."""
WORDS: Mapping[str, str] = {
    "link_gbps": "link {:.3g} GB/s",
    "cpu_gbps": "CPU memory {:.3g} GB/s",
    "cpu_cores": "{:.0f} CPU cores",
}
"""What can be asked, in words."""


def check_asked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, numpy's numbers as Python's own.

    Raises InputError for numbers that are none, or below what there can be.
    """
    found = {name: plain(value) for name, value in asked.items()}
    for name, value in found.items():
        if name == "cpu_cores":
            check_int(f"what if, {name}", value, least=1)
        else:
            check_number(f"what if, {name}", value)
            if not LEAST_GBPS <= value <= MOST_GBPS:
                raise InputError(
                    f"what if, {name}: expected {LEAST_GBPS:g} to {MOST_GBPS:g} GB/s, got {value!r}"
                )
    return found


def own(hardware: HardwareSpec, name: str) -> float:
    """What a machine itself has of something that can be asked: GB/s, or cores."""
    return float(getattr(hardware, RATES[name][0] if name in RATES else name))


def words(asked: Mapping[str, float]) -> str:
    """``link 50 GB/s, 32 CPU cores``."""
    return ", ".join(WORDS[name].format(asked[name]) for name in WORDS if name in asked)


def figures(hardware: HardwareSpec, asked: Mapping[str, float]) -> dict[str, Any]:
    """The fields of a machine that change with what was asked, with their new values."""
    values: dict[str, Any] = {}
    for name, fields in RATES.items():
        if name in asked:
            scale = asked[name] / getattr(hardware, fields[0])
            values |= {field: getattr(hardware, field) * scale for field in fields}
            values[fields[0]] = asked[name]
    if "cpu_cores" in asked:
        cores = int(asked["cpu_cores"])
        values["cpu_cores"] = cores
        values["cpu_tflops"] = hardware.cpu_tflops * cores / hardware.cpu_cores
        if "cpu_gbps" not in asked:
            each = max(CORE_GBPS, hardware.cpu_gbps / hardware.cpu_cores)
            share = min(1.0, cores * each / hardware.cpu_gbps)
            for field in RATES["cpu_gbps"]:
                values[field] = getattr(hardware, field) * share
    return values


def sources(hardware: HardwareSpec, values: Mapping[str, Any]) -> dict[str, str]:
    """Where each changed figure comes from, in words."""
    return {
        name: f"What if: {value:.6g} in place of {getattr(hardware, name):.6g}; assumed."
        for name, value in values.items()
    }


def refuse_no_link(hardware: HardwareSpec, asked: Mapping[str, float]) -> None:
    """Raise InputError for a link where there is no accelerator to be linked."""
    if "link_gbps" in asked and not hardware.accelerator:
        raise InputError(
            f"what if, link_gbps: hardware {hardware.name!r} has no accelerator, so nothing is "
            "copied; give hardware= one that has"
        )
