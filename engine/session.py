"""The engine's main loop: begin a step, run its layers, end it. One model, one device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.decision import Request
from engine.devices.base import Device, Pace
from engine.errors import FiddlerError
from engine.executor import Executor, active_experts, added_up
from engine.foresight import Foresight
from engine.in_force import InForce
from engine.lanes import LaneRows
from engine.notes import Pins
from engine.orchestrator import Change
from engine.plan import Plan
from engine.recorder import Recorder
from engine.step import StepInput
from engine.store import ExpertStore
from engine.stream_executor import StreamExecutor, executor_for
from engine.trace import Start

WRITE_NS = 50_000_000
"""So long a step may have run, in real time, before a viewer can read of it."""


def _told(spans: Any) -> bool:
    """Whether a layer's times are known."""
    return not isinstance(spans, LaneRows) or spans.settled


class Stopped(Exception):  # noqa: N818 (a signal that unwinds a forward pass, not an error)
    """Someone asked the running generation to stop."""


class Session(InForce):
    """Drives orchestrator, executor, clock and recorder through the steps of a model.

    The three calls that make a step come from the model's hooks (:mod:`engine.hook`) in the
    thread that runs the model; :meth:`replan` and :meth:`stop` may come from any thread.
    """

    def __init__(
        self, store: ExpertStore, device: Device, plan: Plan, threads: int | None = None
    ) -> None:
        super().__init__(store, device, plan)
        self.executor: Executor | StreamExecutor = executor_for(store, device, threads)
        self.recorder: Recorder | None = None
        self.foresight = Foresight(store)
        self._predicting = False
        self._stop = False
        self._step: StepInput | None = None
        self._number = self._plan_number = self._first_token = 0
        self._start_ns = self._written_ns = 0
        self._taken: deque[tuple[Any, ...]] = deque()
        """What :meth:`Notes.layer` is still to be told."""
        self._writing: tuple[int, tuple[Any, ...]] = 0, ()
        """Which of it it is being told, and how many records there were before."""
        self._pace: Pace = device.pace(plan.lane_costs)
        self.ties = ExitStack()
        """What ends with the session, latest first: hooks on the model, threads, device memory."""
        for part in (device, self.foresight, self.executor):
            self.ties.callback(part.close)
        self._sync()

    def __repr__(self) -> str:
        return f"Session({self.orchestrator.plan!r} on {self.device.name})"

    # ------------------------------------------------------------------ from any thread

    def close(self) -> None:
        """Let the model go, and give up threads and device memory; plan and ledger stay known.

        Again does nothing. Raises FiddlerError while a run is under way.
        """
        with self._lock:
            if self.running:
                raise FiddlerError(
                    "this engine is generating: call engine.stop() and wait for the run's end"
                )
            self.closed = True
        self.ties.close()
        self._taken.clear()
        for name in ("executor", "foresight", "store"):
            vars(self).pop(name, None)  # all that knows the weights

    def stop(self) -> None:
        """Make the running forward pass raise :class:`Stopped` at its next layer."""
        self._stop = self.running

    # ------------------------------------------------------------------ a run

    @property
    def begun(self) -> bool:
        """Whether the run under way has begun a step."""
        return self._step is not None or self._number > 0

    def begin_run(
        self,
        owner: object,
        make: Callable[[Plan, Start], Recorder],
        *,
        record: bool = True,
        predictions: bool = False,
    ) -> Recorder:
        """Times, steps and tokens count from 0; ``make`` makes the recorder of the run.

        It is given the plan in force and the state from which a replay has to start: no replan
        can come between them and the first step. Without ``record`` it stays empty. With
        ``predictions`` each layer's experts are foreseen whether the policy asks or not. ``owner``
        is what :meth:`end_run` has to be given, whatever ends the run.
        """
        with self._lock:
            self.check_open()
            if self._owner is not None:
                raise FiddlerError(
                    "this engine is already generating: wait for it, or call engine.stop()"
                )
            self._stop = False  # before anyone can ask for a stop
            self._owner = owner
            self._repair()
            plan = self.orchestrator.plan
            recorder = make(plan, self.orchestrator.start())
        self.recorder = recorder if record else None
        self._predicting = predictions
        self._number = self._plan_number = self._written_ns = 0
        self._taken.clear()
        self._step = None
        self._pace = self.device.pace(plan.lane_costs)
        return recorder

    def end_run(self, owner: object) -> None:
        """After the last step, whatever ended it: the session is ready for the next run.

        Does nothing where ``owner`` is not running, so it may always be called.
        """
        if self._owner is not owner:
            return
        try:
            if self._step is not None:
                self._dirty = True  # it may have died between the ledger's entry and the copy
                self._finish_step(complete=False)
        finally:
            self.recorder = None
            self._step = None
            with self._lock:
                self._stop = False
                self._owner = None
                self._repair()
                if self._pending is not None:
                    self._take_plan()

    # ------------------------------------------------------------------ a step

    def begin_step(self, step: StepInput) -> None:
        """Step boundary: a waiting plan takes effect, the step's tokens are written down."""
        if self._step is not None:  # the forward pass before this one died
            self._dirty = True
            self._finish_step(complete=False)
        self._check_stop()
        self._repair()
        recorder, pace = self.recorder, self._pace
        self._start_ns = start = pace.now_ns
        pace.begin()
        changes: list[Change] | None = None
        with self._lock:
            if self._pending is not None:
                changes = self._take_plan()
                if recorder is not None:
                    self._plan_number = recorder.plan(self._number, self.orchestrator.plan)
        pins: tuple[Pins, ...] = ()
        if changes is not None:
            costs = self.orchestrator.plan.lane_costs
            lanes = pace.pins(changes, costs)
            pins = (Pins(start, pace.now_ns, costs, changes, lanes),)
        if recorder is not None:
            self._first_token = recorder.token_count
            step.rows[:, 0] = self._number
            recorder.tokens(step.rows, step.texts)
            token = self._first_token
            recorder.notes.step(self._number, step.tokens, step.context, token, pins)
        self._step = step

    def layer(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """One MoE layer: decide, run, write down. ``hidden`` ``(T, H)`` -> ``(T, H)``."""
        self._check_stop()
        step, recorder, pace = self._step, self.recorder, self._pace
        if step is None:
            raise FiddlerError("experts were called outside of the model's forward pass")
        foreseen = self._foresee(layer, hidden)
        # all of it (T, K), on the host
        chosen, routed, foreseen = self.executor.look(layer, hidden, index, weights, foreseen)
        request = self._request(layer, chosen, routed, foreseen)
        self._dirty = True
        decision = self.orchestrator.decide(request)
        out, spans = self.executor.run(layer, hidden, index, weights, decision)
        self._dirty = False
        start = pace.now_ns
        spans = pace.layer(layer, step.tokens, step.context, decision, spans)
        if recorder is not None:
            now = pace.now_ns
            taken = (layer, start, now, decision, chosen, routed, spans, foreseen)
            self._taken.append(taken)
            if time.perf_counter_ns() - self._written_ns >= WRITE_NS:
                self._write(recorder)
        return out

    def _write(self, recorder: Recorder) -> None:
        """Write down the layers that ran: many at once, while the code for it is in the cache.

        Those whose times the device has not told yet come later.
        """
        self._pace.settle(wait=False)
        notes, taken = recorder.notes, self._taken
        while taken and _told(taken[0][6]):
            if taken[0] is not self._writing[1]:  # else an interrupt came meanwhile, the last time
                self._writing = len(notes), taken[0]
            if len(notes) == self._writing[0]:  # not written yet
                notes.layer(*taken[0])
            taken.popleft()
        self._written_ns = time.perf_counter_ns()

    def _foresee(self, layer: int, hidden: Tensor) -> Tensor | None:
        """What the next layer's router would choose for this layer's hidden state, ``(T, K)``."""
        wanted = self._predicting or self.orchestrator.policy.wants_predictions
        if not wanted or layer + 1 == len(self.store):
            return None
        return self.foresight(layer + 1, hidden)

    def _request(
        self,
        layer: int,
        chosen: NDArray[np.int64],
        routed: NDArray[np.float32],
        foreseen: NDArray[np.int64] | None,
    ) -> Request:
        """What the policy is asked: choices and weights of the router, both ``(T, K)``."""
        experts, counts = active_experts(chosen)
        request = Request(self._number, layer, experts, counts, chosen.shape[0])
        if self.orchestrator.policy.wants_weights:
            request.weights = added_up(chosen, routed, experts)
        if foreseen is not None and self.orchestrator.policy.wants_predictions:
            request.predicted = np.unique(foreseen).tolist()
        return request

    def end_step(self) -> None:
        """All layers and the head are through."""
        step, pace = self._step, self._pace
        if step is None:
            return
        start = pace.now_ns
        lanes = pace.head(step.sequences)
        pace.settle(wait=True)
        if self.recorder is not None:
            self._write(self.recorder)
            span = (start, pace.now_ns) if lanes is None else (lanes.start_ns, lanes.end_ns)
            self.recorder.notes.head(step.sequences, *span, lanes)
        self._finish_step(complete=True)

    def _finish_step(self, *, complete: bool) -> None:
        """Write the step down. An interrupt may come at any call: what is left of it is done again
        by who finishes it then."""
        step = self._step
        if not complete:
            self._pace.settle(wait=True)
        recorder = self.recorder
        if recorder is not None and step is not None and recorder.step_count == self._number:
            self._write(recorder)
            recorder.step(
                (
                    self._number,
                    int(step.kind),
                    step.tokens,
                    step.sequences,
                    step.context,
                    self._first_token,
                    self._plan_number,
                    int(complete),
                    self._start_ns,
                    self._pace.now_ns,
                    int(self.device.clock),
                )
            )
        self._number += 1
        self._step = None

    def _check_stop(self) -> None:
        if self._stop:
            raise Stopped
