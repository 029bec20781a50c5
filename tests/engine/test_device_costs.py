"""Costs out of measured lanes: what was laid with known costs is found again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from engine.cost import CostModel, Curve
from engine.device_costs import device_times, layers_of
from engine.errors import FiddlerError, InputError
from engine.events import Clock
from engine.happened import Recorded
from engine.measured import DeviceCosts, ModelCosts
from engine.replay import replay
from engine.spec import resolve_hardware
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.test_measured import COSTS as ON_CPU
from tests.engine.test_measured import calibrated

PARTS = {
    "gpu": Curve(points=((1, 400_000), (64, 700_000))),
    "cpu": Curve(((900_000, 150_000),)),
    "to_host": Curve(((9_000, 300),)),
    "to_device": Curve(((11_000, 250),)),
    "dense": Curve(points=((1, 250_000), (64, 600_000))),
    "head": Curve(((120_000, 0),)),
    "copy_ns": 2_000_000,
    "kv_ns": 40.0,
}


@pytest.fixture(scope="module")
def truth() -> CostModel:
    costs = demo.trace().plan.costs
    return replace(costs, overlap=True, **PARTS)


def measured(policy: str, truth: CostModel) -> Trace:
    """The demo's routing laid with the true costs, as if it had been measured."""
    trace = demo.trace()
    plan = replace(trace.plan, costs=truth, basis=None)
    source = replace(trace, plan_list=((0, plan),))
    made = replay(source, policy=policy, gpu_memory=plan.minimum_bytes, reset_pins=True).trace
    steps = made.step_rows.copy()
    steps[:, -1] = Clock.MEASURED
    return replace(made, step_rows=steps, happened=Recorded(made.work_rows, made.move_rows))


def test_known_costs_are_found_again(truth: CostModel) -> None:
    traces = [measured("cpu", truth), measured("stream", truth)]
    found = device_times(traces, truth)
    device = found.device
    assert device.copy_ns == truth.copy_ns
    for name in ("gpu", "to_host", "to_device", "head", "dense"):
        assert getattr(device, name)(1) == pytest.approx(getattr(truth, name)(1), rel=0.02), name
    assert found.cpu(1) == pytest.approx(truth.cpu(1), rel=0.02)
    assert found.cpu(4) == pytest.approx(truth.cpu(4), rel=0.05)
    assert device.kv_ns == pytest.approx(truth.kv_ns, rel=0.05)
    assert found.residual < 0.02
    laid = [layer for trace in traces for layer in layers_of(trace)]
    assert len(laid) == sum(len(trace.batch.step) for trace in traces)


def test_what_was_never_measured(truth: CostModel) -> None:
    with pytest.raises(FiddlerError, match="no cpu"):
        device_times([measured("stream", truth)], truth)


def device_costs(**changes: Any) -> DeviceCosts:
    known = {name: PARTS[name] for name in ("gpu", "dense", "head", "to_host", "to_device")}
    made = DeviceCosts(**known, kv_ns=3.0, copy_ns=500, copy_contended_ns=800, cpu_contended=0.7)
    return replace(made, **changes)


def test_costs_of_a_model_measured_beside_a_gpu() -> None:
    from tests.engine.builders import MODEL

    costs = replace(ON_CPU, device=device_costs())
    assert ModelCosts.from_dict(asdict(costs)) == costs
    assert ModelCosts.from_dict(asdict(ON_CPU)) == ON_CPU
    with pytest.raises(InputError, match="device costs, copy_ns"):
        ModelCosts.from_dict(asdict(costs) | {"device": asdict(device_costs(copy_ns=-1))})
    spec = calibrated(accelerator=True, gpu_memory_bytes=10**9)
    assert spec.calibration is not None
    spec = replace(spec, calibration=replace(spec.calibration, models=(costs,)))
    made = CostModel.of(MODEL, spec)
    assert (made.copy_ns, made.copy_contended_ns, made.kv_ns) == (500, 800, 3.0)
    assert made.dense == costs.device.dense and made.cpu == costs.cpu  # type: ignore[union-attr]
    assert made.overlap
    with pytest.raises(InputError, match="the link's times"):
        spec.what_if(link_gbps=99.0, model=MODEL)
    assert resolve_hardware("rtx-4090").what_if(link_gbps=99.0).h2d_gbps == 99.0


def test_steps_that_were_cut_short_do_not_count(truth: CostModel) -> None:
    trace = measured("cpu", truth)
    steps = trace.step_rows.copy()
    steps[1, 7] = 0
    cut = replace(trace, step_rows=steps)
    both = [device_times([each, measured("stream", truth)], truth) for each in (trace, cut)]
    assert both[1].device.dense(1) == pytest.approx(both[0].device.dense(1), rel=0.01)
    assert np.isfinite(both[1].residual)
