"""Two hundred moves of a slider, faster than frames: the latest wins, nothing goes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Watched
from tests.browser.driving import SLOW_MS, Driver
from tools.serving import write_notebook

_BUDGET = re.compile(r" of ([\d.]+) GB")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = """
from engine.synthetic import synthetic_trace
from fiddler_viz.explorer import Explorer
Explorer(synthetic_trace("mixtral-8x7b", gpu_memory="12GB", decode_tokens=64))
"""
WATCH = """() => {
  const bar = () => document.querySelector('.fv-root [role=img]').getAttribute('aria-label');
  const root = document.querySelector(".fv-root");
  globalThis.fvSeen = [bar()];
  new MutationObserver(() => {
    if (bar() !== fvSeen.at(-1)) fvSeen.push(bar());
  }).observe(root, {childList: true, subtree: true, attributes: true});
}"""


def test_200_rapid_moves(
    voila: Callable[[Path], str], watched: Watched, artifacts: Path, tmp_path: Path
) -> None:
    page = watched.page
    page.goto(voila(write_notebook(tmp_path / "moves.ipynb", NOTEBOOK)), timeout=SLOW_MS)
    driver = Driver(page)
    driver.opened()
    page.evaluate(WATCH)
    handle = driver.root.locator(".noUi-handle").first
    handle.focus()
    for key, presses in (("ArrowRight", 120), ("ArrowLeft", 80)):
        for _ in range(presses):
            page.keyboard.press(key)
        driver.until(f"s.memory.includes('of {driver.memory():.1f} GB')")
    assert driver.memory() == pytest.approx(12 + 0.5 * (120 - 80))
    budgets = [float(_BUDGET.search(text)[1]) for text in page.evaluate("fvSeen")]
    top = budgets.index(max(budgets))
    assert budgets[: top + 1] == sorted(budgets[: top + 1]), "a budget of the past was painted"
    assert budgets[top:] == sorted(budgets[top:], reverse=True), "a budget of the past was painted"
    assert budgets[-1] == pytest.approx(driver.memory())
    assert driver.shown().state == "ready"
    driver.shoot(artifacts / "voila-200-moves.png")
    watched.check()
