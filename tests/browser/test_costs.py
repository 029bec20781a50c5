"""Another model's costs make other ranges of sliders: a page must not take them for a move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS, Driver
from tools.serving import write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_budget_stays_under_other_costs(
    voila: Callable[[Path], str], watched: Watched, tmp_path: Path
) -> None:
    page = watched.page
    code = """import fiddler_viz as fv
fv.Explorer(fv.load("demo", gpu_memory="24GB", as_model="mixtral-8x7b"))"""
    page.goto(voila(write_notebook(tmp_path / "costs.ipynb", code)), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    driver.root.get_by_role("button", name="what if …", exact=True).click()
    menu, status = driver.root.get_by_label("costed as", exact=True), "[role=status]"
    names = [
        name.replace("\N{NO-BREAK SPACE}", " ") for name in menu.locator("option").all_inner_texts()
    ]
    for name, held in (
        ("demo", 256),
        ("mixtral-8x7b-int4", 219),
        ("demo", 256),
        ("mixtral-8x7b", 55),
    ):
        menu.select_option(index=names.index(name))
        driver.root.locator(status).get_by_text(f"24.0 GB hold {held} of 256").first.wait_for()
        page.wait_for_timeout(600)  # for what the page may answer
        words = driver.root.locator(status).first.inner_text()
        assert f"24.0 GB hold {held} of 256 experts." in words
    watched.check()
