"""Pin what shortens layers most: from which experts tokens use together, not from counts alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch
from engine.errors import InputError
from engine.planners.base import Ints, Known
from engine.planners.counted import by_popularity
from engine.policies import Policy
from engine.residency import Residency
from engine.sample import Sample
from engine.timeline import Timeline

TRIES = 4
"""Orders tried before the one by popularity is kept."""
_TAKEN = np.iinfo(np.int64).min // 2


def by_makespan(known: Known, room: int) -> Ints:
    """The experts that shorten the modelled decoding of the profile's sample most.

    Each token of the sample is taken as one decode step, and a layer as long as its slowest lane
    under the policy's own decisions (:func:`layer_ns`), without a cache. In each layer experts are
    taken one by one, always the one that saves most time beside those taken before; then the
    layers' orders are merged, what saves most first. The order does not depend on the room: it is
    kept with the profile.

    Raises InputError where the profile has no sample.
    """
    sample = known.profile.sample
    if sample is None:
        raise InputError(
            f"planner 'makespan' needs a sample of routing, which this profile ({known.profile!r}) "
            "does not hold: measure it anew, count it with Profile.from_trace, or use planner "
            "'popularity'"
        )
    memo, key = known.profile.memo, ("makespan", known.costs, known.policy)
    if key not in memo:
        times = layer_ns(known.costs, known.policy, sample.top_k)
        memo[key] = best_first(sample, times, known.profile.array)
    return memo[key][:room]


def layer_ns(costs: CostModel, policy: type[Policy], active: int) -> Ints:
    """How long a layer of one token takes by the number of its misses, 0 to ``active``.

    Asks the policy, and lays what it says on the lanes.
    """
    lanes = costs if policy.overlap else costs.in_turn()
    one, count = np.ones(active, dtype=np.int64), np.zeros(1, dtype=np.int64)
    batch = Batch(
        active, count, count, count + 1, one - 1, np.arange(active), one, one.astype(np.float64)
    )
    found: list[int] = []
    for misses in range(active + 1):
        ledger = Residency((1, active), 1, budget_bytes=active)
        ledger.mark(range(active - misses), ())
        decisions = policy(ledger, costs).decide_all(batch)
        timeline = Timeline(lanes)
        timeline.lay(0, 0, 1, 0, next(decisions.each(batch)), None)
        found.append(timeline.now_ns)
    return np.array(found, dtype=np.int64)


def best_first(sample: Sample, times: Ints, counts: Ints) -> Ints:
    """All experts, what saves most first; among equals the one with the most tokens.

    ``times``: see :func:`layer_ns`. ``counts``: shape ``(layers, experts)``. Never slower on the
    sample than the order by popularity, whatever the room: where a layer's length has
    steps (a second miss for nothing, on the other lane) best first can be, at single rooms;
    then it begins with the most popular, up to that room.
    """
    popular = by_popularity(counts, counts.size)
    bound = np.cumsum(savings(sample, times, counts, popular))
    given = 0
    for _ in range(TRIES):
        order, saved = _from(sample, times, counts, popular[:given])
        behind = np.flatnonzero(np.cumsum(saved) < bound)
        if not len(behind):
            return order
        given = int(behind[0]) + 1
    return popular


def savings(sample: Sample, times: Ints, counts: Ints, order: Ints) -> Ints:
    """What each expert of an order saves of the sample's time beside those before it, in ns."""
    return _from(sample, times, counts, order)[1]


def _from(sample: Sample, times: Ints, counts: Ints, given: Ints) -> tuple[Ints, Ints]:
    """The best order that begins with the given experts, and what each of it saves."""
    layers, experts = counts.shape
    order = np.empty((layers, experts), dtype=np.int64)
    saved = np.empty((layers, experts), dtype=np.int64)
    worth = np.empty((layers, experts), dtype=np.float64)
    of_layer = given // experts
    for layer in range(layers):
        mine = given[of_layer == layer] % experts
        order[layer], saved[layer] = _one_layer(
            sample.choices[:, layer], times, counts[layer], mine
        )
        worth[layer, : len(mine)] = np.inf
        worth[layer, len(mine) :] = _falling(saved[layer, len(mine) :])
    flat = (np.arange(layers, dtype=np.int64)[:, None] * experts + order).ravel()
    at = np.empty_like(flat)  # of each expert: its place in flat
    at[flat] = np.arange(len(flat))
    merged = np.argsort(-worth.ravel(), kind="stable")
    merged[: len(given)] = at[given]
    return flat[merged], saved.ravel()[merged]


def _one_layer(
    chosen: NDArray[np.int16], times: Ints, counts: Ints, given: Ints
) -> tuple[Ints, Ints]:
    """A layer's experts, those given and then the best first, and what each saves, in ns."""
    tokens, top_k = chosen.shape
    popular = np.argsort(-counts, kind="stable")
    rank = np.empty_like(popular)
    rank[popular] = np.arange(len(counts))
    ranked = rank[chosen]  # experts by popularity: the first of equals is the most popular
    saving = np.diff(times, prepend=times[0])  # of the next expert, by misses before
    users = np.argsort(ranked, axis=None, kind="stable") // top_k  # tokens, expert by expert
    first = np.concatenate(([0], np.cumsum(np.bincount(ranked.ravel(), minlength=len(counts)))))
    misses = np.full(tokens, top_k)
    gain = np.diff(first) * int(saving[top_k])  # of each expert; far below zero once taken
    wanted = rank[given].tolist()
    order, saved = np.empty_like(popular), np.empty_like(popular)
    for at in range(len(counts)):
        best = wanted[at] if at < len(wanted) else int(gain.argmax())
        order[at], saved[at] = popular[best], gain[best]
        gain[best] = _TAKEN
        mine = users[first[best] : first[best + 1]]
        before = misses[mine]
        misses[mine] = before - 1
        change = saving[before - 1] - saving[before]
        if change.any():
            others = np.bincount(
                ranked[mine].ravel(), weights=np.repeat(change, top_k), minlength=len(counts)
            )
            gain += others.astype(np.int64)
    return order, saved


def _falling(saved: Ints) -> NDArray[np.float64]:
    """Savings as a merge needs them, never rising: those that rise are averaged with the others."""
    blocks: list[tuple[float, int]] = []  # mean and length
    for value in saved.tolist():
        mean, many = float(value), 1
        while blocks and blocks[-1][0] < mean:
            other, length = blocks.pop()
            mean, many = (mean * many + other * length) / (many + length), many + length
        blocks.append((mean, many))
    return np.repeat([mean for mean, _ in blocks], [many for _, many in blocks])
