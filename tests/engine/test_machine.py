"""The fingerprint of a machine, and reading it back."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from engine import machine
from engine.errors import InputError
from engine.machine import Machine, free_memory_bytes, this_machine, versions

HERE = Machine("Some CPU", 8, "none", "2.13.0")


def test_this_machine_is_known_and_stays_the_same() -> None:
    here = this_machine()
    assert here.cpu and here.cores >= 1 and here.torch[0].isdigit()
    assert here == this_machine() and not here.unlike(this_machine())
    assert f"{here.cores} x {here.cpu}" in str(here)
    assert set(versions()) == {"python", "transformers", "system"}


@pytest.mark.parametrize(
    "change", [{"cpu": "Other"}, {"cores": 9}, {"gpu": "NVIDIA L4"}, {"torch": "2.12.0"}]
)
def test_what_differs_is_named(change: dict[str, Any]) -> None:
    assert HERE.unlike(replace(HERE, **change)) == list(change)


def test_the_first_field_of_that_name(tmp_path: Path) -> None:
    listed = tmp_path / "information"
    listed.write_text("Model: \t\t NVIDIA L4\nIRQ: 5\nModel: other\n", encoding="utf-8")
    assert machine._field(listed, "Model") == "NVIDIA L4"
    assert machine._field(listed, "Colour") == ""
    assert machine._field(tmp_path / "none", "Model") == ""


def test_round_trip() -> None:
    assert Machine.from_dict(asdict(HERE)) == HERE


@pytest.mark.parametrize(
    "values",
    [None, {}, {**asdict(HERE), "cores": 0}, {**asdict(HERE), "cpu": ""}, {**asdict(HERE), "x": 1}],
)
def test_unsound_values_are_refused(values: Any) -> None:
    with pytest.raises(InputError, match="machine"):
        Machine.from_dict(values)


def test_free_memory_is_what_the_kernel_and_the_container_leave(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 24000 kB\nMemAvailable:   2000 kB\n")
    free = 2000 * 1024
    assert free_memory_bytes(tmp_path, tmp_path / "none") == free
    for most, left in (("max", free), (str(1 << 40), free), ("1500000", 800_000), ("9", 0)):
        (tmp_path / "memory.max").write_text(f"{most}\n")
        (tmp_path / "memory.current").write_text("1000000\n")
        (tmp_path / "memory.stat").write_text(
            "anon 700000\ninactive_file 150000\nactive_file 100000\nslab_reclaimable 50000\n"
        )
        assert free_memory_bytes(tmp_path, tmp_path) == left
    (tmp_path / "memory.stat").write_text("odd\n")
    assert free_memory_bytes(tmp_path, tmp_path) == free


def test_free_memory_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (free_memory_bytes(tmp_path) or 0) > 10**8  # not Linux: all there is
    assert 0 < (free_memory_bytes() or 0) <= (free_memory_bytes(tmp_path) or 0)
    monkeypatch.setattr(machine.os, "sysconf", lambda _: (_ for _ in ()).throw(ValueError))
    assert free_memory_bytes(tmp_path) is None
