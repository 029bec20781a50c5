"""Choose for a whole layer what streams and what runs on the CPU, so that it ends soonest."""

from __future__ import annotations

import numpy as np

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions, Ints, Request
from engine.events import Action
from engine.policies.base import Policy
from engine.profile import Profile
from engine.residency import Place, Residency
from engine.timeline import STAGING_BUFFERS, Timeline

_RESIDENT, _STREAM, _CPU = int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)


TRY_ALL = 8
"""Misses up to which every split is tried."""


class Makespan(Policy):
    """Of all splits of a layer's misses the one whose layer ends first, fewer copies on a tie.

    Splits are laid on the lanes, copies overlapped with compute: all of them for up to
    ``TRY_ALL`` misses. For more, those that copy the experts with the most tokens, since all copies
    cost the same and an expert on the CPU costs more the more tokens it has; and Fiddler's own.
    From the same residency a layer never takes longer than under ``fiddler``. With cache slots the
    two come to hold different experts, and over a whole run either may be ahead.
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
        lone = np.array([tokens[at] for at in missing], dtype=np.int64)
        if many <= TRY_ALL:
            copied = (np.arange(1 << many)[:, None] >> np.arange(many) & 1).astype(np.bool_)
        else:
            rank = np.empty(many, dtype=np.int64)
            rank[np.argsort(-lone, kind="stable")] = np.arange(many)
            heaviest = rank < np.arange(many + 1)[:, None]
            copied = np.concatenate((heaviest, self.costs.streams_array(lone)[None]))
        choices = np.full((len(copied), len(tokens)), _RESIDENT)  # (choices, experts)
        choices[:, missing] = np.where(copied, _STREAM, _CPU)
        lengths = lengths_ns(self.costs, tokens, choices, request.step_tokens)
        best = np.lexsort((copied.sum(axis=1), lengths))[0]
        return choices[best, missing].tolist()

    def _copies(self, resident: int, missing: int, step_tokens: int) -> int:
        """How many of so many misses to copy where every expert has one token. Remembered."""
        if self._known_by is not self.costs:
            self._known, self._known_by = {}, self.costs
        key = resident, missing, min(step_tokens, missing)
        if key not in self._known:
            tokens = [1] * (resident + missing)
            lengths = [
                length_ns(
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
        most = batch.columns + 1  # a layer's experts, and none: the digits of a number
        kind = (resident * most + missing) * most + np.minimum(batch.tokens, missing)
        kinds, which = np.unique(kind, return_inverse=True)
        split = np.stack((kinds // most**2, kinds // most % most, kinds % most), axis=1)
        copies = np.array([self._copies(*each) for each in split.tolist()], dtype=np.int64)
        rank = before[:-1] - before[first[:-1]][segment]  # misses of the layer before this one
        copied = rank < copies[which.ravel()][segment]
        miss = np.where(copied, _STREAM, _CPU)
        return Decisions.plain(batch, np.where(host, miss, _RESIDENT))


def lengths_ns(costs: CostModel, tokens: list[int], choices: Ints, step_tokens: int) -> Ints:
    """:func:`length_ns` for many choices at once, shape ``(choices, experts)`` (tested equal)."""
    count = np.array(tokens, dtype=np.int64)
    gpu_ns, cpu_ns = costs.gpu.array(count), costs.cpu.array(count)
    streamed, on_host = choices == _STREAM, choices == _CPU
    dense = costs.dense_ns(step_tokens, 0)
    gpu: Ints = dense + (choices == _RESIDENT) @ gpu_ns
    link = np.full(len(choices), dense)
    buffers = [link] * STAGING_BUFFERS
    for at in np.flatnonzero(streamed.any(axis=0)).tolist():
        here = streamed[:, at]
        copy = np.maximum(link, buffers[0])
        if not costs.overlap:
            copy = np.maximum(copy, gpu)
        link = np.where(here, copy + costs.copy_ns, link)
        gpu = np.where(here, np.maximum(gpu, link) + gpu_ns[at], gpu)
        moved = [*buffers[1:], gpu]
        buffers = [np.where(here, b, a) for a, b in zip(buffers, moved, strict=True)]
    crossing = np.minimum(step_tokens, on_host @ count)
    leave = np.full(len(choices), dense) if costs.overlap else np.maximum(gpu, link)
    cpu = leave + costs.to_host.array(crossing) + on_host @ cpu_ns
    home = np.maximum(cpu, link) + costs.to_device.array(crossing)
    return np.where(crossing > 0, np.maximum(gpu, home), np.maximum(gpu, link))


def length_ns(costs: CostModel, tokens: list[int], actions: list[int], step_tokens: int) -> int:
    """How long a layer takes from the end of its dense part on."""
    timeline, many = Timeline(costs), len(tokens)
    decision = Decision(many, list(range(many)), tokens, actions, [False] * many)
    timeline.lay(0, 0, step_tokens, 0, decision, None)
    return timeline.now_ns
