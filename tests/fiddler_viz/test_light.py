"""Bounds beside the drawing: at once for short runs, in a thread of their own for long ones."""

from __future__ import annotations

import threading
import time

import pytest

from engine.bounds import bound
from engine.replay import replay
from engine.synthetic import synthetic_trace
from fiddler_viz.explorer import Explorer
from fiddler_viz.views import light
from fiddler_viz.views.light import Light
from fiddler_viz.views.tiles import LIGHT, Tiles, make_tiles
from tests.fiddler_viz.make_trace import toy_trace


def test_a_short_run_s_is_at_hand() -> None:
    trace = toy_trace()
    found = Light(lambda: None).of(trace)
    assert found == bound(trace)
    (tile,) = [
        t for t in make_tiles(None, trace.summary, what_if=False, light=found) if t.name == LIGHT
    ]
    assert tile.value == f"{100 * found.decode_achieved:.0f}%" and "busy" in tile.note


def test_a_long_run_s_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "SOON_ROWS", 0)
    monkeypatch.setattr(light, "_REST_S", 0.05)
    came, made = threading.Event(), Light(lambda: came.set())
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=4)
    others = [replay(trace, gpu_memory=f"{gb}GB").trace for gb in (30, 40)]
    for each in (trace, *others):
        assert made.of(each) is None
    assert came.wait(10)
    assert made.of(others[-1]) == bound(others[-1])
    assert (
        repr(made) == "Light(Background(1 answers))"
    )  # what was asked in between was not worked out
    tiles = make_tiles(None, trace.summary, what_if=False, pending=True)
    assert tiles[-1].value == "…"
    shown, known = Tiles(), make_tiles(None, trace.summary, what_if=False, light=bound(trace))
    value = next(tile.value for tile in known if tile.name == LIGHT)
    shown.show(known)
    shown.show(tiles)
    last = shown.value.split("fv-tile ")[-1]  # what was there stays, dimmed
    assert f">{value}<" in last and " old" in last.split('"')[0]
    made.close()
    assert not any(t.name == "fiddler-viz-light" for t in threading.enumerate())


def test_closed_it_ends() -> None:
    made = Light(lambda: None)
    made.close()
    assert made.of(toy_trace()) is not None  # short ones need no thread


def test_an_explorer_shows_it_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "SOON_ROWS", 0)
    monkeypatch.setattr(light, "_REST_S", 0.05)
    trace = toy_trace()
    explorer = Explorer(trace)
    try:
        tiles = explorer.screen.tiles
        wanted = f">{100 * bound(trace).decode_achieved:.0f}%<"
        end = time.monotonic() + 10
        while wanted not in tiles.value and time.monotonic() < end:
            time.sleep(0.01)
        assert wanted in tiles.value.split(LIGHT)[1]
    finally:
        explorer.close()
