"""Keep what is used soonest again: the bound on hits, for it must know the future."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from engine.decision import Batch, Decision, Decisions, Ints, Request
from engine.errors import InputError
from engine.events import Action
from engine.policies.base import Policy
from engine.residency import Place, Residency

_RESIDENT, _STREAM, _CACHED = int(Action.RESIDENT), int(Action.STREAM), int(Place.CACHED)


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
        return self.decide_each(batch)

    def decide_each(self, batch: Batch) -> Decisions:
        """All layers in order; the cache as a heap, the latest next use on top."""
        ledger: Residency = self.residency
        slots, places = ledger.cache_slots, ledger.place
        columns = batch.columns
        flats: list[int] = batch.flat.tolist()
        following = _next_use(batch.flat, batch.segment).tolist()
        next_of = dict.fromkeys(ledger.cached(), 0)  # cached experts: segment of their next use
        heap: list[tuple[int, int]] = []
        first_use: dict[int, int] = {}
        for at in range(len(flats) - 1, -1, -1):
            first_use[flats[at]] = int(batch.segment[at])
        for flat in next_of:
            next_of[flat] = first_use.get(flat, _NEVER)
            heappush(heap, (-next_of[flat], -flat))
        bounds = batch.first.tolist()
        experts, counts, layers = batch.expert.tolist(), batch.count.tolist(), batch.layer.tolist()
        made: list[Decision] = []
        for segment, layer in enumerate(layers):
            a, b = bounds[segment], bounds[segment + 1]
            decision = Decision(columns, experts[a:b], counts[a:b], [], [])
            evict: list[int] = []
            kept: set[int] = set()
            for at in range(a, b):
                flat, then = flats[at], following[at]
                place = places[flat]
                decision.actions.append(_STREAM if place == Place.HOST else _RESIDENT)
                if place == Place.PINNED or not slots:
                    continue
                if place == Place.HOST:
                    kept.add(flat)
                next_of[flat] = then
                heappush(heap, (-then, -flat))
            while len(next_of) > slots:
                then, flat = heappop(heap)
                if next_of.get(-flat) == -then:
                    del next_of[-flat]
                    if -flat in kept:
                        kept.remove(-flat)
                    else:
                        evict.append(-flat)
            decision.keep += [flats[at] in kept for at in range(a, b)]
            decision.evict += evict
            ledger.apply(layer, decision)
            made.append(decision)
        for flat in list(self.cache):
            self.cache.drop(flat)
        for flat in sorted(next_of):
            self.cache.add(flat)
        return Decisions.of(made)


_NEVER = 1 << 62


def _next_use(flat: Ints, segment: Ints) -> Ints:
    """Per entry: the segment of the same expert's next entry, ``_NEVER`` where there is none."""
    order = np.lexsort((segment, flat))
    following = np.full(len(flat), _NEVER, dtype=np.int64)
    same = flat[order][1:] == flat[order][:-1]
    following[order[:-1][same]] = segment[order[1:][same]]
    return following
