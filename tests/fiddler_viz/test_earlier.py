from __future__ import annotations

from dataclasses import replace

import numpy as np

from fiddler_viz.frames import shares
from fiddler_viz.views.earlier import MOST, PROFILE, Earlier
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace


def test_the_latest_runs_are_kept_and_no_more() -> None:
    earlier, trace = Earlier(), toy_trace()
    earlier.keep(None)
    earlier.keep(empty_trace())
    assert earlier.names() == [PROFILE]
    for number in range(MOST + 3):
        earlier.keep(replace(trace, meta={"prompt": f"text {number}"}))
    names = earlier.names()
    assert len(names) == MOST + 1 and repr(earlier) == f"Earlier({MOST} runs)"
    assert names[1] == f"run {MOST + 3}: text {MOST + 2}"
    np.testing.assert_array_equal(earlier.against(names[1], trace).share, shares(trace).share)


def test_what_is_not_kept_is_the_profile() -> None:
    earlier, trace = Earlier(), toy_trace()
    profile = shares(trace.plan.profile, trace.model.top_k)
    np.testing.assert_array_equal(earlier.against("run 7: gone", trace).share, profile.share)
    earlier.keep(toy_trace(model=toy_model(layers=2)))
    other = earlier.against(earlier.names()[1], trace)  # of another model
    assert other.share.shape == trace.model.grid


def test_prompts_are_raw_texts() -> None:
    earlier = Earlier()
    earlier.keep(replace(toy_trace(), meta={"prompt": HOSTILE}))
    assert "</script>" in earlier.names()[1] and len(earlier.names()[1]) < 40
