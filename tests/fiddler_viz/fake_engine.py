"""An engine that plays a made-up run: all that a viewer needs of one, without torch."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.errors import FiddlerError, InputError
from engine.placement import change_plan
from engine.plan import Plan
from engine.recorder import Feed, Recorder
from engine.replay import replay_plan
from engine.synthetic import synthetic_trace
from engine.trace import Start, Trace


class FakeEngine:
    """Obeys the contract of HybridEngine; a step takes ``pause_s``."""

    def __init__(self, model: str = "mixtral-8x7b", pause_s: float = 0.0, **plan: Any) -> None:
        self.script: Trace = synthetic_trace(model, prompt_tokens=6, decode_tokens=64, **plan)
        self.model_spec = self.real_spec = self.script.model
        self.plan = self.script.plan
        self.pause_s, self.feed, self.last_run, self.running = pause_s, Feed(), None, False
        self.residency = self.plan.residency()
        self.residency.mark(self.plan.pinned, ())
        self._stop = threading.Event()

    def replan(self, **changes: Any) -> Plan:
        self.plan = change_plan(self.plan, model=self.model_spec, **changes)
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
        recorder = Recorder(self.model_spec, self.plan, Start(), self.feed)
        for step in range(max_new_tokens + 1):
            if self._stop.is_set():
                break
            self._step(recorder, step)
            time.sleep(self.pause_s)
        trace = recorder.trace({"ended": "stopped" if self._stop.is_set() else "length"})
        self.last_run = SimpleNamespace(trace=trace, ended=trace.meta["ended"])
        self.running = False
        return self.last_run

    def _step(self, recorder: Recorder, step: int) -> None:
        whole, routing = replay_plan(self.script, self.plan).trace, self.script.routing
        rows = whole.token_rows[whole.tokens["step"] == step]
        recorder.tokens(rows, [f" <b>{step}.{i}</b>" for i in range(len(rows))])
        at = routing.step == step
        for layer in range(self.model_spec.layers):
            mine = at & (routing.layer == layer)
            first = int(routing.token[mine][0])
            recorder.route(step, layer, first, routing.experts[mine], routing.weights[mine])
        number = recorder.plan(step, self.plan) if self.plan is not recorder.plans[-1][1] else -1
        for log, source in (
            (recorder.log.work, whole.work_rows),
            (recorder.log.moves, whole.move_rows),
        ):
            log.extend(np.ravel(source[source[:, 0] == step]).tolist())
        row = whole.step_rows[step].copy()
        row[6] = len(recorder.plans) - 1 if number < 0 else number
        recorder.step(row.tolist())
