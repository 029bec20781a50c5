"""Fixtures that many tests share, and the settings every test runs under."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tools.browser import chromium_path

# Before anything imports transformers: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Matrices here are too small to share: on a busy machine two threads are far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
CLOCKED = {
    "test_beside",
    "test_detail_view",
    "test_explorer",
    "test_interplay",
    "test_light",
    "test_live_frame",
    "test_live_page",
    "test_pin_controls",
    "test_planners",
    "test_player",
    "test_pump",
    "test_stream_pace",
}
"""Files whose threads race a clock, as all of tests/browser: nothing runs beside them."""

# Two slow cores, sometimes shared: a time limit per example would only be flaky. In CI,
# hypothesis' own profile `ci` is on by itself and makes the examples reproducible.
if not os.environ.get("CI"):
    settings.register_profile("local", deadline=None)
    settings.load_profile("local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where no NVIDIA driver is installed (asked without torch)."""
    if shutil.which("nvidia-smi"):
        return
    skip = pytest.mark.skip(reason="no NVIDIA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes one runs all that races a clock, then each takes a file at a time."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.clocked_first import ClockedFirst

    return ClockedFirst(config, log, CLOCKED)


@pytest.fixture(scope="session", autouse=True)
def _only_marked_tests_use_a_gpu() -> Iterator[None]:
    """`device="auto"` finds no GPU in tests: those marked `gpu` ask for theirs by name."""
    module = sys.modules.get("engine.devices")
    if module is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "why_no_gpu", lambda: "hidden from tests")
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def artifacts() -> Iterator[Path]:
    """Where tests leave what a person should look at: screenshots, pages. Git ignores it."""
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    yield folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium. `make test` installs one and requires it; plain pytest may skip."""
    wanted = os.environ.get("FIDDLER_VIZ_BROWSER", "optional")
    if wanted == "none":
        pytest.skip("browser tests switched off")
    path = chromium_path()
    if path is None:
        message = "no Chromium: run `python tools/browser.py`"
        if wanted == "required":
            pytest.fail(message)
        pytest.skip(message)
    return path
