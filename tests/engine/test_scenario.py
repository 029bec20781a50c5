"""The engine used in four ways, and what each then asks of its experts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fiddler_viz as fv
from engine.demand import scenarios
from engine.errors import InputError
from engine.events import StepKind
from engine.hybrid import HybridEngine
from engine.scenario import PROMPTS, run_scenarios
from fiddler_viz import demo


@pytest.fixture(scope="module")
def wide() -> HybridEngine:
    return fv.load("demo", as_model=demo.COSTED_AS, gpu_memory="24GB", max_sequences=8)


def test_four_ways(wide: HybridEngine) -> None:
    runs = run_scenarios(wide, new_tokens=5, long_tokens=200)
    assert list(runs) == ["one request", "long prompt", "batch of 8", "4 beams"]
    found = {each.name: each for each in scenarios({k: v.trace for k, v in runs.items()}).each}
    assert found["one request"].words == "1 prompt, 15 tokens; 4 decode steps"
    assert found["long prompt"].words == "1 prompt, 200 tokens; 1 decode step"
    assert found["batch of 8"].words.startswith("8 prompts")
    assert "4 beams" in found["4 beams"].words
    unions = {name: each.phase(StepKind.DECODE) for name, each in found.items()}
    union = {name: phase.union for name, phase in unions.items() if phase is not None}
    assert union["one request"] == 0.25 < union["4 beams"] < union["batch of 8"]
    assert union["batch of 8"] > 0.7
    again = run_scenarios(wide, new_tokens=5, long_tokens=200)
    for name, run in runs.items():
        assert run.tokens == again[name].tokens
        np.testing.assert_array_equal(run.trace.work_rows, again[name].trace.work_rows)


def test_ones_own_prompts(wide: HybridEngine) -> None:
    one = run_scenarios(wide, "Hello", new_tokens=2, long_tokens=8, beams=2)
    assert one["batch of 8"].trace.tokens["sequence"].max() == 7  # beside others of ours
    assert one["one request"].trace.meta["prompt"] == "Hello"
    two = run_scenarios(wide, ["Hello", "Good bye"], new_tokens=2, long_tokens=8, beams=2)
    assert list(two) == ["one request", "long prompt", "batch of 2", "2 beams"]


def test_what_cannot_be_run() -> None:
    def refused(match: str, *args: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            run_scenarios(engine, *args, **options)

    engine = SimpleNamespace(tokenizer=object(), max_sequences=1)
    refused("load with max_sequences=8")
    engine.max_sequences = 8
    refused("prompt: expected a text", 5 * [""])
    refused("expected one text or several", [])
    refused("new_tokens: expected a whole number of at least 2", new_tokens=1)
    refused("long_tokens: expected", long_tokens="many")
    engine.tokenizer = None
    refused("no tokenizer")
    assert len(set(PROMPTS)) == 8
