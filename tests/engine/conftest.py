from __future__ import annotations

from collections.abc import Iterator

import pytest

import fiddler_viz as fv
from engine.hybrid import HybridEngine
from fiddler_viz import demo


@pytest.fixture(scope="session")
def loaded() -> HybridEngine:
    """The demo model, loaded once; use `engine`, which resets its plan."""
    return fv.load("demo", as_model=demo.COSTED_AS, gpu_memory="24GB")


@pytest.fixture
def engine(loaded: HybridEngine) -> Iterator[HybridEngine]:
    """The demo engine under its first plan: fiddler, 24 GB of an RTX 4090, no cache."""
    loaded.replan(
        reset_pins=True,
        gpu_memory="24GB",
        policy="fiddler",
        planner="popularity",
        cache_slots=0,
        hardware="rtx-4090",
    )
    yield loaded
    assert not loaded.running, "a test left the engine generating"
