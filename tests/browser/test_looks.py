"""No words of the explorer are cut, at any width; a button that is disabled passes its focus on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fiddler_viz as fv
from engine.residency import Memory
from fiddler_viz import demo
from fiddler_viz.figures import memory_html
from tests.browser.conftest import Watched
from tests.browser.driving import DETAIL, SLOW_MS, Driver
from tools.serving import write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WIDTHS = (640, 780, 830, 925, 1000, 1085, 1240, 1400)
"""Of the explorer; around 801 pixels one column becomes two."""
CUT = """() => {
  const root = document.querySelector('.fv-root'), found = [];
  const box = (each) => each.getBoundingClientRect();
  const note = (what, each) => found.push(`${what}: ${each.textContent.trim().slice(0, 60)}`);
  const own = 'button, .fv-row, .fv-heading, .fv-player, .fv-player .at, .widget-label, '
    + '[role=img] span';
  for (const each of root.querySelectorAll(own)) {
    if (!each.checkVisibility() || !each.clientWidth) continue;
    if (each.scrollWidth > each.clientWidth + 1) note('does not hold its words', each);
    const side = each.closest('.fv-side') ?? root;
    if (box(each).right > box(side).right + 1) note('beyond its column', each);
  }
  for (const each of root.querySelectorAll('select')) { // but for the hardware's long names
    const copy = each.cloneNode(true);
    copy.style.cssText = 'position: absolute; flex: none; width: max-content; min-width: 0;';
    each.after(copy);
    const need = Math.min(box(copy).width, 250);
    copy.remove();
    if (each.checkVisibility() && box(each).width < need) note('a menu too narrow', each);
  }
  for (const each of root.querySelectorAll('.widget-hslider')) { // some ask for less
    const least = Math.min(150, parseFloat(getComputedStyle(each).flexBasis) || 150);
    if (each.checkVisibility() && box(each).width < least) note('a slider too narrow', each);
  }
  for (const each of root.querySelectorAll('.noUi-target'))
    if (each.checkVisibility() && box(each).width < 60)
      note(`a track of ${box(each).width}`, each.closest('.widget-hslider'));
  for (const each of root.querySelectorAll('.fv-detail .main-svg text')) {
    const plot = box(each.closest('.js-plotly-plot'));
    const { left, right, top, bottom } = box(each);
    if (!each.checkVisibility()) continue; // plotly hides labels that would overlap
    if (right > plot.right + 1 || left < plot.left - 1 || top < plot.top - 1
      || bottom > plot.bottom + 1) note('beyond its figure', each);
  }
  return found;
}"""
FOCUSED = "document.activeElement.textContent"


def widen(page: Any, width: int) -> None:
    """Make the explorer so wide, and wait for its figures to follow."""
    size = "document.querySelector('.fv-root').getBoundingClientRect().width"
    around = page.viewport_size["width"] - page.evaluate(size)
    page.set_viewport_size({"width": round(width + around), "height": 900})
    page.wait_for_function(f"(width) => Math.abs({size} - width) <= 1", arg=width)
    page.wait_for_function(
        "(plot) => { const p = document.querySelector(plot);"
        " return Math.abs(p._fullLayout.width - p.clientWidth) < 1; }",
        arg=DETAIL,
    )
    page.wait_for_timeout(300)  # plotly draws a little later than it knows its width


def test_no_words_are_cut(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    code = """import fiddler_viz as fv
fv.Explorer(fv.load("demo", hardware="rtx-6000-ada", gpu_memory="40%"))"""  # the longest words
    page.goto(voila(write_notebook(tmp_path / "looks.ipynb", code)), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    root = driver.root
    root.get_by_role("button", name="why", exact=True).click()
    root.locator(".fv-text i[data-t]").nth(30).click()
    driver.until("s.title.includes('token 30')")
    page.locator(DETAIL).get_by_text("it took").wait_for()
    found: dict[tuple[str, int], list[str]] = {}
    for name in ("this token", "edit pins", "crossover", "hit rates", "policies", "what if …"):
        if name != "this token":
            root.get_by_role("button", name=name, exact=True).click()
            page.wait_for_timeout(500)
        for width in WIDTHS:
            widen(page, width)
            found[name, width] = page.evaluate(CUT)
            if found[name, width]:
                driver.shoot(artifacts / f"looks-{name.replace(' ', '-')}-{width}.png")
    assert not {at: words for at, words in found.items() if words}
    watched.check()


def test_a_part_of_the_memory_bar_has_its_name_its_letter_or_nothing(watched: Watched) -> None:
    shares = {"dense": 32, "kv": 5, "workspace": 8, "pinned": 9, "cached": 11, "free": 1}
    bar = memory_html(Memory(**shares, budget=sum(shares.values())))
    page, seen = watched.page, set[str]()
    for width in range(160, 800, 40):
        page.set_content(f'<div style="width:{width}px">{bar}</div>')
        shown = page.evaluate(
            "[...document.querySelectorAll('[title] > span')].filter((each) => each.clientWidth)"
            ".map((each) => [each.textContent, each.scrollWidth - each.clientWidth])"
        )
        assert not [text for text, over in shown if over > 0], "cut"
        assert len(shown) <= len(shares), "two labels in one part"
        seen |= {text for text, _ in shown}
    assert {"W", "workspace", "C", "cached", "dense", "KV"} <= seen
    watched.check()


def test_a_button_that_is_disabled_passes_its_focus_on(
    voila: Callable[[Path], str], watched: Watched, tmp_path: Path
) -> None:
    page = watched.page
    code = "from fiddler_viz.explorer import Explorer\nExplorer()"
    page.goto(voila(write_notebook(tmp_path / "focus.ipynb", code)), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    root = driver.root
    root.locator(".fv-text i[data-t]").nth(30).click()
    driver.until("s.title.includes('token 30')")
    for name, heir in (("clear", "in words"), ("▶ Run", "■ Stop")):
        root.get_by_role("button", name=name).focus()
        page.keyboard.press("Shift+Tab")  # what comes by keyboard is what is kept
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function(f"(heir) => {FOCUSED} === heir", arg=heir, timeout=SLOW_MS)
    page.keyboard.press("Enter")
    page.wait_for_function(f"{FOCUSED} === '▶ Run'", timeout=SLOW_MS)
    watched.check()


@pytest.mark.parametrize("show", ["popularity", "time", "difference"])
def test_a_narrow_map_s_legend_lies_below_its_axis(watched: Watched, show: str) -> None:
    page = watched.page
    for width in (320, 480, 600):
        page.set_content(fv.heatmap(demo.trace(), show=show, width=width).to_html())
        page.locator(".legend").wait_for()
        top, bottom = page.evaluate(
            "[document.querySelector('.legend').getBoundingClientRect().top,"
            " document.querySelector('.xtitle').getBoundingClientRect().bottom]"
        )
        assert top >= bottom - 1, width
    watched.check()
