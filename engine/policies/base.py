"""The policy protocol: who decides where a missing expert runs, and what is kept.

A policy in ten lines::

    class Cautious(Policy):
        name, title, summary = "cautious", "Cautious", "Streams only large groups of tokens."

        def miss(self, tokens: int) -> Action:
            return Action.STREAM if tokens >= 64 else Action.CPU

Policies look at logical state only (who is resident, how many tokens, the frozen cost model),
never at a clock, so a replay of the same routing makes the same decisions. A policy is up to three
rules, each with a default: where missing experts run (:meth:`Policy.miss`, or all of a layer
together: :meth:`Policy.choose`), who leaves the cache (``retention``), and what is fetched ahead of
its use (:meth:`Policy.ahead`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions, Request
from engine.events import Action
from engine.policies.checking import check_action, check_actions, check_decision, check_wanted
from engine.policies.lru_walk import lru_walk
from engine.policies.retention import Recency, Retention, State
from engine.profile import Profile
from engine.residency import Place, Residency

_RESIDENT, _STREAM, _CPU = int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)
_HOST, _CACHED = int(Place.HOST), int(Place.CACHED)


class Policy(ABC):
    """Decides, for one layer of one step, where each active expert runs.

    Resident experts run where they are. :meth:`choose` decides for the others; where ``admits`` is
    true, a streamed expert is kept in a cache slot if the retention rule gives it one. Experts
    active in the layer at hand are never evicted by it; without a victim the copy is not kept.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    admits: ClassVar[bool] = False
    """Whether cache slots have an effect."""
    retention: ClassVar[type[Retention]] = Recency
    """The rule by which cached experts give their slots up."""
    planner: ClassVar[str] = "popularity"
    """The planner used when none is named."""
    slot_share: ClassVar[float] = 0.0
    """Cache slots when their number is not given, as a share of the room."""
    overlap: ClassVar[bool] = True
    """False for systems that do one thing after the other, and copy from pageable memory."""
    live: ClassVar[bool] = True
    """False where a decision needs what only a finished trace has: replay only."""
    wants_weights: ClassVar[bool] = False
    """Whether requests must carry the router's weights."""
    wants_predictions: ClassVar[bool] = False
    """Whether requests must carry the experts predicted for the next layer."""

    checked: ClassVar[bool] = False
    """Whether what it answers is checked: that of any class that is not ours."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls.checked = not cls.__module__.startswith("engine.policies.")

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        self.residency = residency
        self.costs = costs
        self.profile = profile
        """What the plan's planner knew."""
        self.cache = self.retention(residency.grid)
        """The cached experts, and the order in which they would go."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.residency})"

    # ------------------------------------------------------------------ the three rules

    def miss(self, tokens: int) -> Action:
        """Where a missing expert with this many tokens runs: STREAM or CPU."""
        raise NotImplementedError(f"{type(self).__name__} has neither miss() nor choose()")

    def misses(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """:meth:`miss` for many token counts at once; override where it has a closed form."""
        actions = map(self.miss, tokens.tolist())
        if self.checked:
            actions = (check_action(self.name, action) for action in actions)
        return np.array([int(action) for action in actions], dtype=np.int64)

    def choose(self, request: Request, missing: list[int]) -> list[int]:
        """An action for each missing expert of a layer, given as places in the request's lists."""
        answers = [self.miss(request.tokens[at]) for at in missing]
        if self.checked:
            return [check_action(self.name, answer) for answer in answers]
        return [int(answer) for answer in answers]

    def ahead(self, request: Request) -> list[int]:
        """Flat indices worth fetching into slots now, the most wanted first; default: none."""
        return []

    # ------------------------------------------------------------------ one layer

    def decide(self, request: Request) -> Decision:
        """Decide for the active experts of one layer.

        Updates what the retention rule knows; the caller applies evictions, admissions and
        fetches to the ledger.
        """
        ledger, cache = self.residency, self.cache
        base = request.layer * ledger.grid[1]
        experts, weights = request.experts, request.weights
        flats = [base + expert for expert in experts]
        places = [ledger.place[flat] for flat in flats]
        actions = [_RESIDENT] * len(experts)
        keep = [False] * len(experts)
        decision = Decision(ledger.grid[1], experts, request.tokens, actions, keep)
        if request.layer == 0:
            cache.step()
        cache.used(flats, places, weights)  # hits first: a miss must not evict them
        missing = [at for at, where in enumerate(places) if where == _HOST]
        slots = ledger.cache_slots if self.admits else 0
        if missing:
            active = set(flats) if slots else set[int]()
            chosen = self.choose(request, missing)
            if self.checked:
                chosen = check_actions(self.name, chosen, len(missing))
            for at, action in zip(missing, chosen, strict=True):
                actions[at] = action
                if slots and action == _STREAM:
                    weight = 1.0 if weights is None else weights[at]
                    keep[at] = self._admit(flats[at], weight, active, decision)
        if slots:
            wanted = self.ahead(request)
            if self.checked:
                wanted = check_wanted(self.name, wanted, len(ledger.place))
            if wanted:
                self._fetch(wanted, set(flats), decision)
        return decision

    def _admit(self, flat: int, weight: float, active: set[int], decision: Decision) -> bool:
        """Give an expert a slot, if the rule has one for it."""
        gone = self.cache.make_room(flat, self.residency.cache_slots, active)
        if gone is None:
            return False
        for other in gone:
            self.cache.drop(other)
        decision.evict += gone
        self.cache.add(flat, weight)
        return True

    def _fetch(self, wanted: list[int], active: set[int], decision: Decision) -> None:
        """Fetch what is wanted and not there, as long as there is room for it."""
        keep = active.union(wanted)
        place = self.residency.place
        for flat in wanted:
            if place[flat] != _HOST or flat in self.cache:
                continue
            if not self._admit(flat, 1.0, keep, decision):
                break
            decision.fetch.append(flat)

    # ------------------------------------------------------------------ many layers

    def decide_all(self, batch: Batch) -> Decisions:
        """Decide every layer of a batch in order, and leave ledger and cache as after it.

        Equal to :meth:`decide` segment by segment (tested), faster where the rules are the
        default ones: then nothing is kept, or compiled code walks an LRU cache.
        """
        of = type(self)
        rules = (of.decide, of.choose, of.ahead)
        if rules != (Policy.decide, Policy.choose, Policy.ahead) or of.retention is not Recency:
            return self.decide_each(batch)
        by_count = np.zeros(int(batch.counts.max(initial=0)) + 1, dtype=np.int64)
        by_count[batch.counts] = self.misses(batch.counts)
        if self.admits and self.residency.cache_slots:
            walked = lru_walk(batch, by_count, self.residency, self.cache)
            return self.decide_each(batch) if walked is None else walked
        place = self.residency.places().ravel().take(batch.flat)
        for index in batch.flat[place == _CACHED].tolist():
            self.cache.touch(index)
        # RESIDENT is 0; np.where takes five times as long, and a reader waits for it.
        action = by_count.take(batch.count)
        np.multiply(action, place == _HOST, out=action)
        return Decisions.plain(batch, action)

    def decide_each(self, batch: Batch) -> Decisions:
        """The readable reference of :meth:`decide_all`: one :meth:`decide` after the other."""
        wants = {"weights": self.wants_weights, "predictions": self.wants_predictions}
        return Decisions.of(map(self.enter, batch.requests(**wants)))

    def enter(self, request: Request) -> Decision:
        """:meth:`decide` one layer and enter it in the ledger."""
        decision = self.decide(request)
        if self.checked:
            check_decision(self.name, decision)
        self.residency.apply(request.layer, decision)
        return decision

    # ------------------------------------------------------------------ between plans

    def shrink(self, slots: int) -> list[int]:
        """Give up cache slots until ``slots`` are used; returns the flat indices, in order."""
        gone = list(self.cache)[: max(len(self.cache) - slots, 0)]
        for flat in gone:
            self.cache.drop(flat)
        return gone

    def forget(self, flat: int) -> None:
        """A cached expert was pinned by a plan: it no longer takes a slot."""
        self.cache.drop(flat)

    def snapshot(self) -> State:
        """The policy's own state, as JSON values."""
        return self.cache.snapshot()

    def restore(self, state: Mapping[str, list[int] | list[float]]) -> None:
        """Take a :meth:`snapshot`'s state, of this policy or another one."""
        self.cache = self.retention(self.residency.grid)
        self.cache.restore(self.residency.cached(), state)
