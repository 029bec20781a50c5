"""Pins edited by hand in a real browser: a click, then keys alone; every colour is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS, Driver
from tools.serving import write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELL = """from fiddler_viz.explorer import Explorer
from fiddler_viz import synthetic
Explorer({source}, theme={theme!r})"""
WIDE = "synthetic('qwen3-30b-a3b', prompt_tokens=16, decode_tokens=60, gpu_memory='16GB')"
HAND = "document.querySelector('.js-plotly-plot')._fullData[12].x.length"


@pytest.mark.parametrize(("theme", "source"), [("light", "None"), ("dark", WIDE)])
def test_a_click_and_keys_edit_the_placement(
    voila: Callable[[Path], str],
    watched: Watched,
    artifacts: Path,
    tmp_path: Path,
    theme: str,
    source: str,
) -> None:
    page = watched.page
    page.goto(
        voila(write_notebook(tmp_path / "pins.ipynb", CELL.format(source=source, theme=theme))),
        timeout=SLOW_MS,
    )
    driver = Driver(page)
    driver.opened()
    status = driver.root.locator(".fv-status").first
    before = driver.shown().pinned
    switch = driver.root.get_by_role("button", name="edit pins")
    switch.click()
    cells = driver.root.locator(".js-plotly-plot .nsewdrag").first
    box = cells.bounding_box()
    layers, experts = (48, 128) if source == WIDE else (32, 8)
    at = {"x": box["width"] * 2.5 / experts, "y": box["height"] * 20.5 / layers}
    cells.click(position=at)
    page.wait_for_function(f"{HAND} == 1")
    page.wait_for_function("document.querySelector('.fv-status').textContent.includes('(20, 2)')")
    assert "tok/s predicted" in status.inner_text()
    page.mouse.move(0, 0)
    driver.shoot(artifacts / f"pins-{theme}-clicked.png")

    picks = driver.root.locator("select").filter(has_text="–")
    picks.nth(1).select_option("–")
    picks.first.select_option("4")
    pin = driver.root.get_by_role("button", name="pin", exact=True)
    pin.focus()
    page.keyboard.press("Enter")  # all of layer 4
    page.wait_for_function(f"{HAND} == {1 + experts}")
    assert driver.shown().pinned <= before
    for name in ("on the GPU", "hit rate", "time", "difference"):
        driver.root.locator(".fv-heatmap select").first.select_option(label=name)
        wanted = {"on the GPU": "time on", "hit rate": "hit rate", "time": "lanes"}.get(
            name, "used"
        )
        driver.until("s.title.includes(v)", wanted)
        page.mouse.move(0, 0)
        page.wait_for_timeout(400)  # the figure is drawn after its heading
        driver.shoot(artifacts / f"pins-{theme}-{name.replace(' ', '-')}.png")
    switch.click()
    page.wait_for_timeout(500)
    driver.shoot(artifacts / f"pins-{theme}-against.png")
    page.set_viewport_size({"width": 800, "height": 1100})
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.width > 600")
    driver.shoot(artifacts / f"pins-{theme}-800.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    switch.click()
    driver.root.get_by_role("button", name="reset").click()
    page.wait_for_function(f"{HAND} == 0")
    watched.check()
