"""An engine that plays a made-up run: all that a viewer needs of one, without torch."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.decision import Request
from engine.errors import FiddlerError, InputError
from engine.events import Clock
from engine.notes import Pins
from engine.orchestrator import Orchestrator
from engine.placement import change_plan
from engine.plan import Plan
from engine.recorder import Recorder
from engine.synthetic import synthetic_trace
from engine.timeline import Timeline
from engine.trace import Start, Trace


class FakeEngine:
    """Obeys the contract of HybridEngine; a step takes ``pause_s``."""

    def __init__(self, model: str = "mixtral-8x7b", pause_s: float = 0.0, **plan: Any) -> None:
        self.script: Trace = synthetic_trace(model, prompt_tokens=6, decode_tokens=64, **plan)
        self.model_spec = self.real_spec = self.script.model
        self.plan = self.script.plan
        self.pause_s, self.recorder, self.last_run, self.running = pause_s, None, None, False
        self.residency = self.plan.residency()
        self.residency.mark(self.plan.pinned, ())
        self._stop = threading.Event()

    def replan(self, plan: Plan | None = None, **changes: Any) -> Plan:
        start = self.plan if plan is None else plan
        basis = start.basis_of(self.model_spec) if start.basis is None else start.basis
        self.plan = change_plan(start, model=basis.model, **changes)
        self.model_spec = (
            self.plan.basis_of(basis.model).model if changes.get("as_model") else (basis.model)
        )
        self.residency = self.plan.residency()
        self.residency.mark(self.plan.pinned, ())
        return self.plan

    def stop(self) -> None:
        self._stop.set()

    def generate(self, prompt: str, max_new_tokens: int = 64) -> Any:
        if self.running:
            raise FiddlerError("a run is under way: wait for it, or stop it")
        if not prompt:
            raise InputError("the prompt is empty: write something to continue")
        self.running = True
        self._stop.clear()
        self.recorder = recorder = Recorder(self.model_spec, self.plan, Start())
        self._driver, pace = Orchestrator(self.plan), Timeline(self.plan.lane_costs)
        for step in range(max_new_tokens + 1):
            if self._stop.is_set():
                break
            self._step(recorder, pace, step)
            time.sleep(self.pause_s)
        trace = recorder.trace({"ended": "stopped" if self._stop.is_set() else "length"})
        self.last_run = SimpleNamespace(trace=trace, ended=trace.meta["ended"])
        self.running = False
        return self.last_run

    def _step(self, recorder: Recorder, pace: Timeline, step: int) -> None:
        whole, routing = self.script, self.script.routing
        start, number, pins = pace.now_ns, len(recorder.plans) - 1, []
        if self.plan is not recorder.plans[-1][1]:
            number, changes = recorder.plan(step, self.plan), self._driver.change(self.plan)
            pace.pins(step, self.model_spec.experts, changes, self.plan.lane_costs, None)
            pins = [Pins(start, pace.now_ns, pace.costs, changes)]
        rows = whole.token_rows[whole.tokens["step"] == step]
        first = recorder.token_count
        recorder.tokens(rows, [f" <b>{step}.{i}</b>" for i in range(len(rows))])
        row = whole.step_rows[step].tolist()
        context = row[4]
        recorder.notes.step(step, len(rows), context, first, pins)
        at = routing.step == step
        for layer in range(self.model_spec.layers):
            mine = at & (routing.layer == layer)
            chosen, weights = routing.experts[mine], routing.weights[mine]
            active, counts = np.unique(chosen, return_counts=True)
            request = Request(step, layer, active.tolist(), counts.tolist(), len(rows))
            decision = self._driver.decide(request)
            begin = pace.now_ns
            pace.lay(step, layer, len(rows), context, decision, None)
            chosen = chosen.astype(np.int64)
            recorder.notes.layer(layer, begin, pace.now_ns, decision, chosen, weights)
        begin = pace.now_ns
        pace.head(step, self.model_spec.experts, 1, None)
        recorder.notes.head(1, begin, pace.now_ns)
        recorder.step((*row[:5], first, number, 1, start, pace.now_ns, Clock.MODELLED))
