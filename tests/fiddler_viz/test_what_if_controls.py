"""The row of what-ifs: what it sends, what it follows, what it says cannot be asked."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from engine.placement import change_plan
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from fiddler_viz.views.what_if_controls import WhatIfControls, costable, why_these
from tests.engine.test_measured import MODEL, calibrated

MIXTRAL = ModelSpec.preset("mixtral-8x7b")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=1).plan


def controls_of(plan: Plan) -> tuple[WhatIfControls, list[Any]]:
    heard: list[Any] = []
    made = WhatIfControls(
        plan, MIXTRAL, lambda name, value: heard.append((name, value)), heard.append
    )
    return made, heard


def index_of(slider: Any, value: float) -> int:
    return [each for _, each in slider.options].index(value)


def test_hidden_until_asked_for(plan: Plan) -> None:
    controls, _ = controls_of(plan)
    assert controls.row.layout.display == "none"
    controls.toggle.set_state({"value": True})
    assert controls.row.layout.display == ""


def test_sliders_have_the_machine_s_own_value_and_units(plan: Plan) -> None:
    controls, heard = controls_of(plan)
    assert controls.link_label.value == "25.2 GB/s (own)"
    assert controls.cores_label.value == "16 cores (own)"
    controls.link.set_state({"index": index_of(controls.link, 50)})
    controls.cores.set_state({"index": index_of(controls.cores, 32)})
    assert heard == [("link_gbps", 50), ("cpu_cores", 32)]
    assert controls.link_label.value == "50 GB/s"
    assert controls.cores_label.value == "32 cores"
    links = [value for _, value in controls.link.options]
    assert links == sorted(links) and 25.2064 in links
    assert all(1.04 < b / a < 1.6 for a, b in pairwise(links) if a not in (25, 25.2064))


def test_menus_send_names_and_models(plan: Plan) -> None:
    controls, heard = controls_of(plan)
    half = replace(MIXTRAL, name="half", expert_bytes=10**8)
    controls.follow(plan, MIXTRAL, loaded=half)
    controls.planner.value = "layers"
    controls.costed.value = "half"
    assert heard == [("planner", "layers"), ("as_model", half)]


def test_following_calls_nobody_back(plan: Plan) -> None:
    controls, heard = controls_of(plan)
    asked = change_plan(plan, model=MIXTRAL, link_gbps=47, cpu_cores=5, planner="uniform")
    controls.follow(asked, MIXTRAL, drives=True, at_once=False, asks=True)
    assert (controls.link.value, controls.cores.value) == (47, 5)  # between the steps, too
    assert controls.planner.value == "uniform"
    assert not controls.live.value and not controls.live.disabled
    assert not controls.apply.disabled and not controls.reset.disabled
    controls.follow(plan, MIXTRAL)
    assert controls.link_label.value == "25.2 GB/s (own)"
    assert controls.live.disabled and controls.apply.disabled and controls.reset.disabled
    assert heard == []


def test_a_moving_slider_is_not_pulled_back(plan: Plan) -> None:
    controls, _ = controls_of(plan)
    controls.link.value = 100
    controls.follow(plan, MIXTRAL, moving=lambda: {"link_gbps"})
    assert (controls.link.value, controls.link_label.value) == (100, "100 GB/s")


def test_buttons_and_live(plan: Plan) -> None:
    controls, heard = controls_of(plan)
    controls.follow(plan, MIXTRAL, drives=True, asks=True)
    controls.live.set_state({"value": False})
    controls.apply.click()
    controls.reset.click()
    controls.live.set_state({"value": True})
    assert heard == ["ask", "apply", "reset", "live"]


def test_what_cannot_be_asked_says_why(plan: Plan) -> None:
    controls, _ = controls_of(plan)
    unknown = replace(plan, hardware="my-laptop", basis=None)
    controls.follow(unknown, MIXTRAL)
    assert controls.link.disabled and "rates" in controls.link.tooltip
    assert controls.link_label.value == "unknown"
    for gpu, disabled in ((False, True), (True, False)):
        more = {"accelerator": True, "gpu_memory_bytes": 10**9} if gpu else {}
        trace = synthetic_trace(
            MODEL, gpu_memory="50%", decode_tokens=1, hardware=calibrated(**more)
        )
        controls = WhatIfControls(trace.plan, MODEL, print, print)
        assert controls.link.disabled is disabled
        assert controls.cores.disabled and "measured with this very model" in controls.cores.tooltip
        assert controls.cores_label.value == "as measured"


def test_only_models_of_the_grid_are_offered(plan: Plan) -> None:
    controls, _ = controls_of(plan)
    names = ["mixtral-8x7b", "mixtral-8x7b-int8", "mixtral-8x7b-int4"]
    assert list(costable(MIXTRAL)) == names == list(controls.costed.options)
    assert costable(MIXTRAL)["mixtral-8x7b-int4"].expert_bytes < 0.27 * MIXTRAL.expert_bytes
    quantised = ModelSpec.preset("gpt-oss-120b")
    assert list(costable(quantised)) == ["gpt-oss-120b"]  # its weights have few bits already
    assert "32 layers x 8 experts, top-2" in controls.costed.tooltip
    assert "deepseek-v3 (58 x 256, top-8)" in why_these(MIXTRAL)
    assert "mixtral-8x7b (" not in why_these(MIXTRAL)
