"""One policy, one ledger: what the engine and a replay drive with the same calls."""

from __future__ import annotations

import numpy as np

from engine.decision import Batch, Decision, Decisions, Request
from engine.events import Why
from engine.plan import Plan
from engine.residency import Place
from engine.trace import Start

Change = tuple[int, int, Why, int]
"""What a new plan does to one expert: ``(layer, expert, why, bytes copied)``."""


class Orchestrator:
    """Holds the plan in force, the byte ledger and the policy, and keeps them consistent."""

    def __init__(self, plan: Plan, start: Start | None = None) -> None:
        start = start or Start()
        self.plan = plan
        self.residency = plan.residency()
        self.residency.mark(plan.pinned, start.cached)
        self.policy = plan.policy_class(self.residency, plan.costs, plan.profile)
        self.policy.restore(start.policy)

    def __repr__(self) -> str:
        return f"Orchestrator({self.plan!r})"

    def start(self) -> Start:
        """The state from which a recording that begins now has to be replayed."""
        return Start(tuple(self.residency.cached()), self.policy.snapshot())

    def again(self) -> Orchestrator:
        """A consistent one under the same plan, whatever state an interrupt left this one in."""
        plan, state = self.plan, self.policy.snapshot()
        pinned = set(plan.pinned)
        cached = [flat for flat in self.residency.cached() if flat not in pinned]
        return Orchestrator(plan, Start(tuple(cached[: plan.cache_slots]), state))

    def decide(self, request: Request) -> Decision:
        """Decide one layer and enter it in the ledger."""
        return self.policy.enter(request)

    def decide_all(self, batch: Batch) -> Decisions:
        """:meth:`decide` for every layer of a batch."""
        return self.policy.decide_all(batch)

    def change(self, plan: Plan) -> list[Change]:
        """Put another plan in force; returns what it releases and copies, in order.

        First what goes (unpinned, then cached experts beyond the new slots, least wanted first),
        then what comes, so the budget holds throughout. A cached expert that becomes pinned
        stays where it is: 0 bytes.
        """
        ledger = self.residency
        columns = plan.grid[1]
        changes: list[Change] = []

        def note(flat: int, why: Why, n_bytes: int) -> None:
            changes.append((*divmod(flat, columns), why, n_bytes))

        pinned = set(np.flatnonzero(ledger.places().ravel() == Place.PINNED).tolist())
        wanted = set(plan.pinned)
        for flat in sorted(pinned - wanted):
            ledger.unpin(flat)
            note(flat, Why.UNPIN, 0)
        for flat in sorted(wanted & set(ledger.cached())):
            self.policy.forget(flat)
            note(flat, Why.PIN, ledger.pin(flat))
            pinned.add(flat)
        for flat in self.policy.shrink(plan.cache_slots):
            ledger.evict(flat)
            note(flat, Why.EVICT, 0)
        ledger.resize(
            budget_bytes=plan.gpu_memory,
            cache_slots=plan.cache_slots,
            workspace_bytes=plan.workspace_bytes,
        )
        for flat in sorted(wanted - pinned):
            note(flat, Why.PIN, ledger.pin(flat))
        chosen = plan.policy_class
        if type(self.policy) is chosen:
            self.policy.costs, self.policy.profile = plan.costs, plan.profile
        else:
            state = self.policy.snapshot()
            self.policy = chosen(ledger, plan.costs, plan.profile)
            self.policy.restore(state)
        self.plan = plan
        return changes
