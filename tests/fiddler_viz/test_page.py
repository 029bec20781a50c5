from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError
from engine.events import Why
from engine.replay import replay
from engine.residency import Place
from engine.trace import Trace
from fiddler_viz.figures import heatmap
from fiddler_viz.frames import grid, places, segments, token_table
from fiddler_viz.page import render, to_html
from fiddler_viz.page.linked import linked_tokens, linked_work
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(policy="lru", cache_slots=3)


@pytest.fixture(scope="module")
def html(trace: Trace) -> str:
    return render(trace)


class Parsed(HTMLParser):
    """Counts elements and gathers what they would load and run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "action")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]


def test_page_is_one_file_that_loads_nothing(html: str) -> None:
    parsed = Parsed(html)
    assert parsed.loads == [] and parsed.handlers == []
    assert parsed.tags["script"] == 3  # data, plotly.js, ours
    assert "default-src 'none'" in html
    assert 4_000_000 < len(html) < 6_500_000


def test_page_shows_every_part(html: str, trace: Trace) -> None:
    parsed = Parsed(html)
    assert parsed.tags["button"] == len(trace.token_rows)
    assert parsed.tags["details"] == 3 and parsed.tags["table"] == 4
    for text in ("toy", "modelled clock", "policy lru", "3 cache slots", "GPU memory 6.70 GB"):
        assert text in html
    for name in ("heatmap", "timeline", "memory"):
        assert f'id="{name}"' in html


def test_hostile_tokens_stay_text(html: str) -> None:
    assert "<script>window" not in html and "<img" not in html
    assert html.count("</script>") == 3
    assert HOSTILE not in html


def test_hostile_names_stay_text(trace: Trace) -> None:
    from dataclasses import replace

    hostile = replace(
        trace,
        model=replace(trace.model, name=HOSTILE),
        plan_list=((0, replace(trace.plan, hardware_title=HOSTILE, policy=HOSTILE)),),
        meta={"loaded": HOSTILE, "ended": HOSTILE, "as_model": HOSTILE},
    )
    made = render(hostile)
    assert HOSTILE not in made and made.count("</script>") == 3


def data_of(html: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def test_page_s_figures_are_the_one_liners(html: str, trace: Trace) -> None:
    figures = data_of(html)["figures"]
    assert set(figures) == {"heatmap", "token", "timeline", "memory"}
    assert figures["heatmap"] == json.loads(heatmap(trace).to_json())


@pytest.mark.parametrize("policy", ["lru", "dynamic"])
def test_script_gets_each_token_s_experts(trace: Trace, policy: str) -> None:
    """Decoded as the script does it, against the frames that the kernel's figures draw."""
    if policy != "lru":  # one that fetches ahead
        trace = replay(trace, policy=policy, cache_slots=3).trace
        assert (trace.moves["why"] == Why.FETCH).any()
    linked = linked_tokens(trace)
    shape = (linked["tokens"], linked["layers"], linked["top_k"])

    def array(name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(linked[name]), dtype)

    expert = array("expert", "<i2").reshape(shape)
    weight = array("weight", "u1").reshape(shape) / 255
    action = array("action", "u1").reshape(shape)
    change, when = array("change", "<i4"), array("change_step", "<i4")
    for token in range(linked["tokens"]):
        shown = grid(trace, show="token", token=token)
        z = np.full(shown.shape, np.nan)
        ran = np.full(shown.shape, -1)
        for layer in range(shape[1]):
            z[layer, expert[token, layer]] = weight[token, layer]
            ran[layer, expert[token, layer]] = action[token, layer]
        np.testing.assert_allclose(z, shown.amount, atol=1 / 255)
        np.testing.assert_array_equal(ran, shown.ran)
        place = array("place", "u1").copy()
        for value, step in zip(change.tolist(), when.tolist(), strict=True):
            if step <= linked["step"][token]:
                place[value >> 2] = value & 3
        np.testing.assert_array_equal(place.reshape(shown.shape), shown.places)
    assert (places(trace) == Place.CACHED).any()
    assert len(linked["caption"]) == linked["tokens"] == len(token_table(trace)) - 1
    assert "<" not in "".join(linked["caption"])


def test_script_gets_each_step_s_work(trace: Trace) -> None:
    linked, found = linked_work(trace), segments(trace.work)

    def array(name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(linked[name]), dtype)

    first = 0
    for step, last in enumerate(linked["work_until"]):
        mine = np.flatnonzero(found.step == step)
        assert last - first == len(mine)
        start = array("work_start", "<f4")[first:last] * 1e9 + linked["step_range"][step][0]
        np.testing.assert_allclose(start, found.start_ns[mine], atol=100)
        length = array("work_length", "<f4")[first:last] * 1e9
        np.testing.assert_allclose(length, (found.end_ns - found.start_ns)[mine], rtol=1e-6)
        for name, values in (("kind", found.kind), ("lane", found.lane)):
            assert (array(f"work_{name}", "u1")[first:last] == values[mine]).all()
        for name, values in (("layer", found.layer), ("expert", found.expert)):
            assert (array(f"work_{name}", "<i2")[first:last] == values[mine]).all()
        first = last


@pytest.mark.parametrize("trace_of", [empty_trace, lambda: toy_trace(decode_tokens=0)])
def test_nothing_and_one_step(trace_of: object) -> None:
    made = trace_of()  # type: ignore[operator]
    html = render(made)
    assert ("nothing recorded yet" in html.split("<main>")[1].split("</main>")[0]) == (
        not len(made.step_rows)
    )


def test_page_returns_its_path_and_refuses_what_it_cannot_do(trace: Trace, tmp_path: Path) -> None:
    path = to_html(trace, str(tmp_path / "run.html"))
    assert path == tmp_path / "run.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(InputError, match="cannot write"):
        to_html(trace, tmp_path)
    with pytest.raises(InputError, match="path of a trace file"):
        to_html(42, tmp_path / "run.html")


# ------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape", [(32, 8, 2), (48, 128, 8)])
def test_page_works_from_disk(
    browser: object,
    tmp_path: Path,
    artifacts: Path,
    scheme: str,
    shape: tuple[int, int, int],
) -> None:
    model = toy_model(*shape)
    made = toy_trace(model=model, policy="lru", cache_slots=20, decode_tokens=20)
    path = to_html(made, tmp_path / "run.html")
    context = browser.new_context(  # type: ignore[attr-defined]
        color_scheme=scheme, viewport={"width": 1280, "height": 900}
    )
    tab = context.new_page()
    trouble: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#memory .main-svg")
    assert "Experts by popularity" in tab.text_content("#heatmap .gtitle")
    tab.click('button[data-token="7"]')
    tab.wait_for_function(
        "document.querySelector('#heatmap .gtitle').textContent.includes('token 7')"
    )
    assert "Timeline of step 3" in tab.text_content("#timeline .gtitle")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function(
        "document.querySelector('#heatmap .gtitle').textContent.includes('token 8')"
    )
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    tab.screenshot(path=artifacts / f"page-{shape[1]}-{scheme}.png", full_page=True)
    tab.keyboard.press("Enter")  # the same token again: back to popularity
    tab.wait_for_function(
        "document.querySelector('#heatmap .gtitle').textContent.includes('popularity')"
    )
    assert tab.evaluate("window.hacked") is None
    assert trouble == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    context.close()
