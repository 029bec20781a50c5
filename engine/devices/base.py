"""What the engine asks of a device: room for experts, and a clock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from engine.cost import CostModel
from engine.decision import Decision
from engine.events import Clock
from engine.lanes import LaneRows
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

    def pins(self, changes: Sequence[Change], costs: CostModel) -> LaneRows | None:
        """A new plan's changes, before the step, and what modelled times are made of from now.

        Returns what that took, where the device measures it.
        """
        ...

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: Any
    ) -> Sequence[Span] | LaneRows:
        """One layer has been decided and computed, or submitted.

        ``spans`` is what the executor returned: its experts' real times
        (``time.perf_counter_ns``), or marks of a device that works by itself. Returns them on this
        clock; none where it is modelled; rows that are told later (:meth:`settle`).
        """
        ...

    def head(self, tokens: int) -> LaneRows | None:
        """The step's last layer is through, and so is the output head."""
        ...

    def settle(self, *, wait: bool) -> None:
        """Tell the rows of what is through by now; with ``wait`` of all that is submitted."""
        ...


class Device(Protocol):
    """Where resident experts live. Experts are flat indices ``layer * experts + expert``."""

    name: str
    clock: Clock
    concurrent: bool
    """Whether it computes by itself, while the CPU does something else."""
    offloads: bool
    """False where there is no device memory to plan: everything stays in host memory."""
    on_streams: bool
    """Whether the model's dense part is there too, and work is submitted to streams."""
    reserve_bytes: int
    """What the device takes of a budget besides what a plan counts."""

    def check_budget(self, budget_bytes: int) -> None:
        """Raise BudgetError for more than there is."""
        ...

    def limit(self, budget_bytes: int) -> None:
        """From now on no more than this is used. Raises as :meth:`check_budget`."""
        ...

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

    def computing(self) -> AbstractContextManager[Any]:
        """Within it the model runs."""
        ...

    def close(self) -> None:
        """Give all memory up, also the host's that is pinned. Name and clock stay known."""
        ...


def sync(device: Device, store: ExpertStore, residency: Residency) -> None:
    """Make the device hold what the ledger says: first drop, then resize, then copy."""
    places = residency.places().ravel()
    wanted = set(np.flatnonzero(places != Place.HOST).tolist())
    held = device.held()
    for flat in sorted(held - wanted):
        device.drop(flat)
    device.limit(residency.budget_bytes)
    device.resize(residency.pinned_count + residency.cache_slots)
    for flat in sorted(wanted - device.held()):  # another size may have emptied it
        device.put(flat, store.weights(*divmod(flat, store.experts)))
