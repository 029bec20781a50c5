"""A device without hardware: real weights, real copies into a bounded arena, modelled time."""

from __future__ import annotations

from collections.abc import Sequence

from engine.cost import CostModel
from engine.decision import Decision
from engine.devices.arena import Arena
from engine.devices.base import Span
from engine.events import Clock
from engine.store import ExpertStore
from engine.timeline import Log, Timeline


class ModelledPace(Timeline):
    """The timeline alone: what the CPU under it really took does not count."""

    def layer(  # the engine's call has the real times too
        self,
        step: int,
        layer: int,
        tokens: int,
        context: int,
        decision: Decision,
        spans: Sequence[Span] = (),
        log: Log | None = None,
    ) -> None:
        self.lay(step, layer, tokens, context, decision, log)


class VirtualDevice(Arena):
    """Resident and streamed experts compute from the arena's copies, the others from the store."""

    name = "virtual"
    clock = Clock.MODELLED
    offloads = True

    def __init__(self, store: ExpertStore) -> None:
        super().__init__(store.weights(0, 0).new)

    def pace(self, costs: CostModel) -> ModelledPace:
        """A modelled clock, from 0 ns."""
        return ModelledPace(costs)
