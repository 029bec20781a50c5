"""An engine's plan, changed: other hardware, another model's costs, whole plans from a replay."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import fiddler_viz as fv
from engine.errors import FiddlerError, InputError
from engine.events import Clock
from engine.hybrid import HybridEngine
from engine.replay import replay
from engine.spec import HardwareSpec
from fiddler_viz import demo

PROMPT = "To be, or not to be"


def test_other_hardware_is_in_force_and_in_the_trace(engine: HybridEngine) -> None:
    before = engine.plan
    plan = engine.replan(link_gbps=50, cpu_cores=32)
    assert engine.plan is plan and "what if: link 50 GB/s, 32 CPU cores" in plan.hardware_title
    assert engine.hardware.original == HardwareSpec.preset("rtx-4090")
    trace = engine.generate(PROMPT, 3, do_sample=False).trace
    assert "what if" in trace.machine and trace.plan == plan
    assert replay(trace).summary == trace.summary
    engine.replan(hardware="rtx-4090")
    assert engine.plan == before


def test_a_whole_plan_from_a_replay(engine: HybridEngine) -> None:
    run = engine.generate(PROMPT, 3, do_sample=False)
    asked = fv.replay(run, gpu_memory="40GB", policy="lru", cpu_cores=8).trace.plan
    assert engine.replan(asked) == engine.plan == asked
    again = engine.replan(asked, gpu_memory="30GB")
    assert (again.gpu_memory, again.policy, again.hardware) == (30 * 10**9, "lru", asked.hardware)
    with pytest.raises(InputError, match="for another engine: its kv_bytes"):
        engine.replan(replace(asked, kv_bytes=asked.kv_bytes // 2))
    with pytest.raises(InputError, match="needs to know the whole run"):
        engine.replan(fv.replay(run, policy="belady").trace.plan)
    assert engine.plan is again


def test_another_model_s_costs(engine: HybridEngine) -> None:
    real = engine.real_spec
    try:
        with pytest.raises(fv.BudgetError, match="smallest budget"):
            engine.replan(gpu_memory=10**6)
        plan = engine.replan(as_model=real, gpu_memory="50%")
        assert engine.model_spec == real and plan.model == demo.NAME
        assert engine.residency.places().sum() > 0
        trace = engine.generate(PROMPT, 3, do_sample=False).trace
        assert trace.model == real and trace.meta["as_model"] is None
        assert replay(trace).summary == trace.summary
    finally:
        engine.replan(as_model=demo.COSTED_AS, gpu_memory="24GB")
    assert engine.model_spec.name == demo.COSTED_AS
    trace = engine.generate(PROMPT, 3, do_sample=False).trace
    assert trace.meta["as_model"] == demo.COSTED_AS and trace.check() is trace
    with pytest.raises(InputError, match="only a model with the same grid"):
        engine.replan(as_model="olmoe-1b-7b")


def test_not_while_a_run_is_under_way(engine: HybridEngine) -> None:
    run = threading.Thread(target=lambda: engine.generate(PROMPT, 400, do_sample=False))
    run.start()
    try:
        while not engine.running:
            time.sleep(0.001)
        with pytest.raises(FiddlerError, match="while a run is under way"):
            engine.replan(as_model=engine.real_spec, gpu_memory="50%")
        engine.replan(link_gbps=50)  # other hardware may be: each step has its plan
    finally:
        engine.stop()
        run.join()
    assert engine.model_spec.name == demo.COSTED_AS
    assert "link 50" in engine.plan.hardware


def test_a_device_that_measures_is_not_another(engine: HybridEngine) -> None:
    class Measuring:
        name, offloads, clock = "stopwatch", True, Clock.MEASURED

        def check_budget(self, budget_bytes: int) -> None: ...

    real, engine.device = engine.device, Measuring()  # type: ignore[assignment]
    try:
        other = {"as_model": engine.real_spec, "gpu_memory": "50%"}
        for asked in ({"link_gbps": 50}, {"cpu_cores": 8}, other):
            with pytest.raises(InputError, match="stopwatch device measures"):
                engine.replan(**asked)  # type: ignore[arg-type]
        engine.replan(gpu_memory="30GB")
    finally:
        engine.device = real


def test_what_is_no_plan(engine: HybridEngine) -> None:
    with pytest.raises(InputError, match=r"expected a Plan, got '12GB'; .*gpu_memory="):
        engine.replan("12GB")  # type: ignore[arg-type]


def test_an_engine_is_not_copied(engine: HybridEngine) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="keep its run's trace"):
            attempt(engine)


def test_numbers_of_numpy(engine: HybridEngine) -> None:
    plan = engine.replan(gpu_memory="50%", policy="lru", cache_slots=np.int64(2))  # type: ignore[arg-type]
    assert plan == engine.replan(cache_slots=2)
    run = engine.generate("a", np.int64(2), seed=np.int64(1))  # type: ignore[arg-type]
    same = replay(run.trace, cache_slots=np.int64(2))  # type: ignore[arg-type]
    assert len(run.tokens[0]) == 2 and type(same.trace.plan.cache_slots) is int
