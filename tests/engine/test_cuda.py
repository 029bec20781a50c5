"""The CUDA device through a runtime that is not there: same results, measured lanes, few waits."""

from __future__ import annotations

import pytest
import torch

import fiddler_viz as fv
from engine import devices
from engine.hybrid import HybridEngine
from tests.engine.fake_runtime import FakeRuntime

PROMPT = "ROMEO:\nBut soft, what light through yonder window breaks?\n"


@pytest.fixture(scope="module")
def engine() -> HybridEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "open_cuda", lambda _: FakeRuntime())
        return fv.load("demo", device="cuda", gpu_memory="50%")


def test_whole_path(engine):
    run = engine.generate(PROMPT, 16, do_sample=False)
    host = fv.load("demo", device="host")
    assert run.tokens == host.generate(PROMPT, 16, do_sample=False).tokens
    print(run.trace, run.summary)
    print(run.trace.to_pandas("work").lane.value_counts())
    run.trace.check()
