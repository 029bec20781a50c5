"""Keep what is used soonest again: the bound on hits, for it must know the future."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from engine.decision import Batch, Decision, Decisions, Ints, Ragged, Request, as_ints
from engine.errors import InputError
from engine.events import Action
from engine.policies.base import Policy
from engine.residency import Place, Residency

_RESIDENT, _STREAM = int(Action.RESIDENT), int(Action.STREAM)
_HOST, _PINNED, _CACHED = int(Place.HOST), int(Place.PINNED), int(Place.CACHED)


class Belady(Policy):
    """Every missing expert is copied; kept are those whose next use comes soonest.

    Belady's MIN (IBM Systems Journal 5(2), 1966) with bypass: after each layer the slots hold, of
    what was cached and what was copied, the experts used again soonest. No policy that fetches on
    demand has more hits. Replay only, and within one plan.
    """

    name = "belady"
    title = "Belady"
    summary = "Knows the future and keeps what is used soonest: the bound on hits, replay only."
    admits = True
    slot_share = 1.0
    live = False

    def decide(self, request: Request) -> Decision:
        """Refused: one layer alone does not say what comes."""
        raise InputError(
            "policy 'belady' knows the future, which only a finished trace has: use it in a replay"
        )

    def decide_all(self, batch: Batch) -> Decisions:
        """All layers in order; the cache as a heap, the latest next use on top."""
        ledger: Residency = self.residency
        slots, total, never = ledger.cache_slots, len(ledger.place), len(batch.step)
        place = bytearray(ledger.place)
        flats: list[int] = batch.flat.tolist()
        following: list[int] = _next_use(batch.flat, batch.segment, never).tolist()
        used, first = np.unique(batch.flat, return_index=True)
        first_use = dict(zip(used.tolist(), batch.segment[first].tolist(), strict=True))
        next_of = {flat: first_use.get(flat, never) for flat in ledger.cached()}
        heap = [-(then * total + flat) for flat, then in next_of.items()]
        heapify(heap)
        action = np.full(len(flats), _RESIDENT)
        keep = np.zeros(len(flats), dtype=np.bool_)
        evict: list[int] = []
        evicted = [0]
        for a, b in pairwise(batch.first.tolist()):
            missing = [at for at in range(a, b) if place[flats[at]] == _HOST]
            action[missing] = _STREAM
            if slots:
                for at in range(a, b):
                    flat = flats[at]
                    if place[flat] != _PINNED:
                        next_of[flat] = then = following[at]
                        heappush(heap, -(then * total + flat))
                kept = {flats[at] for at in missing}
                while len(next_of) > slots:
                    then, flat = divmod(-heappop(heap), total)
                    if next_of.get(flat) == then:
                        del next_of[flat]
                        if flat in kept:
                            kept.remove(flat)
                        else:
                            evict.append(flat)
                            place[flat] = _HOST
                for at in missing:
                    if flats[at] in kept:
                        keep[at] = True
                        place[flats[at]] = _CACHED
            evicted.append(len(evict))
        self._hold(next_of)
        none = Ragged.none(len(batch.step))
        lists = Ragged(np.array(evicted), as_ints(evict, len(evict)))
        return Decisions(action, keep, lists, none, none)

    def decide_each(self, batch: Batch) -> Decisions:
        """The same: one layer alone cannot be decided."""
        return self.decide_all(batch)

    def _hold(self, cached: Collection[int]) -> None:
        """Enter in ledger and cache what is held at the end."""
        before = set(self.residency.cached())
        for flat in before.difference(cached):
            self.residency.evict(flat)
        for flat in sorted(set(cached) - before):
            self.residency.admit(flat)
        for flat in list(self.cache):
            self.cache.drop(flat)
        for flat in sorted(cached):
            self.cache.add(flat)


def _next_use(flat: Ints, segment: Ints, never: int) -> Ints:
    """Per entry: the segment of the same expert's next entry, ``never`` where there is none."""
    order = np.lexsort((segment, flat))
    following = np.full(len(flat), never, dtype=np.int64)
    same = flat[order][1:] == flat[order][:-1]
    following[order[:-1][same]] = segment[order[1:][same]]
    return following
