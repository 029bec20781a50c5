"""Payloads as token, model, hardware, policy and meta: nothing runs, and texts show as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fiddler_viz as fv
from fiddler_viz.theme import show_token
from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS, Driver
from tests.browser.hostile_texts import PAYLOADS, Hostile, hostile_trace
from tools.serving import write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = (
    "import fiddler_viz as fv\n"
    "from tests.browser.hostile_texts import hostile_trace\n"
    "trace = hostile_trace()\n"
    "fv.Explorer(trace)",
    "fv.tokens(trace)",
    "fv.tokens(trace, color='action', layer=1)",
    "fv.inspect(trace, token=30)",
    "fv.heatmap(trace, show='token', token=30)",
    "fv.timeline(trace, step=3)",
    "fv.memory(trace)",
)
ELEMENTS = """() => [...document.querySelectorAll('*')].filter((element) =>
  /^(IFRAME|OBJECT|EMBED|MARQUEE)$/.test(element.tagName)
  || [...element.attributes].some(({ name, value }) => /hacked|evil/.test(value)
    && (/^on/.test(name) || ['src', 'href', 'data', 'srcdoc'].includes(name)))
).map((element) => element.outerHTML.slice(0, 200))"""
"""Elements that a payload became."""


@dataclass
class Guard:
    """What a page must not do: ask questions, ask servers, run payloads."""

    page: Any
    watched: Watched
    dialogs: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def check(self) -> None:
        """Nothing of the kind happened."""
        for frame in self.page.frames:
            assert frame.evaluate("window.hacked") is None
        assert self.dialogs == []
        assert [url for url in self.asked if "evil" in url or "hacked" in url] == []
        assert self.page.evaluate(ELEMENTS) == []
        self.watched.check()


@pytest.fixture
def guard(watched: Watched) -> Guard:
    return Guard(watched.page, watched)


def hover(page: Any, plot: Any, columns: int, rows: int) -> None:
    """Move the mouse over a figure, so that its hover texts come up."""
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    for row in range(rows):
        for column in range(columns):
            x = box["x"] + box["width"] * (column + 0.5) / columns
            page.mouse.move(x, box["y"] + box["height"] * (row + 0.5) / rows)
            page.wait_for_timeout(60)


def test_there_are_payloads_enough() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) > 30


def test_the_page_shows_payloads_as_text(guard: Guard, tmp_path: Path, artifacts: Path) -> None:
    page, trace = guard.page, hostile_trace()
    path = fv.to_html(trace, tmp_path / "hostile.html")
    page.goto(path.as_uri())
    page.wait_for_selector("#memory .main-svg")
    cells = page.locator("#tokens button")
    assert cells.all_text_contents() == [show_token(text, 80) for text in PAYLOADS]
    assert PAYLOADS[0] in page.text_content("h1") and PAYLOADS[1] in page.text_content("h1")
    for number in range(cells.count()):
        cells.nth(number).hover(force=True)
        if cells.nth(number).is_enabled():
            cells.nth(number).click()
    for name in ("#heatmap", "#timeline", "#memory"):
        hover(page, page.locator(f"{name} .nsewdrag").first, 6, 3)
        page.locator(f"{name} ~ details summary").click()
    for select, many in (("policy", 3), ("machine", 3)):
        for number in range(many):
            page.select_option(f"[name={select}]", index=number)
            page.wait_for_timeout(100)
            page.locator(f"[name={select}]").hover()
    hover(page, page.locator("#heatmap .nsewdrag").first, 3, 2)
    option = page.locator("[name=machine] option").first.text_content()
    assert option == trace.plan.hardware_title
    options = page.locator("[name=policy] option").all_text_contents()
    assert f"{Hostile.title} (in a notebook)" in options
    page.screenshot(path=artifacts / "hostile-page.png", full_page=True)
    assert [url for url in guard.asked if not url.startswith(("data:", "blob:", "file:"))] == []
    guard.check()


def test_the_explorer_and_figures_show_payloads_as_text(
    guard: Guard, voila: Callable[[Path], str], tmp_path: Path, artifacts: Path
) -> None:
    page = guard.page
    page.goto(voila(write_notebook(tmp_path / "hostile.ipynb", *NOTEBOOK)), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    cells = driver.root.locator(".fv-text i[data-t]")
    processed = PAYLOADS[:-1]  # the last was sampled, and cannot be picked
    assert cells.all_text_contents() == [show_token(text) for text in processed]
    for number in range(0, cells.count(), 4):
        cells.nth(number).hover(force=True)
        cells.nth(number).click()
        driver.until("s.title.includes('token ' + v)", number)
    plots = driver.root.locator(".js-plotly-plot .nsewdrag")
    for number in range(plots.count()):
        hover(page, plots.nth(number), 6, 4)
    page.get_by_text("in words").first.click()
    for name, many in (("layer", 2), ("expert", 2)):
        driver.root.get_by_label(name, exact=True).select_option(index=many)
    for menu in driver.root.locator("select:visible").all():
        menu.hover()
    driver.move_memory(2)
    page.wait_for_timeout(500)
    text = driver.root.inner_text()
    assert PAYLOADS[0] in text, "the model's name"
    titles = driver.root.locator("select option").all_text_contents()
    titles = [title.replace("\xa0", " ") for title in titles]  # as ipywidgets writes options
    assert PAYLOADS[3] in titles, "the policy's title"
    driver.shoot(artifacts / "hostile-explorer.png")
    for strip in page.locator("iframe, .fv-strip").all():
        strip.scroll_into_view_if_needed()
    for plot in page.locator(".js-plotly-plot .nsewdrag").all()[plots.count() :]:
        hover(page, plot, 5, 3)
    page.screenshot(path=artifacts / "hostile-figures.png", full_page=True)
    guard.check()  # while the server is still there
