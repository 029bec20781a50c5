"""The tour in JupyterLab: the same as in Voila, and the page reloaded shows the present."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import TOUR, Watched
from tests.browser.driving import SLOW_MS, Driver
from tools.serving import Served

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_tour_after_a_reload_shows_the_present(
    lab: Callable[[Path], Served], watched: Watched, artifacts: Path
) -> None:
    page = watched.page
    page.goto(lab(TOUR).url, timeout=SLOW_MS)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=SLOW_MS)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=SLOW_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        "(() => { const prompts = [...document.querySelectorAll('.jp-InputPrompt')]"
        ".map(e => e.textContent.trim()).filter(Boolean);"
        "return prompts.length && prompts.every(text => /^\\[\\d+\\]:$/.test(text)); })()",
        timeout=SLOW_MS,
    )
    driver = Driver(page)
    driver.opened()
    before = driver.shown()
    assert before.pinned == 55

    driver.run(tokens=600)
    driver.move_memory(8)
    driver.until("s.pinned > v && s.memory.includes('28.0 GB')", before.pinned)
    assert driver.shown().state == "running"
    driver.shoot(artifacts / "lab-tour-moved.png")
    driver.stop()
    page.locator(".jp-Notebook").first.press("Control+s")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')", timeout=30_000)
    now = driver.shown()

    page.goto(page.url.removesuffix("?reset"), timeout=SLOW_MS)
    driver.opened()
    driver.until("s.pinned == v", now.pinned)
    after = driver.shown()
    assert after == now
    driver.shoot(artifacts / "lab-tour-reloaded.png")

    driver.move_memory(4)  # and it still follows
    driver.until("s.memory.includes('30.0 GB')")
    driver.until("s.pinned > v", now.pinned)
    driver.shoot(artifacts / "lab-tour-after-reload-moved.png")
    watched.check()
