"""What the engine asks of a device: room for experts, and a clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.cost import CostModel
from engine.decision import Decision
from engine.events import Clock
from engine.notes import Span
from engine.orchestrator import Change
from engine.residency import Place, Residency
from engine.store import ExpertStore, ExpertWeights


class Pace(Protocol):
    """A run's clock: moves on with what was decided and done."""

    @property
    def now_ns(self) -> int:
        """Time since the run began."""
        ...

    def begin(self) -> None:
        """A step begins."""
        ...

    def pins(self, changes: Sequence[Change], costs: CostModel) -> None:
        """A new plan's changes, before the step, and what modelled times are made of from now."""
        ...

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: Sequence[Span]
    ) -> Sequence[Span]:
        """One layer has been decided and computed.

        ``spans`` are its experts' real times (``time.perf_counter_ns``). Returns them on this
        clock; none where it is modelled.
        """
        ...

    def head(self, tokens: int) -> None:
        """The step's last layer is through, and so is the output head."""
        ...


class Device(Protocol):
    """Where resident experts live. Experts are flat indices ``layer * experts + expert``."""

    name: str
    clock: Clock
    concurrent: bool
    """Whether it computes by itself, while the CPU does something else."""
    offloads: bool
    """False where there is no device memory to plan: everything stays in host memory."""

    def resize(self, slots: int) -> None:
        """Make room for so many experts; raises DeviceError while more are there."""
        ...

    def put(self, flat: int, weights: ExpertWeights) -> None:
        """Copy an expert to the device and keep it."""
        ...

    def drop(self, flat: int) -> None:
        """Give an expert's room up."""
        ...

    def stage(self, weights: ExpertWeights) -> ExpertWeights:
        """Copy an expert through a staging buffer; valid until the buffers came round."""
        ...

    def get(self, flat: int) -> ExpertWeights:
        """A resident expert's weights, on the device."""
        ...

    def held(self) -> set[int]:
        """Flat indices of the resident experts."""
        ...

    def pace(self, costs: CostModel) -> Pace:
        """A clock for a new run."""
        ...


def sync(device: Device, store: ExpertStore, residency: Residency) -> None:
    """Make the device hold what the ledger says: first drop, then resize, then copy."""
    places = residency.places().ravel()
    wanted = set(np.flatnonzero(places != Place.HOST).tolist())
    held = device.held()
    for flat in sorted(held - wanted):
        device.drop(flat)
    device.resize(residency.pinned_count + residency.cache_slots)
    for flat in sorted(wanted - held):
        device.put(flat, store.weights(*divmod(flat, store.experts)))
