"""Notebooks stay small: no widget state, no embedded JavaScript."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 1_000_000
NOTEBOOKS = sorted(
    path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_small_and_without_widget_state(path: Path) -> None:
    size_bytes = path.stat().st_size
    assert size_bytes <= LIMIT_BYTES, f"{path.name} is {size_bytes:,} bytes: clear its outputs"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"], (
        f"{path.name} has saved widget state; remove metadata.widgets"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_names_the_common_kernel(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    kernel = notebook["metadata"].get("kernelspec", {}).get("name")
    assert kernel == "python3", f"{path.name} asks for the kernel {kernel!r}, expected 'python3'"
