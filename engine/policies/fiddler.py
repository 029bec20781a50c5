"""Fiddler's own policy: Algorithm 1 of arXiv 2402.07033."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy


class Fiddler(Policy):
    """For each missing expert compare the CPU's latency with copy plus device latency.

    The CPU's side counts the activations both ways. The cheaper one wins; on a tie the weights
    stay where they are.
    """

    name = "fiddler"
    title = "Fiddler"
    summary = "Runs a missing expert on the CPU unless copying its weights is faster."
    admits = True

    def miss(self, tokens: int) -> Action:
        faster_on_device = self.costs.cpu_ns(tokens) > self.costs.stream_ns(tokens)
        return Action.STREAM if faster_on_device else Action.CPU
