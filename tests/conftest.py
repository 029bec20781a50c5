"""Fixtures that many tests share, and the settings every test runs under."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Iterator
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
ALONE = {
    "test_cuda",
    "test_explorer",
    "test_interplay",
    "test_interrupts",
    "test_latest_wins",
    "test_light",
    "test_live",
    "test_live_frame",
    "test_live_page",
    "test_live_state",
    "test_planners",
    "test_player",
    "test_pump",
    "test_stream_pace",
}
"""Files whose tests race threads against a clock: where tests run in two processes, alone."""

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
    """Of several processes each takes a file at a time; one takes all that use a browser."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class BrowserTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            browser = nodeid.startswith("tests/browser/")  # two of them would wait for each other
            return "tests/browser" if browser else super()._split_scope(nodeid)

    return BrowserTogether(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Beside a test of :data:`ALONE` no other process of a run is in a test."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    import fcntl

    # Two files that are there anyway. Who waits for an empty room holds the door meanwhile, so
    # that nobody slips in before it.
    with (ROOT / "Makefile").open() as door, (ROOT / "pyproject.toml").open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.path.stem in ALONE else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


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
