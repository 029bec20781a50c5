"""What happens to an open explorer in JupyterLab: two views of it, its cell run again, its kernel
restarted, its notebook opened without one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS
from tools.serving import ROOT, Served, write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MAKE = """
from engine.synthetic import synthetic_trace
from fiddler_viz.explorer import Explorer
trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=24)
"""
GONE = (
    "getComputedStyle(document.querySelector('.fv-root'), '::before').content"
    ".includes('run the cell again')"
)
MEMORY = "root => root.querySelector('.fv-root [role=img]')?.getAttribute('aria-label')"


def menu(page: Any, *names: str) -> None:
    """Choose from JupyterLab's menus; an entry's name goes on with its dots and its keys."""
    for name in names:
        page.get_by_role("menuitem", name=re.compile(f"^{name}($|…|\\.)")).first.click()


def idle(page: Any) -> None:
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=SLOW_MS)


def opened(page: Any, served: Served, views: int) -> None:
    """Open the notebook, run all of it, and wait for so many explorers."""
    page.goto(served.url, timeout=SLOW_MS)
    idle(page)
    menu(page, "Run", "Run All Cells")
    shown(page, views)


def shown(page: Any, views: int) -> None:
    page.wait_for_function(
        "(n) => document.querySelectorAll('.jp-OutputArea .fv-root').length == n"
        " && document.querySelectorAll('.fv-root .js-plotly-plot .cartesianlayer').length >= 2 * n",
        arg=views,
        timeout=SLOW_MS,
    )


def budgets(page: Any) -> list[str]:
    """What the memory bar of each explorer on the page says."""
    bars = "[...document.querySelectorAll('.fv-root [role=img]')]"
    return page.evaluate(f"{bars}.map((bar) => bar.getAttribute('aria-label'))")


def until_budgets(page: Any, words: str, count: int) -> None:
    page.wait_for_function(
        "([words, count]) => { const bars = [...document.querySelectorAll('.fv-root [role=img]')];"
        " return bars.length == count"
        " && bars.every((bar) => bar.getAttribute('aria-label').includes(words)); }",
        arg=[words, count],
        timeout=SLOW_MS,
    )


def test_two_views_a_cell_run_again_and_a_restarted_kernel(
    lab: Callable[[Path], Served], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 2400})
    cells = (MAKE, "explorer = Explorer(trace)\nexplorer", "explorer")
    opened(page, lab(write_notebook(tmp_path / "life.ipynb", *cells)), 2)

    handle = page.locator(".fv-root .noUi-handle").first  # two views of one explorer
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    until_budgets(page, "28.0 GB", 2)
    page.screenshot(path=str(artifacts / "lab-two-views.png"))

    page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")  # the cell again: a new explorer, at the run's own plan
    page.wait_for_function(
        "(() => { const cell = document.querySelectorAll('.jp-CodeCell')[1];"
        f" return ({MEMORY})(cell)?.includes('24.0 GB'); }})()",
        timeout=SLOW_MS,
    )
    assert len([text for text in budgets(page) if "28.0 GB" in text]) == 0, "the old one is gone"

    menu(page, "Kernel", "Restart Kernel")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    idle(page)
    page.wait_for_function(GONE, timeout=SLOW_MS)
    page.screenshot(path=str(artifacts / "lab-restarted.png"))
    menu(page, "Run", "Run All Cells")
    shown(page, 2)
    until_budgets(page, "24.0 GB", 2)
    handle = page.locator(".fv-root .noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    until_budgets(page, "24.5 GB", 2)


def test_a_saved_notebook_without_its_kernel_names_what_was_there(
    lab: Callable[[Path], Served], browser: Any, artifacts: Path, tmp_path: Path
) -> None:
    """JupyterLab has no widgets of another kernel: no error and no picture of the past, a line."""
    path = write_notebook(tmp_path / "saved.ipynb", MAKE, "explorer = Explorer(trace)\nexplorer")
    notebook = nbformat.read(path, as_version=4)
    here = {"path": str(ROOT)}
    NotebookClient(notebook, store_widget_state=False, resources={"metadata": here}).execute()
    nbformat.write(notebook, path)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(lab(path).url, timeout=SLOW_MS)
    idle(page)
    page.get_by_text("Explorer(mixtral-8x7b, 32 x 8 experts)").wait_for(timeout=SLOW_MS)
    assert page.locator(".fv-root").count() == 0
    menu(page, "Run", "Run All Cells")
    shown(page, 1)
    page.screenshot(path=str(artifacts / "lab-saved.png"))
    page.close()
