"""What an explorer shows of an engine that has not run yet: an example, where there is one."""

from __future__ import annotations

from typing import Any

import pytest

import fiddler_viz as fv
from engine.replay import replay_plan
from fiddler_viz import demo


@pytest.mark.parametrize("changes", [{}, {"gpu_memory": "20%"}, {"quantize": "int8"}])
def test_the_bundled_run_costed_as_the_engine_costs_it(changes: dict[str, Any]) -> None:
    with fv.load("demo", **changes) as engine:
        explorer = fv.Explorer(engine)
        try:
            expected = replay_plan(demo.trace().costed_as(engine.model_spec), engine.plan).summary
            assert explorer.trace.summary == expected
            assert explorer.name == "demo" and explorer.trace.model == engine.model_spec
            assert "Shown: the bundled run under this plan." in explorer.screen.status.text
            run = engine.generate("To be", 3)
            explorer.flush()
            assert explorer.trace is run.trace
        finally:
            explorer.close()


def test_without_a_device_there_is_nothing_to_show_yet() -> None:
    with fv.load("demo", device="host") as engine:
        explorer = fv.Explorer(engine)
        try:
            words = "Everything runs on the CPU, from host memory. Nothing has run yet: press Run."
            assert explorer.screen.status.text == words
            engine.generate("To be", 3)
            explorer.flush()
            tiles = explorer.screen.tiles.value
            assert "predicted with a GPU" in tiles and "this run used no GPU" in tiles
        finally:
            explorer.close()
        again = fv.Explorer(engine)
        assert "which this run did not use" in again.screen.status.text
        again.close()
