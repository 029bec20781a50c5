"""The tour in a real browser, served by Voila: a run, a slider moved by keyboard while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import TOUR, Watched
from tests.browser.driving import DETAIL, HEATMAP, SLOW_MS, TIMELINE, Driver
from tools.serving import write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BUNDLED = "from fiddler_viz.explorer import Explorer\nExplorer(theme={theme!r})"

CUT = """() => {
  let bottom = innerHeight;
  for (let at = document.querySelector('.fv-root'); at; at = at.parentElement)
    bottom = Math.min(bottom, at.getBoundingClientRect().bottom);
  return [...document.querySelectorAll('.fv-root button, .fv-root select')]
    .filter((each) => each.getBoundingClientRect().bottom > bottom).map((each) => each.textContent);
}"""
"""Controls that reach below anything that holds them."""


def test_tour_runs_and_replans(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path
) -> None:
    watched.page.goto(voila(TOUR), timeout=SLOW_MS)
    driver = Driver(watched.page)
    driver.opened()
    before = driver.shown()
    assert before.pinned == 55
    assert "24.0 GB" in before.memory
    driver.shoot(artifacts / "voila-tour-opened.png")

    driver.run(tokens=600)
    driver.shoot(artifacts / "voila-tour-running.png")
    driver.move_memory(8)
    driver.until("s.pinned == 66 && s.memory.includes('28.0 GB')")  # the map after the numbers
    moved = driver.shown()
    assert moved.state == "running"
    assert moved.memory != before.memory
    driver.shoot(artifacts / "voila-tour-moved.png")

    window = moved.window
    driver.until("s.window[1] > v", window[1])  # the timeline follows
    driver.stop()
    assert driver.shown().pinned == 66
    driver.shoot(artifacts / "voila-tour-stopped.png")
    driver.move_memory(4)
    driver.until("s.memory.includes('30.0 GB')")
    driver.shoot(artifacts / "voila-tour-what-if.png")
    watched.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_bundled_run_fits_the_screen_and_stacks(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path, theme: str
) -> None:
    page = watched.page
    notebook = write_notebook(tmp_path / "bundled.ipynb", BUNDLED.format(theme=theme))
    page.goto(voila(notebook), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    page.mouse.move(0, 0)
    driver.shoot(artifacts / f"voila-{theme}-1280.png")
    box = driver.root.bounding_box()
    assert box["y"] + box["height"] <= 800, "needs scrolling at 1280 x 800"
    assert page.evaluate(CUT) == [], "cut by what it stands in"
    lines = page.evaluate("document.querySelector('.fv-text').clientHeight") / 20
    assert lines == 3, "whole ones"
    left, right = columns(page)
    assert left["right"] <= right["left"]

    page.set_viewport_size({"width": 800, "height": 1100})
    page.wait_for_function(
        "document.querySelector('.fv-heatmap .js-plotly-plot')._fullLayout.width > 600"
    )
    left, right = columns(page)
    assert left["bottom"] <= right["top"], "does not stack at 800 pixels"
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    driver.shoot(artifacts / f"voila-{theme}-800.png")

    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_function(
        "document.querySelector('.fv-heatmap .js-plotly-plot')._fullLayout.width < 600"
    )
    zoom_the_timeline(driver)
    ask_what_if(driver, artifacts / f"voila-{theme}-what-if.png")
    page.mouse.move(0, 0)
    page.get_by_text("in words").click()
    page.get_by_text("are pinned").wait_for()
    driver.shoot(artifacts / f"voila-{theme}-words.png")
    if theme == "light":
        driver.run(tokens=300)  # loads the engine first
        driver.stop()
        driver.shoot(artifacts / "voila-bundled-own-run.png")
    watched.check()


def test_a_page_opened_narrow_shows_all_of_it(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    page.set_viewport_size({"width": 800, "height": 1700})
    page.goto(
        voila(write_notebook(tmp_path / "narrow.ipynb", BUNDLED.format(theme="light"))),
        timeout=SLOW_MS,
    )
    driver = Driver(page)
    driver.opened()
    page.locator(f"{TIMELINE} .main-svg").first.wait_for()  # what comes last makes it taller
    page.wait_for_timeout(500)
    assert page.evaluate(CUT) == [], "cut by what it stands in"
    left, right = columns(page)
    assert left["bottom"] <= right["top"], "does not stack at 800 pixels"
    driver.shoot(artifacts / "voila-narrow.png")


def ask_what_if(driver: Driver, picture: Path) -> None:
    """By keyboard: another link beside the plan kept as A, both shown in turn, and back."""
    page, root = driver.page, driver.root
    for name in ("what if …", "Keep as A"):
        root.get_by_role("button", name=name).press("Enter")
    link = root.locator(".noUi-handle").nth(2)
    for _ in range(2):
        link.press("ArrowRight")
    assert link.get_attribute("aria-label") == "link", "what a screen reader calls it"
    root.get_by_text("what if: link 40 GB/s").wait_for()
    root.locator(".fv-plans").wait_for()
    assert not root.locator(".fv-tiles").is_visible(), "the table has their place"
    heights = ".map((plot) => document.querySelector(plot).clientHeight)"
    page.wait_for_function(
        f"(plots) => plots{heights}.reduce((sum, px) => sum + px) < 540",
        arg=[HEATMAP, DETAIL],
    )
    box = root.bounding_box()
    driver.shoot(picture)
    assert box["y"] + box["height"] <= 800, "needs scrolling at 1280 x 800"
    root.get_by_role("button", name="A", exact=True).press("Enter")
    root.get_by_text("what if: link 40 GB/s").wait_for(state="detached")
    root.get_by_role("button", name="clear").first.press("Enter")
    root.locator(".fv-plans").wait_for(state="hidden")
    root.get_by_role("button", name="Reset").press("Enter")
    root.get_by_text("25.2 GB/s (own)").wait_for()
    root.get_by_role("button", name="what if …").press("Enter")
    page.mouse.move(0, 0)


def columns(page: Any) -> list[dict[str, float]]:
    """Where the two columns of panels are."""
    script = (
        "[...document.querySelectorAll('.fv-side')].map(e => e.getBoundingClientRect().toJSON())"
    )
    return page.evaluate(script)


def zoom_the_timeline(driver: Driver) -> None:
    """Drag over part of the timeline: it zooms in and stays; the menu leads back."""
    before = driver.shown().window
    plot = driver.page.locator(TIMELINE).locator(".nsewdrag").bounding_box()
    middle = plot["y"] + plot["height"] / 2
    driver.page.mouse.move(plot["x"] + 0.2 * plot["width"], middle)
    driver.page.mouse.down()
    driver.page.mouse.move(plot["x"] + 0.4 * plot["width"], middle, steps=5)
    driver.page.mouse.up()
    length = before[1] - before[0]
    driver.until("s.window[1] - s.window[0] < v", 0.3 * length)
    driver.root.locator(".fv-timeline select").first.select_option("whole run")
    driver.until("s.window[0] == 0")
    driver.root.locator(".fv-timeline select").first.select_option("last 8 steps")
    driver.until("Math.abs(s.window[0] - v) < 1e-6", before[0])


def test_a_token_and_an_expert_are_picked_with_mouse_and_keys(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    notebook = write_notebook(tmp_path / "picking.ipynb", BUNDLED.format(theme="light"))
    page.goto(voila(notebook), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    cells = driver.root.locator(".fv-text i[data-t]")
    cells.nth(3).click()
    driver.until("s.title.includes('token 3')")
    for _ in range(30):  # the box has the focus; frames come slower than this
        page.keyboard.press("ArrowRight")
    assert cells.nth(33).evaluate("cell => cell.classList.contains('s')"), "set back"
    driver.until("s.title.includes('token 33')")
    assert cells.nth(33).evaluate("cell => cell.classList.contains('s')"), "set back"
    assert cells.count() > 20

    plot = page.locator(HEATMAP).locator(".nsewdrag").bounding_box()
    page.mouse.click(plot["x"] + 2.5 / 8 * plot["width"], plot["y"] + 10.5 / 32 * plot["height"])
    layer, expert = (driver.root.get_by_label(name, exact=True) for name in ("layer", "expert"))
    chosen = "([a, b]) => [a, b].map((menu) => menu.selectedOptions[0].label).join()"
    menus = [layer.element_handle(), expert.element_handle()]
    page.wait_for_function(f"(menus) => ({chosen})(menus) == '10,2'", arg=menus)
    driver.shoot(artifacts / "voila-picked.png")
    driver.root.get_by_role("button", name="what if").click()
    driver.root.locator(".fv-text").evaluate("text => { text.scrollTop = 0; }")
    driver.root.get_by_role("button", name="Keep as A").click()
    page.wait_for_function(  # two plans take room from the text; what is picked of it stays
        "([cell, text]) => text.clientHeight < 60"
        " && cell.getBoundingClientRect().bottom <= text.getBoundingClientRect().bottom",
        arg=[cells.nth(33).element_handle(), driver.root.locator(".fv-text").element_handle()],
    )
    driver.root.get_by_role("button", name="clear").first.click()
    driver.root.get_by_role("button", name="clear").last.click()
    page.wait_for_function(f"(menus) => ({chosen})(menus) == '–,–'", arg=menus)
    assert driver.root.locator(".fv-text i.s").count() <= 1
    watched.check()


def test_a_run_is_scrubbed_and_played_with_the_keys(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    """Without an engine, on the bundled run: steps, real time, and its end at ten times that."""
    page = watched.page
    notebook = write_notebook(tmp_path / "playing.ipynb", BUNDLED.format(theme="light"))
    page.goto(voila(notebook), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    row = driver.root.locator(".fv-player")
    slider, words = row.locator("input"), row.locator(".at")
    slider.focus()
    slider.press("Home")
    driver.until("s.state.includes('before its first step')")
    for _ in range(13):
        slider.press("ArrowRight")
    driver.until("s.state.includes('up to step 12') && s.title.includes('up to step 12')")
    before = float(words.inner_text().split(",")[1].split()[0])
    slider.press(" ")
    page.wait_for_timeout(3000)
    slider.press(" ")
    passed = float(words.inner_text().split(",")[1].split()[0]) - before
    assert 2.5 < passed < 6, "three seconds of the run's own time, on a busy machine"
    driver.shoot(artifacts / "voila-playing.png")
    driver.until("s.state.includes('ready')")
    driver.move_memory(4)
    driver.until("s.memory.includes('26.0 GB') && s.state.includes('up to step')")
    slider.press("End")
    for _ in range(40):  # long enough for a busy machine to see that it plays
        slider.press("ArrowLeft")
    row.get_by_label("playing speed").select_option("10x")
    row.get_by_label("play", exact=True).click()
    row.get_by_label("pause", exact=True).wait_for()
    row.get_by_label("play", exact=True).wait_for()
    driver.until("s.state == 'ready' && !s.title.includes('up to')")
    watched.check()


CHARTS = {
    "crossover": "tokens that one expert serves at once",
    "hit rates": "hit rate, % of calls",
    "budgets": "decode speed, tok/s",
    "flow": "layer 3",
    "policies": "hybrimoe",
    "why": "it took",
}
"""What stands in each chart."""
_COUNT = """() => {
  const plot = document.querySelector('.fv-detail .js-plotly-plot');
  window.drawn = 0;
  for (const event of ['plotly_update', 'plotly_restyle']) plot.on(event, () => window.drawn++);
}"""


def test_the_detail_panel_explains(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    notebook = write_notebook(tmp_path / "detail.ipynb", BUNDLED.format(theme="light"))
    page.goto(voila(notebook), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    panel = driver.root.locator(".fv-detail")
    for name, words in CHARTS.items():
        panel.get_by_role("button", name=name, exact=True).click()
        page.locator(DETAIL).get_by_text(words).first.wait_for(timeout=SLOW_MS)
        page.mouse.move(0, 0)
        driver.shoot(artifacts / f"voila-detail-{name.replace(' ', '-')}.png")
        bottom = driver.root.bounding_box()
        assert bottom["y"] + bottom["height"] <= 800, name
    page.evaluate(_COUNT)
    driver.root.locator(".fv-text i[data-t]").nth(30).click()
    panel.get_by_text("token 30").wait_for()
    page.wait_for_function("window.drawn > 0")
    assert page.evaluate("window.drawn") == 1, "figures that were replaced still hear updates"

    panel.get_by_role("button", name="larger").click()
    page.wait_for_function("document.querySelector('.fv-detail .main-svg').clientHeight > 300")
    assert not driver.root.locator(".fv-timeline").is_visible()
    driver.shoot(artifacts / "voila-detail-larger.png")
    panel.get_by_role("button", name="larger").click()
    driver.root.locator(".fv-timeline").wait_for(state="visible")

    panel.get_by_role("button", name="crossover", exact=True).click()
    panel.get_by_text("Up to 54 tokens").wait_for()
    slider = panel.locator(".noUi-handle").first
    slider.focus()
    slider.press("ArrowRight")
    panel.get_by_text("Up to 54 tokens").wait_for(state="detached")
    panel.get_by_role("button", name="as it is").click()
    panel.get_by_text("Up to 54 tokens").wait_for()

    panel.get_by_role("button", name="policies", exact=True).click()
    page.locator(DETAIL).get_by_text(CHARTS["policies"]).wait_for()
    first = page.locator(f"{DETAIL} .points path").first
    at = first.bounding_box()
    page.mouse.click(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    driver.root.locator(".fv-badge", has_text="what if").wait_for()
    driver.shoot(artifacts / "voila-detail-policy-taken.png")
    watched.check()
