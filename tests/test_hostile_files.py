"""Spoilt trace files: typed errors or a trace that works, never more memory than twice the file.

A longer campaign by hand: ``python -m tests.hostile_files FIRST MANY``.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.engine.builders import Driver, toy_plan
from tests.fiddler_viz.make_trace import toy_trace
from tests.hostile_files import Parts, campaign, parts


def sound(folder: Path) -> list[Parts]:
    """Two sound files: several plans and a step cut short; one text with predictions."""
    driver, rng = Driver(toy_plan(6, 3, "lru")), random.Random(0)
    driver.step(rng, 4)
    driver = Driver(toy_plan(6, 3, "lru"), driver.orchestrator.start())
    driver.step(rng, 5)
    driver.step(rng, plans=[toy_plan(5, 2, "fiddler", planner="random")])
    driver.step(rng, layers=1)
    driver.step(rng, plans=[toy_plan(3, policy="cpu")])
    made = [driver.trace(), toy_trace(policy="lru", cache_slots=3, decode_tokens=3)]
    return [
        parts(trace.save(folder / f"sound{number}.safetensors"))
        for number, trace in enumerate(made)
    ]


@pytest.mark.parametrize("part", range(4))
def test_two_thousand_spoilt_files(part: int, tmp_path: Path) -> None:
    """4 x 500 files: spoilt bytes, lengths, headers, meta and columns."""
    loaded, wrong = campaign(sound(tmp_path), 500 * part, 500, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert 20 < loaded < 480
