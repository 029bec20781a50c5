"""Servers on loopback and a browser's page, each ended with the test that asked for it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parent.parent.parent
TOUR = ROOT / "notebooks" / "00_tour.ipynb"
START_S = 90
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], url: str, folder: Path) -> Iterator[None]:
    """Run a server until its address answers, and end it at the end."""
    log = folder / "server.log"
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "RUNTIME")}

    env = {**os.environ, **own, "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=output, env=env, cwd=ROOT
        )
    try:
        wait_for(url, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_S * 5):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no server at {url}:\n{log.read_text()[-3000:]}")


@pytest.fixture
def voila(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """``voila(notebook)`` serves it and gives the address."""
    running: list[Any] = []

    def serve(notebook: Path) -> str:
        port = free_port()
        command = ["voila", str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
        url = f"http://127.0.0.1:{port}"
        # the address of a favicon: the root would run the notebook
        running.append(server(command, f"{url}/voila/static/main.js", tmp_path))
        running[-1].__enter__()
        return f"{url}/"

    yield serve
    for one in reversed(running):
        one.__exit__(None, None, None)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """``lab(notebook)`` opens it in JupyterLab and gives the address; the file is a copy."""
    running: list[Any] = []

    def serve(notebook: Path) -> str:
        folder = tmp_path / "notebooks"
        folder.mkdir()
        (folder / notebook.name).write_bytes(notebook.read_bytes())
        port = free_port()
        command = ["jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
        command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
        command += [f"--ServerApp.root_dir={folder}", "--allow-root"]
        command += [
            "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        url = f"http://127.0.0.1:{port}"
        running.append(server(command, f"{url}/api", tmp_path))
        running[-1].__enter__()
        return f"{url}/lab/tree/{notebook.name}?reset"

    yield serve
    for one in reversed(running):
        one.__exit__(None, None, None)


@pytest.fixture
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        opened = play.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


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


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    code = [
        {
            "cell_type": "code",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "id": f"c{number}",
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": code,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
