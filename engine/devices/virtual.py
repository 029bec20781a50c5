"""A device without hardware: real weights, real copies into a bounded arena, modelled time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from engine.cost import CostModel
from engine.decision import Decision
from engine.devices.arena import Arena
from engine.events import Clock
from engine.notes import Span
from engine.orchestrator import Change
from engine.store import ExpertStore
from engine.timeline import Timeline


class ModelledPace:
    """The timeline alone: what the CPU under it really took does not count."""

    def __init__(self, costs: CostModel) -> None:
        self._timeline = Timeline(costs)

    @property
    def now_ns(self) -> int:
        """Modelled time since the run began."""
        return self._timeline.now_ns

    def begin(self) -> None:
        """Modelled time stands still between steps."""

    def pins(self, changes: Sequence[Change], costs: CostModel) -> None:
        """Copies before a step."""
        self._timeline.pins(0, 1, changes, costs, None)

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: Sequence[Span]
    ) -> Sequence[Span]:
        """One layer on the lanes."""
        self._timeline.lay(0, layer, tokens, context, decision, None)
        return ()

    def head(self, tokens: int) -> None:
        """The output head."""
        self._timeline.head(0, 1, tokens, None)

    def settle(self, *, wait: bool) -> None:
        """The timeline tells all at once."""


class VirtualDevice(Arena):
    """Resident and streamed experts compute from the arena's copies, the others from the store."""

    name = "virtual"
    clock = Clock.MODELLED
    concurrent = False
    offloads = True
    on_streams = False
    reserve_bytes = 0

    def __init__(self, store: ExpertStore) -> None:
        super().__init__(store.weights(0, 0).new)

    def check_budget(self, budget_bytes: int) -> None:
        """Any budget can be modelled."""

    def limit(self, budget_bytes: int) -> None:
        """The ledger holds the budget; the arena its slots."""

    def computing(self) -> AbstractContextManager[Any]:
        """The CPU's kernels are as they are."""
        return nullcontext()

    def pace(self, costs: CostModel) -> ModelledPace:
        """A modelled clock, from 0 ns."""
        return ModelledPace(costs)
