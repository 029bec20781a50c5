"""What a page does with frames and with a plot that begins anew: ``live_frame.js`` in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.synthetic import synthetic_trace
from fiddler_viz.figures import heatmap_figure, timeline_figure
from fiddler_viz.figures.heatmap_words import scale
from fiddler_viz.figures.window import Windows
from fiddler_viz.frames import grid
from fiddler_viz.theme import theme
from fiddler_viz.views.beat import Beat
from fiddler_viz.views.figure_view import FigureView
from fiddler_viz.views.live_frame import (
    LiveFrame,
    heatmap_frame,
    heatmap_look,
    timeline_frame,
    timeline_look,
)
from fiddler_viz.views.plotly_code import Plotly
from fiddler_viz.views.style import style_sheet

PAGE = """async ({ esm, beats, code, state, frame }) => {
  class Model {
    constructor(state) { Object.assign(this, { state, heard: [] }); }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; this.tell(`change:${name}`); }
    on(name, call) { this.heard.push([name, call]); }
    off(name, call) { this.heard = this.heard.filter(([n, c]) => n !== name || c !== call); }
    tell(name, ...what) { this.heard.filter(([n]) => n === name).forEach(([, c]) => c(...what)); }
    send() {}
    save_changes() {}
  }
  const beat = new Model({}), model = new Model(state), library = new Model({ code });
  const models = { [state._plotly_id]: library, beat };
  model.widget_manager = { get_model: async (id) => models[id] };
  const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const module = await load(esm);
  (await load(beats)).default.initialize({ model: beat });
  const el = document.querySelector("#plot");
  await module.default.render({ model, el });
  const buffers = frame.buffers.map((text) =>
    new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
  const painted = () => [el.querySelectorAll("canvas.fv-live").length,
    el.classList.contains("fv-live-timeline")];
  Object.assign(globalThis, { test: { el, model, beat, painted,
    rest: () => new Promise((resolve) => setTimeout(resolve, 300)),
    paint: (panel = "timeline", changes = {}) =>
      beat.tell("msg:custom", { [panel]: { ...frame.content, ...changes } }, buffers),
    restyle: () => model.set("_py2js_update", { trace_data: {}, layout_data: { dragmode: "pan" },
      style_traces: [0], source_view_id: null, trace_edit_id: 1, layout_edit_id: 1 }) } });
}"""


@contextmanager
def live_timeline(chromium: str, name: str, **layout: Any) -> Iterator[Any]:
    """A page with a timeline that hears frames."""
    playwright = pytest.importorskip("playwright.sync_api")
    trace, look, plotly = synthetic_trace("mixtral-8x7b", decode_tokens=4), theme(name), Plotly()
    figure = timeline_figure(Windows(trace).at(0, trace.duration_ns), look, height=240)
    view = FigureView(figure.update_layout(**layout), plotly, live=timeline_look("beat", look))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_content(f"{style_sheet(look)}<div id=plot style='width:700px'></div>")
        tab.evaluate(PAGE, given(view, plotly, timeline_frame(trace, 0, trace.duration_ns)))
        ask(tab, "test.model.set('_opened', 1)")
        yield tab
        browser.close()


@pytest.mark.browser
def test_a_canvas_goes_with_the_next_drawing_also_of_a_plot_that_began_anew(chromium: str) -> None:
    with live_timeline(chromium, "dark") as tab:
        assert ask(tab, "test.paint()") == [1, True]
        assert ask(tab, "test.restyle()") == [0, False], "a drawing takes its place"
        assert ask(tab, "test.paint()") == [1, True]
        assert ask(tab, "test.beat.tell('msg:custom', { drawn: true })") == [0, False]
        assert ask(tab, "test.paint()") == [1, True]
        ask(
            tab,
            "test.el.addEventListener('fv-painted', () => (test.times = 1 + (test.times ?? 0)))",
        )
        assert ask(tab, "test.paint(); test.paint(); test.paint()") == [1, True]
        assert tab.evaluate("test.times") == 1, "a page that is slower paints the newest only"
        assert ask(tab, "test.paint(); test.beat.tell('msg:custom', { drawn: true })") == [0, False]
        assert tab.evaluate("test.times") == 1, "and none that a drawing has overtaken"
        assert ask(tab, "test.paint()") == [1, True]
        opacity = "(at) => getComputedStyle(test.el.querySelector(at)).opacity"
        assert tab.evaluate(opacity, ".cartesianlayer") == "0"
        assert tab.evaluate(opacity, ".zoomlayer") == "1", "where one drags is seen"
        assert tab.evaluate(opacity, ".main-svg:has(> .zoomlayer)") == "1"

        assert ask(tab, "test.model.set('_replaced', 1)") == [0, False], "nothing is left hidden"
        assert ask(tab, "test.paint()") == [1, True]
        assert ask(tab, "test.restyle()") == [0, False], "the new drawing is listened to"


@pytest.mark.browser
def test_a_drag_is_read_from_the_axis_at_its_press(chromium: str) -> None:
    with live_timeline(chromium, "light", dragmode="zoom") as tab:
        ask(tab, "test.paint('timeline', { start_s: 0, end_s: 1 })")
        plot = tab.locator(".nsewdrag").bounding_box()
        middle = plot["y"] + plot["height"] / 2
        tab.mouse.move(plot["x"] + 0.2 * plot["width"], middle)
        tab.mouse.down()
        tab.mouse.move(plot["x"] + 0.4 * plot["width"], middle, steps=5)
        ask(tab, "test.paint('timeline', { start_s: 5, end_s: 6 })")
        tab.mouse.up()
        shown = "test.el._fullLayout.xaxis.range"
        tab.wait_for_function(f"{shown}[1] < 0.9")
        assert tab.evaluate(shown) == pytest.approx([0.2, 0.4], abs=0.02)
        ask(tab, "test.paint('timeline', { start_s: 5, end_s: 6 })")
        assert tab.evaluate(shown) == [5, 6], "painted again once the mouse is up"


@pytest.mark.browser
def test_the_colour_scale_says_what_the_frame_shows(chromium: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    look, plotly = theme("light"), Plotly()
    half, whole = (
        grid(synthetic_trace("mixtral-8x7b", decode_tokens=tokens), show="time")
        for tokens in (2, 8)
    )
    cells = heatmap_look("beat", half.amount.size)
    view = FigureView(heatmap_figure(half, look), plotly, live=cells, label="a map")
    before, then = scale(half)[1], scale(whole)[1]
    assert before != then
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_content(f"{style_sheet(look)}<div id=plot style='width:500px'></div>")
        tab.evaluate(PAGE, given(view, plotly, heatmap_frame(whole, look)))
        ask(tab, "test.model.set('_opened', 1)")
        labels = "[...test.el.querySelectorAll('.colorbar .cbaxis text')].map((t) => t.textContent)"
        assert tab.evaluate(labels) == before
        assert [tab.evaluate(SEEN, layer) for layer in (".heatmaplayer", ".scatterlayer")] == [1, 1]
        ask(tab, "test.paint('heatmap')")
        assert tab.evaluate(labels) == then
        for layer in (".heatmaplayer", ".scatterlayer"):
            assert tab.evaluate(SEEN, layer) == 0, "plotly's older drawing shows through"
        assert tab.evaluate(SEEN, ".fv-live") == tab.evaluate(SEEN, ".colorbar") == 1
        ask(tab, "test.beat.tell('msg:custom', { drawn: true })")
        assert tab.evaluate(labels) == before, "plotly's again"
        assert tab.get_by_role("group", name="a map").count() == 1
        browser.close()


SEEN = """(at) => {
  let seen = 1;
  for (let each = test.el.querySelector(at); each; each = each.parentElement)
    seen *= getComputedStyle(each).opacity;
  return seen;
}"""
"""How opaque a part of the plot is, with all that it stands in."""


def ask(tab: Any, script: str) -> list[Any]:
    """Do something, and say what there is a moment later: canvases, and whether plotly hides."""
    return tab.evaluate(f"async () => {{ {script}; await test.rest(); return test.painted(); }}")


def given(view: FigureView, plotly: Plotly, frame: LiveFrame | None) -> dict[str, Any]:
    """What a page is sent, as JSON."""
    import base64

    assert frame is not None
    buffers = [base64.b64encode(each).decode() for each in frame.buffers]
    content = {**frame.content, "buffers": list(range(len(buffers)))}
    state = {
        "_plotly_id": plotly.model_id,
        "_plotly_version": "test",
        "_live": view._live,
        "label": view.label,
        "_widget_data": json.loads(view.to_json())["data"],
        "_widget_layout": json.loads(view.to_json())["layout"],
        "_config": view._config,
    }
    return {
        "esm": str(view._esm),
        "beats": str(Beat._esm),
        "code": plotly.code,
        "state": state,
        "frame": {"content": content, "buffers": buffers},
    }
