"""Figures and views of a run on a measured device: four lanes, resident experts, replans."""

from __future__ import annotations

import numpy as np
import pytest

import fiddler_viz as fv
from engine import devices
from engine.events import Lane
from engine.hybrid import HybridEngine
from engine.run import Run
from tests.engine.fake_runtime import FakeRuntime


@pytest.fixture(scope="module")
def engine() -> HybridEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "open_cuda", lambda _: FakeRuntime())
        return fv.load("demo", device="cuda", gpu_memory="40%", policy="lru")


@pytest.fixture(scope="module")
def run(engine: HybridEngine) -> Run:
    budgets = iter(("30%", "50%"))

    def change(_: str) -> None:
        budget = next(budgets, None)
        if budget is not None:
            engine.replan(gpu_memory=budget)

    return engine.generate("To be, or not", 8, do_sample=False, on_text=change)


def test_figures(run: Run) -> None:
    trace = run.trace
    assert len(trace.plan_list) == 3
    for draw in (fv.heatmap, fv.timeline, fv.memory):
        assert draw(trace) is not None
    assert "measured" in str(fv.timeline(trace).layout.title.text) + str(trace.summary)
    assert {Lane.GPU, Lane.H2D, Lane.D2H} <= set(np.unique(trace.work["lane"]).tolist())


def test_explorer_follows_the_run(engine: HybridEngine, run: Run) -> None:
    explorer = fv.Explorer(engine)
    try:
        engine.generate("To be", 4, do_sample=False)
    finally:
        explorer.close()


def test_file_and_replay(run: Run, tmp_path: object) -> None:
    path = run.trace.save(f"{tmp_path}/run.safetensors")
    again = fv.Trace.load(path)
    for name in ("work_rows", "move_rows", "step_rows"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run.trace, name))
    assert fv.replay(again, policy="stream").summary.clock == "modelled"
    assert again.meta["notes"] and again.meta["device"] == "cuda"
    for step in (0, 3):
        assert len(again.until(step).step_rows) == step + 1


def test_what_is_where_is_what_the_ledger_says(engine: HybridEngine, run: Run) -> None:
    """Residency read back from the moves is the device's own."""
    history = fv.memory(run.trace)
    assert history is not None
    places = engine.residency.places()
    held = np.zeros(places.size, dtype=bool)
    held[list(engine.device.held())] = True
    np.testing.assert_array_equal(held.reshape(places.shape), places > 0)
