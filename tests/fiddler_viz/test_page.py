from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.events import Why
from engine.planners import PLANNERS, Known
from engine.policies import POLICIES
from engine.replay import playable, replay
from engine.residency import Place
from engine.spec import HardwareSpec
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz import demo
from fiddler_viz.figures import heatmap
from fiddler_viz.frames import grid, places, segments, token_table
from fiddler_viz.page import rehearsal as rehearsing
from fiddler_viz.page import render, script, to_html
from fiddler_viz.page.linked import linked_tokens, linked_work
from fiddler_viz.page.rehearsal import IN_NOTEBOOKS, rehearse
from fiddler_viz.theme import percent
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
    assert parsed.tags["button"] == len(trace.token_rows) + 1  # and the way back to the run
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
    hostile = replace(trace, meta={**trace.meta, "loaded": "half a \ud800 pair"})
    assert "half a ? pair" in to_html(hostile, path).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        to_html(trace, tmp_path)
    with pytest.raises(InputError, match="path of a trace file"):
        to_html(42, tmp_path / "run.html")


def test_without_a_path_the_page_itself_comes(trace: Trace, tmp_path: Path) -> None:
    assert to_html(trace) == to_html(trace, tmp_path / "run.html").read_text(encoding="utf-8")


def test_without_scripts_it_says_why_charts_are_empty(trace: Trace) -> None:
    page = to_html(trace)
    assert "Scripts are off here" in page.split("<noscript>")[1].split("</noscript>")[0]


# ------------------------------------------------------------------------------------ what-ifs


def test_the_demo_s_page_is_under_8_mb() -> None:
    assert len(render(demo.trace()).encode()) < 8_000_000


def test_the_script_repeats_every_policy_but_one() -> None:
    rules = re.search(r"const RULES = \{(.*?)\n\};", script(), re.S)
    assert rules
    repeated = set(re.findall(r"^  (\w+)[:,]", rules[1], re.M))
    sent = rehearse(demo.trace())
    assert repeated == set(sent["policies"]) == set(POLICIES) - set(IN_NOTEBOOKS)
    assert sent["elsewhere"] == ["LRFU cache"]


def test_policies_that_need_predictions_stay_away_without_them(trace: Trace) -> None:
    assert set(rehearse(trace)["policies"]) == set(playable(trace)) - set(IN_NOTEBOOKS)
    assert "prefetch" not in rehearse(trace)["policies"]


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_pins_the_first_of_one_order(planner: str) -> None:
    """So one order stands for all budgets."""
    plan = replay(demo.trace(), planner=planner).trace.plan
    known = Known(plan.profile, plan.costs, plan.policy_class)
    order = rehearsing._order(plan, plan.policy_class, plan.costs).tolist()  # pyright: ignore[reportPrivateUsage]
    assert sorted(order) == list(range(256))
    for room in (0, 1, 7, 8, 100, 255, 256):
        first = room // 8 * 8 if planner == "layers" else room
        assert sorted(PLANNERS[planner](known, room).tolist()) == sorted(order[:first])


def test_a_page_that_cannot_be_live_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no run yet." in render(empty_trace())
    monkeypatch.setattr(rehearsing, "LIMIT_CALLS", 10)
    html = render(toy_trace())
    assert "a browser would lag behind the sliders" in html
    assert 'type="range"' not in html.split("</main>")[0]


def test_times_that_a_browser_cannot_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "LIMIT_WHOLE", 10**9)
    assert "too large to be added up exactly" in render(toy_trace())


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


def until(tab: Any, script: str) -> None:
    """Wait for an expression to be true; the page's own policy forbids playwright's way to poll."""
    for _ in range(200):
        if tab.evaluate(script):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"never came: {script}")


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
    until(tab, "document.querySelector('#heatmap .gtitle').textContent.includes('token 7')")
    assert "Timeline of step 3" in tab.text_content("#timeline .gtitle")
    tab.keyboard.press("ArrowRight")
    until(tab, "document.querySelector('#heatmap .gtitle').textContent.includes('token 8')")
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    tab.screenshot(path=artifacts / f"page-{shape[1]}-{scheme}.png", full_page=True)
    tab.keyboard.press("Enter")  # the same token again: back to popularity
    until(tab, "document.querySelector('#heatmap .gtitle').textContent.includes('popularity')")
    assert tab.evaluate("window.hacked") is None
    assert trouble == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    context.close()


def rows_of(work: dict[str, np.ndarray]) -> np.ndarray:
    names = ("step", "layer", "expert", "lane", "kind", "tokens", "start", "end")
    rows = np.stack([np.asarray(work[name], np.int64) for name in names], axis=1)
    return rows[np.lexsort(rows.T)]


def several_sequences() -> Trace:
    """Steps of several tokens, so that experts have more than one in decoding, too."""
    return synthetic_trace(toy_model(6, 16, 4), requests=3, prompt_tokens=20, decode_tokens=12)


def edited() -> Trace:
    """Of a run whose placement was edited by hand, on a machine with another link."""
    pin, unpin = [(3, 1), (3, 2), (30, None), (31, 0)], [(31, 1), (29, None), (4, 6)]
    return replay(demo.trace(), pin=pin, unpin=unpin, link_gbps=50).trace


@pytest.mark.browser
@pytest.mark.parametrize(
    ("made", "plans"),
    [(demo.trace, 32), (several_sequences, 60), (edited, 32)],
    ids=["demo", "batch", "edited"],
)
def test_page_answers_what_replay_says(browser: Any, tmp_path: Path, made: Any, plans: int) -> None:
    """Random plans, every policy in turn: summary, ends of steps, places, every piece of work."""
    trace, rng = made(), random.Random(0)
    plan, sent = trace.plan, rehearse(trace)
    machines = [None, *(name for name in HardwareSpec.presets() if name != plan.hardware)]
    tab = browser.new_page()
    tab.goto(to_html(trace, tmp_path / "run.html").as_uri())
    tab.wait_for_selector("#memory .main-svg")
    policies = list(sent["policies"])
    by_hand = len(plan.by_hand.pinned)
    for number in range(plans):
        total = plan.grid[0] * plan.grid[1]
        machine, room = rng.randrange(len(machines)), rng.randint(by_hand, total)
        budget = plan.minimum_bytes + room * plan.expert_bytes
        slots, policy = (
            rng.choice([0, room - by_hand, rng.randint(0, room - by_hand)]),
            policies[number % len(policies)],
        )
        asked = {"budget": budget, "slots": slots, "policy": policy, "machine": machine}
        text = tab.evaluate(
            """([asked, whole]) => {
              const { summary, ends, pinned, place, work } = fiddlerPage.answer(asked);
              const rest = { ends: [...ends], pinned: [...pinned], place: [...place] };
              return JSON.stringify({ ...rest, summary, work: whole ? work : null });
            }""",
            [asked, plans == 60 and number < 20],
        )
        got = json.loads(text)
        said = replay(
            trace,
            gpu_memory=budget,
            cache_slots=slots,
            policy=policy,
            hardware=machines[machine],
        ).trace
        wanted = said.summary.to_dict()
        for name, value in got["summary"].items():
            truth = said.duration_ns if name == "duration" else wanted[name]
            assert value == (list(truth.values()) if isinstance(truth, dict) else truth), asked
        assert got["ends"] == said.steps["end_ns"].tolist(), asked
        assert tuple(got["pinned"]) == said.plan.pinned, asked
        assert got["place"] == places(said).ravel().tolist(), asked
        if got["work"]:
            found = vars(segments(said.work))
            found = {name.removesuffix("_ns"): values for name, values in found.items()}
            np.testing.assert_array_equal(rows_of(got["work"]), rows_of(found), err_msg=str(asked))
    tab.close()


@pytest.mark.browser
def test_page_writes_shares_as_python_does(browser: Any) -> None:
    shares = [i / n for n in (1600, 997, 2) for i in range(n + 1)]  # ties, too: 12.5%, 6.25%
    source = (Path(rehearsing.__file__).parent / "formats.js").read_text()
    tab = browser.new_page()
    said = tab.evaluate(f"(shares) => {{ {source}; return shares.map(percent); }}", shares)
    assert said == [percent(share) for share in shares]
    tab.close()


HEIGHTS = "[...document.querySelectorAll('.figure')].map((figure) => figure.clientHeight)"


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 800)])
def test_sliders_are_moved_by_keys_and_everything_follows(
    browser: Any, tmp_path: Path, artifacts: Path, scheme: str, width: int
) -> None:
    trace = toy_trace(model=toy_model(8, 8, 2), decode_tokens=20)
    viewport = {"width": width, "height": 900}
    context = browser.new_context(color_scheme=scheme, viewport=viewport)
    tab = context.new_page()
    trouble: list[str] = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.goto(to_html(trace, tmp_path / "run.html").as_uri())
    tab.wait_for_selector("#memory .main-svg")
    pinned = "document.getElementById('heatmap')._fullData[2].x.length / 6"
    own = len(trace.plan.pinned)
    assert tab.evaluate(pinned) == own
    assert tab.is_disabled("[name=back]")
    decode = tab.inner_text("[data-tile=decode]")
    assert f"{trace.summary.tokens_per_s:.3g}" in decode and "modelled" in decode

    heights = tab.evaluate(HEIGHTS)
    assert min(heights) > 100
    tab.focus("[name=budget]")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    until(tab, f"{pinned} == {own + 3}")
    assert "predicted" in tab.text_content("#heatmap .gtitle")
    budget = trace.plan.minimum_bytes + (own + 3) * trace.plan.expert_bytes
    said = replay(trace, gpu_memory=budget).summary
    assert f"{said.tokens_per_s:.3g}" in tab.inner_text("[data-tile=decode]")
    assert f"{own + 3} of 64 experts pinned" in tab.inner_text("#whatif [role=status]")
    words = "document.querySelector('[name=budget]').getAttribute('aria-valuetext')"
    assert tab.evaluate(words) == f"{budget / 1e9:.1f} GB"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

    tab.select_option("[name=policy]", "lru")  # brings its own slots: all the room there is
    lru = replay(trace, gpu_memory=budget, policy="lru")
    assert tab.input_value("[name=slots]") == str(lru.trace.plan.cache_slots)
    rate = f"{lru.summary.tokens_per_s:.3g}"
    until(tab, f"document.querySelector('[data-tile=decode]').innerText.includes('{rate}')")
    tab.click("#heatmap ~ details summary")
    assert "Predicted." in tab.inner_text("#heatmap ~ details p")
    calls = lru.summary.calls
    assert f"{calls['resident']:,} resident" in tab.inner_text("#heatmap ~ details p")
    ragged = """[...document.querySelectorAll('details table')].filter((table) =>
        [...table.rows].some((row) => row.cells.length !== table.rows[0].cells.length)).length"""
    tab.click("#timeline ~ details summary")
    assert "Predicted." in tab.inner_text("#timeline ~ details p")
    assert tab.evaluate(ragged) == 0, "cells stand under their headings"
    assert "critical path" not in tab.text_content("#timeline .legend"), "none is worked out here"
    tab.click('button[data-token="9"]')
    until(tab, "document.querySelector('#timeline .gtitle').textContent.includes('of step 5')")
    shown = tab.evaluate("document.getElementById('timeline')._fullLayout.xaxis.range")
    steps = lru.trace.steps
    np.testing.assert_allclose(shown, [steps[f"{edge}_ns"][5] / 1e9 for edge in ("start", "end")])
    tab.screenshot(path=artifacts / f"page-whatif-{width}-{scheme}.png", full_page=True)

    tab.click("[name=back]")
    tab.click('button[data-token="9"]')
    until(tab, f"{pinned} == {own}")
    assert "predicted" not in tab.text_content("#heatmap .gtitle")
    assert tab.evaluate("document.activeElement.dataset.token") == "9"
    tab.keyboard.press("Escape")
    until(tab, "!document.querySelector('#timeline .gtitle').textContent.includes('of step')")
    assert tab.locator("[data-token][aria-pressed=true]").count() == 0
    tab.set_viewport_size({"width": width - 80, "height": 900})
    wide = "document.querySelector('#heatmap .main-svg').clientWidth"
    until(tab, f"{wide} <= {width - 80}")
    assert tab.evaluate(HEIGHTS) == heights, "a chart that was drawn anew keeps its height"
    assert trouble == []
    context.close()
