"""The policy protocol: who decides where a missing expert runs, and what is kept.

A policy in ten lines::

    class Cautious(Policy):
        name, title, summary = "cautious", "Cautious", "Streams only large groups of tokens."

        def miss(self, tokens: int) -> Action:
            return Action.STREAM if tokens >= 64 else Action.CPU

Policies look at logical state only (who is resident, how many tokens, the frozen cost model),
never at a clock, so a replay of the same routing makes the same decisions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions
from engine.events import Action
from engine.residency import Place, Residency

_RESIDENT, _STREAM = int(Action.RESIDENT), int(Action.STREAM)
_HOST, _PINNED, _CACHED = int(Place.HOST), int(Place.PINNED), int(Place.CACHED)


class Policy(ABC):
    """Decides, for one layer of one step, where each active expert runs.

    Resident experts run where they are. :meth:`miss` decides for the others; where ``admits`` is
    true, a streamed expert is kept in a cache slot, in place of the least recently used one.
    Experts active in the layer at hand are never evicted by it; without a victim the copy is
    not kept.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    admits: ClassVar[bool] = False
    """Whether cache slots have an effect."""
    planner: ClassVar[str] = "popularity"
    """The planner used when none is named."""
    all_slots: ClassVar[bool] = False
    """Whether all room is cache slots when their number is not given."""

    def __init__(self, residency: Residency, costs: CostModel) -> None:
        self.residency = residency
        self.costs = costs
        self.recent: OrderedDict[int, None] = OrderedDict()
        """Flat indices of the cached experts, least recently used first."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.residency})"

    @abstractmethod
    def miss(self, tokens: int) -> Action:
        """Where a missing expert with this many tokens runs: STREAM or CPU."""

    def misses(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """:meth:`miss` for many token counts at once; override where it has a closed form."""
        table = np.zeros(int(tokens.max(initial=0)) + 1, dtype=np.int64)
        table[tokens] = 1
        for value in np.flatnonzero(table).tolist():
            table[value] = self.miss(value)
        return table[tokens]

    def decide(self, layer: int, experts: list[int], tokens: list[int]) -> Decision:
        """Decide for the active experts of one layer (ascending) and their token counts.

        Updates recency; the caller applies evictions and admissions to the ledger.
        """
        ledger = self.residency
        columns = ledger.grid[1]
        base = layer * columns
        decision = Decision(columns, experts, tokens, [], [])
        active = 0  # slots that this layer uses
        for expert in experts:  # hits first: a miss must not evict what this layer uses
            if ledger.place[base + expert] == _CACHED:
                self.recent.move_to_end(base + expert)
                active += 1
        slots = ledger.cache_slots if self.admits else 0
        for expert, count in zip(experts, tokens, strict=True):
            action, keep = _RESIDENT, False
            if ledger.place[base + expert] == _HOST:
                action = int(self.miss(count))
                keep = action == _STREAM and active < slots
            if keep:
                active += 1
                if len(self.recent) == slots:  # the oldest is not active: the active are newest
                    decision.evict.append(self.recent.popitem(last=False)[0])
                self.recent[base + expert] = None
            decision.actions.append(action)
            decision.keep.append(keep)
        return decision

    def decide_all(self, batch: Batch) -> Decisions:
        """Decide every layer of a batch in order, and leave ledger and recency as after it.

        Equal to :meth:`decide` segment by segment (tested), faster: only experts that the plan
        does not pin are walked, and not even those where nothing can be kept.
        """
        if type(self).decide is not Policy.decide:
            return self.decide_each(batch)
        ledger = self.residency
        flat = batch.flat
        place = ledger.places().ravel()[flat]
        miss = self.misses(batch.count)
        if self.admits and ledger.cache_slots:
            return self._walk(batch, flat, place, miss)
        for index in flat[place == _CACHED].tolist():
            self.recent.move_to_end(index)
        action = np.where(place == _HOST, miss, _RESIDENT)
        none = np.zeros(0, dtype=np.int64)
        return Decisions(action, np.zeros(len(flat), dtype=np.bool_), none, none)

    def decide_each(self, batch: Batch) -> Decisions:
        """The readable reference of :meth:`decide_all`: one :meth:`decide` after the other."""
        actions: list[int] = []
        keep: list[bool] = []
        evict: list[int] = []
        evict_segment: list[int] = []
        for number, (start, stop) in enumerate(pairwise(batch.first.tolist())):
            layer, part = int(batch.layer[number]), slice(start, stop)
            decision = self.decide(layer, batch.expert[part].tolist(), batch.count[part].tolist())
            actions += decision.actions
            keep += decision.keep
            evict += decision.evict
            evict_segment += [number] * len(decision.evict)
            self.residency.apply(layer, decision)
        return Decisions(
            np.array(actions, dtype=np.int64),
            np.array(keep, dtype=np.bool_),
            np.array(evict_segment, dtype=np.int64),
            np.array(evict, dtype=np.int64),
        )

    def _walk(
        self,
        batch: Batch,
        flat: NDArray[np.int64],
        place: NDArray[np.uint8],
        miss: NDArray[np.int64],
    ) -> Decisions:
        """:meth:`decide` for all that is not pinned; one plain loop, for speed."""
        walked = np.flatnonzero(place != _PINNED)
        keys: list[int] = flat[walked].tolist()
        streams: list[bool] = (miss[walked] == _STREAM).tolist()
        ends = np.flatnonzero(np.diff(batch.segment[walked], prepend=-1, append=-1))
        slots, recent = self.residency.cache_slots, self.recent
        touch, take_oldest = recent.move_to_end, recent.popitem
        free = slots - len(recent)
        # Positions in `walked`: not on the device, kept after the copy, in place of another.
        absent: list[int] = []
        kept: list[int] = []
        replacing: list[int] = []
        evict: list[int] = []
        for start, stop in pairwise(ends.tolist()):
            missing: list[int] = []
            for at in range(start, stop):
                if keys[at] in recent:
                    touch(keys[at])
                else:
                    missing.append(at)
            active = stop - start - len(missing)  # slots that this layer uses
            for at in missing:
                if streams[at] and active < slots:
                    active += 1
                    if free:
                        free -= 1
                    else:
                        evict.append(take_oldest(False)[0])
                        replacing.append(at)
                    recent[keys[at]] = None
                    kept.append(at)
            absent += missing
        cached = set(self.residency.cached())
        for index in cached - recent.keys():
            self.residency.evict(index)
        for index in recent.keys() - cached:
            self.residency.admit(index)
        away = walked[_array(absent)]
        action = np.full(len(flat), _RESIDENT, dtype=np.int64)
        action[away] = miss[away]
        keep = np.zeros(len(flat), dtype=np.bool_)
        keep[walked[_array(kept)]] = True
        return Decisions(action, keep, batch.segment[walked[_array(replacing)]], _array(evict))

    def shrink(self, slots: int) -> list[int]:
        """Give up cache slots until ``slots`` are used; returns the flat indices, in order."""
        gone: list[int] = []
        while len(self.recent) > slots:
            gone.append(self.recent.popitem(last=False)[0])
        return gone

    def forget(self, index: int) -> None:
        """A cached expert was pinned by a plan: it no longer takes a slot."""
        self.recent.pop(index, None)

    def snapshot(self) -> dict[str, list[int]]:
        """The policy's own state, as JSON values."""
        return {"recent": list(self.recent)}

    def restore(self, state: Mapping[str, list[int]]) -> None:
        """Take a :meth:`snapshot`'s state; cached experts it does not name count as oldest."""
        cached = dict.fromkeys(self.residency.cached())
        named = dict.fromkeys(index for index in state.get("recent", ()) if index in cached)
        older = [index for index in cached if index not in named]
        self.recent = OrderedDict.fromkeys([*older, *named])


def _array(values: list[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64, len(values))  # faster than np.array
