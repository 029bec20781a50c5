"""Which CPU cores this process may use, one number for each physical one."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores(topology: Path = _TOPOLOGY) -> list[int]:
    """Numbers of CPUs this process may use, the first of each physical core; without a system's
    description each counts as one."""
    if hasattr(os, "sched_getaffinity"):
        usable = sorted(os.sched_getaffinity(0))
    else:
        usable = list(range(os.cpu_count() or 1))
    seen: set[str] = set()
    found: list[int] = []
    for cpu in usable:
        core = _siblings(topology / f"cpu{cpu}" / "topology") or str(cpu)
        if core not in seen:
            seen.add(core)
            found.append(cpu)
    return found


def _siblings(folder: Path) -> str:
    """Text that CPUs of the same core share; empty where the system does not say."""
    for name in ("core_cpus_list", "thread_siblings_list"):
        try:
            return (folder / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
    return ""
