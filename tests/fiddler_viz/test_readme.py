"""The README's steps, run one after the other as they stand."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fiddler_viz as fv
from engine import bandwidth
from tests.engine.test_calibrate import RATES

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_steps_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only calibration, which takes 12 s and gigabytes, is cut short, and has a small model."""
    steps = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bandwidth, "measure", lambda probe: RATES)
    short = partial(fv.calibrate, model="demo", seconds=0.01, progress=False)
    monkeypatch.setattr(fv, "calibrate", short)
    names: dict[str, Any] = {}
    for block in steps:
        exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.safetensors", "run.json", "run.html", "this.json",
    }  # fmt: skip
    here = fv.load("demo", hardware="this.json")
    run = here.generate("To be", 4)
    assert here.device.name == "host" and run.summary.clock == "measured"
    fv.Explorer(here).close()


def test_every_function_has_its_line() -> None:
    (block, *_) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    functions = {name for name in fv.__all__ if name.islower()}
    assert functions <= set(re.findall(r"\bfv\.(\w+)\(", block))
