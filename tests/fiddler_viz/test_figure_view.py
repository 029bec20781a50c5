from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from engine.replay import replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.figures import (
    heatmap_figure,
    timeline_figure,
    update_heatmap,
    update_timeline,
    window,
)
from fiddler_viz.frames import grid
from fiddler_viz.views.changes import Changes, look_up, put, same, written
from fiddler_viz.views.figure_view import FigureView
from fiddler_viz.views.plotly_code import Plotly


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    first = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=40)
    return [first, *(replay(first, policy=name).trace for name in ("lru", "stream", "cpu"))]


@pytest.fixture
def plotly() -> Iterator[Plotly]:
    made = Plotly()
    yield made
    made.close()


def as_sent(figure: go.Figure) -> Any:
    """The figure as a browser gets it, trace ids apart."""
    return json.loads(figure.to_json().replace("NaN", "null"), object_hook=_without_uid)


def _without_uid(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "uid"}


def test_heatmap_changes_as_plotly_would(traces: list[Trace], plotly: Plotly) -> None:
    slow = heatmap_figure(grid(traces[0]))
    view = FigureView(heatmap_figure(grid(traces[0])), plotly)
    for trace in traces[1:]:
        for show in ("popularity", "token"):
            shown = grid(trace, show=show)
            update_heatmap(slow, shown)
            view.change(lambda figure, shown=shown: update_heatmap(figure, shown))
            assert as_sent(go.Figure(view)) == as_sent(slow)


def test_timeline_changes_as_plotly_would(traces: list[Trace], plotly: Plotly) -> None:
    slow = timeline_figure(window(traces[0]))
    view = FigureView(timeline_figure(window(traces[0])), plotly)
    for trace in traces[1:]:
        for step in (None, 3):  # a raster, then bars
            shown = window(trace, step=step)
            update_timeline(slow, shown)
            view.change(lambda figure, shown=shown: update_timeline(figure, shown))
            assert as_sent(go.Figure(view)) == as_sent(slow)


def test_what_is_there_already_is_not_sent(traces: list[Trace], plotly: Plotly) -> None:
    shown = grid(traces[0])
    view = FigureView(heatmap_figure(shown), plotly)
    sent: list[Any] = []
    view._send_update_msg = lambda *message: sent.append(message)
    assert not view.change(lambda figure: update_heatmap(figure, shown))
    other = grid(traces[1])
    assert view.change(lambda figure: update_heatmap(figure, other))
    assert len(sent) == 1
    assert not view.change(lambda figure: update_heatmap(figure, other))


def test_many_threads_write_whole_messages(plotly: Plotly) -> None:
    view = FigureView(go.Figure(go.Scatter(x=[0], y=[0], name="0")), plotly)
    messages: list[Any] = []
    view._send_update_msg = lambda restyle, relayout, traces: messages.append((restyle, relayout))

    def write(number: int) -> None:
        for turn in range(50):
            value = 1000 * number + turn + 1

            def update(figure: Any, value: int = value) -> None:
                figure.data[0].x = np.array([value], np.float32)
                figure.data[0].y = np.array([value], np.float32)
                figure.layout.title = {"text": str(value)}

            view.change(update)
            state = view.get_state(["_widget_data", "_widget_layout"])
            x = np.frombuffer(state["_widget_data"][0]["x"]["buffer"], np.float32)[0]
            assert state["_widget_layout"]["title"]["text"] == str(int(x))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(messages) == 200
    for restyle, relayout in messages:
        assert restyle["x"][0][0] == restyle["y"][0][0] == int(relayout["title"]["text"])


def test_a_page_gets_plotlys_code_once(plotly: Plotly) -> None:
    view = FigureView(go.Figure(), plotly)
    assert len(str(view._esm)) < 10_000
    assert len(plotly.code) > 1_000_000
    assert view._plotly_id == plotly.model_id
    assert view._config["responsive"]


def test_changes_notes_paths_and_reads_what_is() -> None:
    data = [{"x": np.arange(3), "marker": {"color": "red"}}]
    changes = Changes(data, {"images": [{"source": "a"}], "xaxis": {"range": [0, 1]}})
    changes.data[0].marker.color = "blue"
    changes.data[0].update(y=[1], marker={"size": 3})
    changes.layout.images[0].source = "b"
    changes.layout.xaxis.range = [1, 2]
    assert changes.traces == {0: {("marker", "color"): "blue", ("y",): [1], ("marker", "size"): 3}}
    assert {written(path): value for path, value in changes.relayout.items()} == {
        "images[0].source": "b",
        "xaxis.range": [1, 2],
    }
    assert len(changes.data[0].x) == 3
    assert changes.data[0].marker.color == "red"
    assert len(changes.data[0].text) == 0


def test_put_look_up_and_same() -> None:
    tree: dict[str, Any] = {"a": [{"b": 1}]}
    put(tree, ("a", 0, "b"), 2)
    put(tree, ("c", "d"), [1])
    assert tree == {"a": [{"b": 2}], "c": {"d": [1]}}
    put(tree, ("c", "d"), None)
    assert look_up(tree, ("c", "d")) is None
    assert look_up(tree, ("a", 5, "b")) is None
    nan = np.array([1.0, np.nan], np.float32)
    assert same(nan, nan.copy())
    assert not same(nan, nan[:1])
    assert not same(None, nan)
    assert same((1, 2), [1, 2])
    assert not same("a", ["a"])
    assert same(np.array(["x"]), np.array(["x"]))
    texts = np.array([None, "x"], dtype=object)
    assert same(texts, texts.copy()) and not same(np.array([nan[0], 1.0]), texts)


def test_another_figure_takes_its_place(traces: list[Trace], plotly: Plotly) -> None:
    view = FigureView(heatmap_figure(grid(traces[0])), plotly)
    clicks: list[Any] = []
    view.data[0].on_click(lambda *_: clicks.append(1))
    other = timeline_figure(window(traces[0]), "dark")
    before, sent = view._replaced, list[Any]()
    view.send_state = lambda key=None: sent.append(key)
    view.replace(other)
    assert as_sent(go.Figure(view)) == as_sent(other)
    assert view._replaced == before + 1 and ["_widget_data", "_widget_layout"] in sent
    state = view.get_state()
    assert len(state["_widget_data"]) == len(other.data) and state["_py2js_addTraces"] is None
    shown = window(traces[1])
    update_timeline(other, shown, "dark")
    view.change(lambda figure: update_timeline(figure, shown, "dark"))  # and goes on from there
    assert as_sent(go.Figure(view)) == as_sent(other)
    assert clicks == []
