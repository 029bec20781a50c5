"""A notebook's cell that makes an explorer, run again and again in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.serving import ROOT, evaluate

pytestmark = pytest.mark.slow

OPEN = "explorer = Explorer(trace)\nexplorer"
SETUP = """
import gc, os, threading
from ipywidgets.widgets.widget import _instances
from engine.synthetic import synthetic_trace
from fiddler_viz.explorer import Explorer
trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=8)

def held():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc") else 0
    files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0
    return [len(_instances), threading.active_count(), files, pages * 4096]
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client: Any, code: str, cell: str) -> None:
    """Execute as a notebook does: kept in the history, with the cell's name."""
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    message = client.session.msg("execute_request", content, metadata={"cellId": cell})
    client.shell_channel.send(message)
    while True:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            assert reply["content"]["status"] == "ok", reply["content"]
            break
    while client.get_iopub_msg(timeout=60)["content"].get("execution_state") != "idle":
        pass


def test_200_runs_of_a_cell_leave_no_more_than_one(kernel: Any) -> None:
    evaluate(kernel, SETUP)
    for _ in range(60):  # pools, caches and the allocator grow to their size
        run_cell(kernel, OPEN, "a")
    before = evaluate(kernel, "result = held()")
    for _ in range(200):
        run_cell(kernel, OPEN, "a")
    widgets, threads, files, size = evaluate(kernel, "result = held()")
    grown = size - before[3]
    print(f"200 re-runs: {grown / 1e6:+.1f} MB")
    assert widgets == before[0]
    # A kernel's own threads and sockets come and go by a few; a leak is at least one for each run.
    assert threads - before[1] < 20 and files - before[2] < 20
    # One that stays takes 1 MB; the notebook's own record of a closed one some 20 kB.
    assert grown < 200 * 50_000


def test_explorers_of_other_cells_and_of_the_same_execution_stay(kernel: Any) -> None:
    evaluate(kernel, SETUP)
    run_cell(kernel, "a, b = Explorer(trace), Explorer(trace)", "one")
    run_cell(kernel, "c = Explorer(trace)", "two")
    assert evaluate(kernel, "result = [x.comm is not None for x in (a, b, c)]") == [True] * 3
    run_cell(kernel, "d = Explorer(trace)", "one")
    opened = evaluate(kernel, "result = [x.comm is not None for x in (a, b, c, d)]")
    assert opened == [False, False, True, True]
    assert "closed" in evaluate(kernel, "result = repr(a)")
