"""Share a step's misses between link and CPU so that both take as long: FreeToken's Q*."""

from __future__ import annotations

from collections.abc import Mapping

from engine.cost import CostModel
from engine.decision import Request
from engine.events import Action
from engine.policies.base import Policy
from engine.policies.retention import State
from engine.profile import Profile
from engine.residency import Residency


class QStar(Policy):
    """Of the misses the fraction ``link / (link + CPU bandwidth)`` is copied, the rest stays.

    FreeToken (arXiv 2608.16157): both rates are those under contention; one global LRU pool keeps
    what is copied. Fractions of an expert are carried over to the next layer. Experts with so many
    tokens that a copy beats the CPU are all copied, as in its prefill.
    """

    name = "qstar"
    title = "Q*"
    summary = "Copies as many misses as the link can while the CPU runs the others; LRU pool."
    admits = True
    slot_share = 1.0

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        super().__init__(residency, costs, profile)
        self.carried = 0.0
        """Part of an expert that the link still owes."""

    def choose(self, request: Request, missing: list[int]) -> list[int]:
        tokens, even = request.tokens, self.costs.break_even_tokens
        many = {at for at in missing if even is not None and tokens[at] >= even}
        few = sorted((at for at in missing if at not in many), key=lambda at: -tokens[at])
        self.carried += len(few) * self.costs.link_share
        copied = int(self.carried)
        self.carried -= copied
        many.update(few[:copied])
        return [int(Action.STREAM if at in many else Action.CPU) for at in missing]

    def snapshot(self) -> State:
        return super().snapshot() | {"carried": [self.carried]}

    def restore(self, state: Mapping[str, list[int] | list[float]]) -> None:
        super().restore(state)
        carried = float(next(iter(state.get("carried", ())), 0.0))
        self.carried = carried if 0.0 <= carried < 1.0 else 0.0
