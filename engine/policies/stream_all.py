"""Copy every expert of every layer, needed or not: DeepSpeed ZeRO-Inference."""

from __future__ import annotations

import numpy as np

from engine.decision import Batch, Decision, Decisions, Ragged, Request
from engine.events import Action
from engine.policies.base import Policy
from engine.residency import Place


class StreamAll(Policy):
    """A layer's weights are fetched as a whole, without a look at what the router chose.

    The experts that are used come first, so that they compute while the others are copied.
    """

    name = "stream_all"
    title = "Stream all"
    summary = "Copies all experts of every layer over the link, used or not; keeps none."

    def miss(self, tokens: int) -> Action:
        return Action.STREAM

    def decide(self, request: Request) -> Decision:
        decision = super().decide(request)
        columns, used = self.residency.grid[1], set(request.experts)
        base, place = request.layer * columns, self.residency.place
        decision.unused = [
            base + expert
            for expert in range(columns)
            if expert not in used and place[base + expert] == Place.HOST
        ]
        return decision

    def decide_all(self, batch: Batch) -> Decisions:
        places = self.residency.places()  # (layers, experts): nothing changes them
        missing = (places == Place.HOST)[batch.layer]  # (segments, experts)
        for flat in batch.flat[places.ravel()[batch.flat] == Place.CACHED].tolist():
            self.cache.touch(flat)
        there = ~missing[batch.segment, batch.expert]
        missing[batch.segment, batch.expert] = False
        segment, expert = np.nonzero(missing)
        unused = batch.layer[segment] * batch.columns + expert
        none = Ragged.none(len(batch.step))
        return Decisions(
            np.where(there, int(Action.RESIDENT), int(Action.STREAM)),
            np.zeros(len(there), dtype=np.bool_),
            none,
            none,
            Ragged.of_segments(segment, unused, len(batch.step)),
        )
