"""Servers on loopback and a browser's page, each ended with the test that asked for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tools import serving

pytest.importorskip("playwright.sync_api")

TOUR = serving.ROOT / "notebooks" / "00_tour.ipynb"
# Not ours: Voila's template asks a CDN for an icon font, which machines without network do not
# get; and plotly's own renderer of static figures calls JupyterLab's setData, which Voila lacks.
FOREIGN = re.compile(
    r"fontawesome|jsdelivr|ERR_INTERNET_DISCONNECTED|ERR_NAME_NOT_RESOLVED"
    r"|setData is not a function.*jupyterlab-plotly/static",
    re.DOTALL,
)


@dataclass
class Watched:
    """A page, and what its console and its scripts complained about."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Fail if the browser had anything to complain about."""
        assert not self.errors, "\n".join(self.errors)


@pytest.fixture
def served() -> Iterator[ExitStack]:
    """Ends servers when the test ends, the last one first."""
    with ExitStack() as running:
        yield running


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[serving.Served, Path]]:
    """One Voila for all tests, which takes seconds to start, and the folder it serves."""
    root = tmp_path_factory.mktemp("notebooks")
    with serving.voila(root, tmp_path_factory.mktemp("voila")) as served:
        yield served, root


@pytest.fixture
def voila(pages: tuple[serving.Served, Path]) -> Iterator[Callable[[Path], str]]:
    """``voila(notebook)`` serves a copy of it and gives the address; its kernel ends with the test.

    Each opening of the address is a kernel of its own.
    """
    served, root = pages

    def serve(notebook: Path) -> str:
        (root / notebook.name).write_bytes(notebook.read_bytes())
        return f"{served.url}{notebook.name}"

    yield serve
    serving.end_kernels(served)


@pytest.fixture
def lab(tmp_path: Path, served: ExitStack) -> Callable[[Path], serving.Served]:
    """``lab(notebook)`` opens it in JupyterLab and says where; the file is a copy."""
    return lambda notebook: served.enter_context(serving.lab(notebook, tmp_path))


@pytest.fixture
def browser(chromium: str) -> Iterator[Any]:
    with serving.browser(chromium) as opened:
        yield opened


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    found = Watched(page)

    def note(text: str) -> None:
        if not FOREIGN.search(text):
            found.errors.append(text)

    def hear(message: Any) -> None:
        if message.type == "error":
            note(f"{message.text} {message.location.get('url', '')}")

    page.on("console", hear)
    page.on("pageerror", lambda error: note(f"{error}\n{error.stack}"))
    yield found
    page.close()
