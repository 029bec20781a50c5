"""No accelerator: everything runs on the CPU from host memory, and is timed as it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from engine.cost import CostModel
from engine.decision import Decision
from engine.errors import DeviceError
from engine.events import Clock
from engine.notes import Span
from engine.orchestrator import Change
from engine.store import ExpertWeights


class MeasuredPace:
    """Wall-clock time since the run began. What runs between two layers is the dense part."""

    def __init__(self) -> None:
        self._origin = time.perf_counter_ns()
        self.now_ns = 0

    def begin(self) -> None:
        """A step begins now."""
        self.now_ns = time.perf_counter_ns() - self._origin

    def pins(self, changes: Sequence[Change], costs: CostModel) -> None:
        """Nothing is ever pinned here."""

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: Sequence[Span]
    ) -> Sequence[Span]:
        """Experts ran one after the other, the dense part before them."""
        origin = self._origin
        shifted = [(start - origin, end - origin) for start, end in spans]
        self.now_ns = shifted[-1][1]
        return shifted

    def head(self, tokens: int) -> None:
        """What ran since the last layer."""
        self.now_ns = time.perf_counter_ns() - self._origin

    def settle(self, *, wait: bool) -> None:
        """All is told already."""


class HostDevice:
    """Holds nothing: every expert runs where the store keeps it."""

    name = "host"
    clock = Clock.MEASURED
    concurrent = False
    offloads = False
    on_streams = False
    reserve_bytes = 0

    def __repr__(self) -> str:
        return "HostDevice()"

    def check_budget(self, budget_bytes: int) -> None:
        """No device memory, no budget."""

    def limit(self, budget_bytes: int) -> None:
        """There is no device memory to limit."""

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

    def computing(self) -> AbstractContextManager[Any]:
        """The CPU's kernels are as they are."""
        return nullcontext()

    def pace(self, costs: CostModel) -> MeasuredPace:
        """Wall-clock time, from now."""
        return MeasuredPace()

    def close(self) -> None:
        """Nothing is held."""
