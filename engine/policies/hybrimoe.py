"""Balance each layer between CPU and device, keep what scores high: HybriMoE."""

from __future__ import annotations

from engine.cost import CostModel
from engine.decision import Request
from engine.events import Action
from engine.policies.base import Policy
from engine.policies.scores import Scores
from engine.profile import Profile
from engine.residency import Residency

MOST_KNOWN = 4096
"""Splits remembered, by the misses' tokens."""


class HybriMoe(Policy):
    """Longest processing time first, from both ends (HybriMoE, arXiv 2504.05897, 4.2 and 4.3).

    The misses stand in order of their tokens: the link takes the heaviest, the CPU the lightest,
    and whichever would be done sooner takes the next. The cache keeps the experts with the highest
    recent router scores. Its prefetching across three layers is not part of this policy.
    """

    name = "hybrimoe"
    title = "HybriMoE"
    summary = "Splits each layer's misses so that CPU and link end together; cache by router score."
    admits = True
    retention = Scores
    slot_share = 1.0
    wants_weights = True

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        super().__init__(residency, costs, profile)
        self._known: dict[tuple[int, ...], list[int]] = {}
        self._known_by = costs

    def choose(self, request: Request, missing: list[int]) -> list[int]:
        if self._known_by is not self.costs:
            self._known, self._known_by = {}, self.costs
        tokens = tuple([request.tokens[at] for at in missing])
        if tokens not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[tokens] = self._split(tokens)
        return self._known[tokens]

    def _split(self, tokens: tuple[int, ...]) -> list[int]:
        costs, missing = self.costs, range(len(tokens))
        order = sorted(missing, key=lambda at: tokens[at])
        light, heavy = 0, len(order) - 1
        actions: dict[int, int] = {}
        cpu_ns, link_ns, gpu_ns = 0, 0, 0
        while light <= heavy:
            on_cpu = cpu_ns + costs.cpu_ns(tokens[order[light]])
            copied = link_ns + costs.copy_ns
            on_gpu = max(gpu_ns, copied) + costs.gpu(tokens[order[heavy]])
            if on_cpu <= on_gpu:
                cpu_ns = on_cpu
                actions[order[light]] = int(Action.CPU)
                light += 1
            else:
                link_ns, gpu_ns = copied, on_gpu
                actions[order[heavy]] = int(Action.STREAM)
                heavy -= 1
        return [actions[at] for at in missing]
