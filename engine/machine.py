"""Which machine this is, as far as measured times depend on it. Nothing here needs torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, cast

from engine.errors import InputError
from engine.strict import check_int, check_keys, check_text

NO_GPU = "none"
_CGROUP = Path("/sys/fs/cgroup")
_DROPPED = ("inactive_file", "active_file", "slab_reclaimable")
"""What a container holds of files, such as a checkpoint that was read twice, and the kernel drops
before anyone goes without."""


@dataclass(frozen=True)
class Machine:
    """A fingerprint: times measured on one are not those of another."""

    cpu: str
    cores: int
    """Cores this process may use."""
    gpu: str
    """Name of the first NVIDIA GPU, or ``none``."""
    torch: str
    """Version of torch, whose kernels were timed."""

    def __str__(self) -> str:
        gpu = "no GPU" if self.gpu == NO_GPU else self.gpu
        return f"{self.cores} x {self.cpu}, {gpu}, torch {self.torch}"

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read back what ``asdict`` gave; raises InputError."""
        given = check_keys("machine", values, [field.name for field in fields(cls)])
        check_int("machine, cores", given["cores"], least=1)
        for name in ("cpu", "gpu", "torch"):
            check_text(f"machine, {name}", given[name])
        return cls(**given)

    def unlike(self, other: Machine) -> list[str]:
        """Names of what differs."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name, value in mine.items() if theirs[name] != value]


def this_machine() -> Machine:
    """The machine this runs on."""
    return Machine(_cpu(), _cores(), _gpu(), _version("torch"))


def free_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = _CGROUP) -> int | None:
    """Host memory that this process can still take without swapping; None where nobody says.

    What the kernel counts as available, less where the container's limit (cgroup v2) is nearer.
    Elsewhere than on Linux all the memory there is.
    """
    words = _field(proc / "meminfo", "MemAvailable").split()
    if not words or not words[0].isdecimal():
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    free = int(words[0]) * 1024  # "123 kB"
    try:
        most = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        stat = dict(map(str.split, (cgroup / "memory.stat").read_text().splitlines()))
        cached = sum(int(stat[name]) for name in _DROPPED)
    except (OSError, ValueError, KeyError):  # no such limit ("max"), or another kind of system
        return free
    return max(min(free, most - used + cached), 0)


def versions() -> Mapping[str, str]:
    """Versions of what else was in play, for a record."""
    return {
        "python": platform.python_version(),
        "transformers": _version("transformers"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    return (
        _field(Path("/proc/cpuinfo"), "model name")
        or platform.processor()
        or platform.machine()
        or "unknown"
    )


def _gpu() -> str:
    """As the Linux driver lists it, so that it is known without loading torch."""
    listed = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return (_field(listed[0], "Model") if listed else "") or NO_GPU


def _field(path: Path, name: str) -> str:
    """The first ``name : value`` in a file of the system; empty where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return " ".join(value.split())
    except OSError:
        return ""
    return ""


def require_text_map(what: str, values: Any) -> dict[str, str]:
    """A dict of texts by name, or InputError."""
    if not isinstance(values, dict):
        raise InputError(f"{what}: expected texts by name, got {type(values).__name__}.")
    for key, text in cast("dict[object, object]", values).items():
        check_text(f"{what}, {key}", text)
    return cast("dict[str, str]", values)
