"""Choose for a whole layer what streams and what runs on the CPU, so that it ends soonest."""

from __future__ import annotations

import numpy as np

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions, Request
from engine.events import Action
from engine.policies.base import Policy
from engine.profile import Profile
from engine.residency import Place, Residency
from engine.timeline import Timeline

_RESIDENT, _STREAM, _CPU = int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)


class Makespan(Policy):
    """Of all splits that copy the experts with the most tokens, the one whose layer ends first.

    All copies cost the same and an expert on the CPU costs more the more tokens it has, so only the
    heaviest are worth copying; each number of them is laid on the lanes, copies overlapped with
    compute, and the shortest layer wins, fewer copies on a tie. Fiddler's own choice is tried too:
    from the same residency a layer never takes longer than under ``fiddler``.
    """

    name = "makespan"
    title = "Makespan"
    summary = "Splits each layer's misses between link and CPU so that the slowest lane ends first."
    admits = True

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        super().__init__(residency, costs, profile)
        self._known: dict[tuple[int, int, int], int] = {}
        self._known_by = costs

    def choose(self, request: Request, missing: list[int]) -> list[int]:
        tokens, many = request.tokens, len(missing)
        if max(tokens) == 1:  # all misses are alike
            copied = self._copies(len(tokens) - many, many, request.step_tokens)
            return [_STREAM] * copied + [_CPU] * (many - copied)
        order = sorted(missing, key=lambda at: -tokens[at])
        choices = [set(order[:copied]) for copied in range(many + 1)]
        streams = self.costs.streams_array(np.array([tokens[at] for at in missing]))
        choices.append({at for at, copy in zip(missing, streams.tolist(), strict=True) if copy})
        actions = [_RESIDENT] * len(tokens)

        def length(copied: set[int]) -> tuple[int, int]:
            for at in missing:
                actions[at] = _STREAM if at in copied else _CPU
            return _length_ns(self.costs, tokens, actions, request.step_tokens), len(copied)

        best = min(choices, key=length)
        return [_STREAM if at in best else _CPU for at in missing]

    def _copies(self, resident: int, missing: int, step_tokens: int) -> int:
        """How many of so many misses to copy where every expert has one token. Remembered."""
        if self._known_by is not self.costs:
            self._known, self._known_by = {}, self.costs
        key = resident, missing, min(step_tokens, missing)
        if key not in self._known:
            tokens = [1] * (resident + missing)
            lengths = [
                _length_ns(
                    self.costs,
                    tokens,
                    [_RESIDENT] * resident + [_STREAM] * copied + [_CPU] * (missing - copied),
                    step_tokens,
                )
                for copied in range(missing + 1)
            ]
            self._known[key] = lengths.index(min(lengths))
        return self._known[key]

    def decide_all(self, batch: Batch) -> Decisions:
        """At once where no slot is in play and every expert has one token; else one by one."""
        ledger = self.residency
        if ledger.cache_slots or len(self.cache) or int(batch.count.max(initial=1)) > 1:
            return self.decide_each(batch)
        host = ledger.places().ravel()[batch.flat] == Place.HOST
        first, segment = batch.first, batch.segment
        before = np.concatenate(([0], np.cumsum(host)))
        missing = before[first[1:]] - before[first[:-1]]  # per segment
        resident = np.diff(first) - missing
        kinds = np.stack((resident, missing, np.minimum(batch.tokens, missing)), axis=1)
        kinds, which = np.unique(kinds, axis=0, return_inverse=True)
        copies = np.array([self._copies(*kind) for kind in kinds.tolist()], dtype=np.int64)
        rank = before[:-1] - before[first[:-1]][segment]  # misses of the layer before this one
        copied = rank < copies[which.ravel()][segment]
        miss = np.where(copied, _STREAM, _CPU)
        return Decisions.plain(batch, np.where(host, miss, _RESIDENT))


def _length_ns(costs: CostModel, tokens: list[int], actions: list[int], step_tokens: int) -> int:
    """How long a layer takes from the end of its dense part on."""
    timeline, many = Timeline(costs), len(tokens)
    decision = Decision(many, list(range(many)), tokens, actions, [False] * many)
    timeline.lay(0, 0, step_tokens, 0, decision, None)
    return timeline.now_ns
