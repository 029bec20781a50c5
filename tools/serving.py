"""Notebooks served on loopback, and a browser to look at them with: for tests and benchmarks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_S = 90
BROWSER_OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


class ServerError(RuntimeError):
    """A server did not start; the message holds the end of its log."""


@dataclass(frozen=True)
class Served:
    """A notebook that is being served."""

    url: str
    """Where the notebook opens."""
    base: str
    """The server's own address, without a slash."""
    runtime: Path
    """Where the server's kernels leave their connection files."""


@contextmanager
def voila(root: Path, folder: Path) -> Iterator[Served]:
    """Serve the notebooks of ``root`` as pages: each opens at the address, followed by its name.

    ``folder`` takes the server's log and settings. A page's kernel lives on when the page is left:
    :func:`end_kernels`.
    """
    port = free_port()
    command = ["voila", str(root), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    base = f"http://127.0.0.1:{port}"
    # the address of a file: the root would list the notebooks
    with _server(command, f"{base}/voila/static/main.js", folder) as runtime:
        yield Served(f"{base}/voila/render/", base, runtime)


def end_kernels(served: Served) -> None:
    """End all kernels of a Voila server, as pages that are closed by their reader do."""
    for file in served.runtime.glob("kernel-*.json"):
        name = file.stem.removeprefix("kernel-")
        url = f"{served.base}/voila/api/shutdown/{name}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30):
            file.unlink(missing_ok=True)


@contextmanager
def lab(notebook: Path, folder: Path) -> Iterator[Served]:
    """Open a copy of a notebook in JupyterLab; ``folder`` takes that too."""
    root = folder / "notebooks"
    root.mkdir()
    (root / notebook.name).write_bytes(notebook.read_bytes())
    port = free_port()
    command = ["jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    command += [f"--ServerApp.root_dir={root}", "--allow-root", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    base = f"http://127.0.0.1:{port}"
    with _server(command, f"{base}/api", folder) as runtime:
        yield Served(f"{base}/lab/tree/{notebook.name}?reset", base, runtime)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(command: list[str], url: str, folder: Path) -> Iterator[Path]:
    """Run a server until its address answers, and end it at the end."""
    log = folder / "server.log"
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "RUNTIME")}
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=output, env=env, cwd=ROOT
        )
    try:
        _wait_for(url, process, log)
        yield folder / "runtime"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
    raise ServerError(f"no server at {url}:\n{log.read_text()[-3000:]}")


@contextmanager
def kernel_of(served: Served) -> Iterator[Any]:
    """A second client of the one kernel that a JupyterLab runs: the page's own, too."""
    from jupyter_client.blocking.client import BlockingKernelClient

    with urllib.request.urlopen(f"{served.base}/api/kernels", timeout=10) as answer:
        (kernel,) = json.load(answer)
    client = BlockingKernelClient()
    client.load_connection_file(str(served.runtime / f"kernel-{kernel['id']}.json"))
    client.start_channels()
    try:
        client.wait_for_ready(timeout=START_S)
        yield client
    finally:
        client.stop_channels()


def evaluate(client: Any, code: str, *, timeout_s: float = 120.0) -> Any:
    """Run statements in a kernel; gives what they left in ``result``, by way of JSON."""
    source = f"result = None\n{code}\nimport json as _json\n_answer = _json.dumps(result)"
    reply = client.execute_interactive(
        source,
        timeout=timeout_s,
        store_history=False,
        user_expressions={"answer": "_answer"},
        output_hook=lambda message: None,
    )
    content = reply["content"]
    if content["status"] != "ok":
        raise RuntimeError("\n".join(content["traceback"]))
    text = content["user_expressions"]["answer"]["data"]["text/plain"]
    return json.loads(literal_eval(text))


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


@contextmanager
def browser(chromium: str) -> Iterator[Any]:
    """A headless Chromium at this path, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=[*BROWSER_OPTIONS])
        try:
            yield opened
        finally:
            opened.close()
