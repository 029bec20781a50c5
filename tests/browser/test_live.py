"""A cell that generates, in JupyterLab: painted frame by frame, replanned while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS, Driver
from tools.serving import Served, write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LOAD = """
import fiddler_viz as fv
engine = fv.load("demo", gpu_memory="24GB", as_model="mixtral-8x7b")
fv.Explorer(engine)
"""
RUN = 'run = engine.generate("To be, or not to be", 900, eos_token_id=None)'
COUNT = """() => {
  const root = document.querySelector('.fv-root');
  globalThis.fvPainted = 0;
  root.addEventListener('fv-painted', () => fvPainted++);
}"""
PAINTED = """() => {
  const canvas = document.querySelector('.fv-heatmap canvas.fv-live');
  if (!canvas) return null;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) colours.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return colours.size;
}"""


def test_a_cell_that_generates_is_shown_live_and_replanned(
    lab: Callable[[Path], Served], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    page.goto(lab(write_notebook(tmp_path / "live.ipynb", LOAD, RUN)).url, timeout=SLOW_MS)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=SLOW_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    driver = Driver(page)
    driver.opened()
    driver.until("s.state == 'running'")
    page.evaluate(COUNT)
    driver.root.locator(".fv-heatmap").scroll_into_view_if_needed()
    page.wait_for_function("fvPainted >= 12", timeout=SLOW_MS)
    page.wait_for_selector(".fv-heatmap canvas.fv-live")
    assert (page.evaluate(PAINTED) or 0) > 12, "cells in many colours"
    driver.shoot(artifacts / "lab-live-cell.png")
    before = driver.shown()
    assert before.state == "running"

    driver.move_memory(8)  # what the page says is heard although the cell still runs
    driver.until("s.pinned == 66 && s.memory.includes('28.0 GB')")
    assert driver.shown().state == "running"
    page.wait_for_function("([n]) => fvPainted >= n + 6", arg=[page.evaluate("fvPainted")])
    driver.stop()
    driver.until("s.state == 'ready'")
    assert driver.shown().pinned == 66
    assert page.locator("canvas.fv-live").count() == 0, "plotly's drawing is back"
    driver.shoot(artifacts / "lab-live-ended.png")
    watched.check()
