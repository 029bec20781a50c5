"""No accelerator: everything runs on the CPU from host memory, and is timed as it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.cost import CostModel
from engine.decision import Decision
from engine.devices.base import Span
from engine.errors import DeviceError
from engine.events import Action, Clock, Lane, Work
from engine.orchestrator import Change
from engine.store import ExpertWeights
from engine.timeline import Log

_MEASURED = int(Clock.MEASURED)


class MeasuredPace:
    """Wall-clock time since the run began. What runs between two layers is the dense part."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self._origin = time.perf_counter_ns()
        self.now_ns = 0

    def pins(self, step: int, changes: Sequence[Change], log: Log | None) -> None:
        """Nothing is ever pinned here; a step begins now."""
        self.now_ns = time.perf_counter_ns() - self._origin

    def layer(
        self,
        step: int,
        layer: int,
        tokens: int,
        context: int,
        decision: Decision,
        spans: Sequence[Span],
        log: Log | None,
    ) -> None:
        """One dense row up to the first expert, then one row for each expert."""
        if log is not None:
            start = spans[0][0] - self._origin
            self._dense(step, layer, tokens, start, log)
            for expert, count, (begin, end) in zip(
                decision.experts, decision.tokens, spans, strict=True
            ):
                what = (step, layer, expert, Work.EXPERT, Action.CPU, count, Lane.CPU)
                log.work.extend((*what, begin - self._origin, end - self._origin, _MEASURED))
        self.now_ns = spans[-1][1] - self._origin

    def head(self, step: int, tokens: int, log: Log | None) -> None:
        """What ran since the last layer."""
        now = time.perf_counter_ns() - self._origin
        if log is not None:
            self._dense(step, -1, tokens, now, log)
        self.now_ns = now

    def _dense(self, step: int, layer: int, tokens: int, end: int, log: Log) -> None:
        row = (step, layer, -1, Work.DENSE, -1, tokens, Lane.CPU, self.now_ns, end, _MEASURED)
        log.work.extend(row)


class HostDevice:
    """Holds nothing: every expert runs where the store keeps it."""

    name = "host"
    clock = Clock.MEASURED
    offloads = False

    def __repr__(self) -> str:
        return "HostDevice()"

    def resize(self, slots: int) -> None:
        """There is no device memory; only 0 slots are possible."""
        if slots:
            raise DeviceError(
                "the host device has no device memory to keep experts in: load the model with "
                "device='virtual' to plan one"
            )

    def put(self, flat: int, weights: ExpertWeights) -> None:
        """Always refused."""
        self.resize(1)

    def drop(self, flat: int) -> None:
        """Nothing is held."""

    def stage(self, weights: ExpertWeights) -> ExpertWeights:
        """Weights are where they are needed already."""
        return weights

    def get(self, flat: int) -> ExpertWeights:
        """Nothing is held."""
        raise DeviceError(f"expert {flat} is not resident on the host device: nothing is")

    def held(self) -> set[int]:
        """Nothing."""
        return set()

    def pace(self, costs: CostModel) -> MeasuredPace:
        """Wall-clock time, from now."""
        return MeasuredPace(costs)
