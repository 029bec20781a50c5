"""What a reader does with a text in the browser: ``text_view.js`` in a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.frames import LIMIT_TOKENS
from fiddler_viz.theme import theme
from fiddler_viz.views.style import style_sheet
from fiddler_viz.views.text_view import TextView

PAGE = """async ({ esm, value }) => {
  const heard = [], sent = [];
  const state = { value, knows: {}, beat: "" };
  const model = {
    get: (name) => state[name],
    on: (name, call) => heard.push(call),
    off() {},
    send: (content) => sent.push(content),
  };
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const module = await import(url);
  const el = document.querySelector("#text");
  await module.default.render({ model, el });
  const box = () => el.querySelector(".fv-text");
  globalThis.test = {
    sent,
    scroll: (by) => { box().scrollTop += by; },
    draw(value) { state.value = value; for (const call of heard) call(); },
    below(token) {
      const cell = box().querySelector(`i[data-t="${token}"]`);
      const top = box().getBoundingClientRect().top;
      return Math.round(cell.getBoundingClientRect().top - top);
    },
    top() {
      const top = box().getBoundingClientRect().top;
      for (const cell of box().querySelectorAll("i[data-t]")) {
        const below = cell.getBoundingClientRect().top - top;
        if (below >= 0) return [Number(cell.dataset.t), Math.round(below)];
      }
    },
  };
}"""


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=2 * LIMIT_TOKENS)


@pytest.fixture
def tab(chromium: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        look = theme("light")
        page.set_content(f"{style_sheet(look)}<div id=text style='width:500px'></div>")
        yield page
        browser.close()


def drawn(trace: Trace, steps: int) -> str:
    view = TextView(60)
    view.show(trace.until(steps), None, live=True, growing=True)
    return view.value


@pytest.mark.browser
def test_who_reads_back_in_a_growing_text_stays_there(tab: Any, trace: Trace) -> None:
    tab.evaluate(PAGE, {"esm": TextView._esm, "value": drawn(trace, 560)})
    tab.evaluate("test.scroll(-40)")
    token, below = tab.evaluate("test.top()")
    assert token > 400
    for steps in (561, 562, 575, 590):  # more comes; then what came first is given up
        tab.evaluate("(value) => test.draw(value)", drawn(trace, steps))
        assert tab.evaluate("test.below", token) == below
    for steps in (761, 961):  # that token itself, and then all that is read
        tab.evaluate("(value) => test.draw(value)", drawn(trace, steps))
    assert tab.evaluate("test.top()")[0] >= 600


@pytest.mark.browser
def test_a_click_or_a_key_leads_to_the_tokens_before(tab: Any, trace: Trace) -> None:
    view = TextView(120)
    view.show(trace, None)
    tab.evaluate(PAGE, {"esm": TextView._esm, "value": view.value})
    tab.locator(".more").click()
    picked = tab.evaluate("test.sent[0].token")
    assert picked == len(trace.token_rows) - LIMIT_TOKENS - 1
    number, page = (tab.evaluate(f"test.sent[0].{name}") for name in ("number", "page"))
    assert number == 1 and page
    view.show(trace, picked)
    tab.evaluate("(value) => test.draw(value)", view.value)
    assert tab.evaluate("test.top()")[0] < picked
    tab.evaluate("document.querySelector('.fv-text').focus()")
    tab.keyboard.press("Home")  # the words for those before
    before = tab.evaluate("test.sent.at(-1).token")
    assert f'class="more" data-t="{before}"' in view.value and before < picked - 100
