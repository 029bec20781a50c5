"""Which experts of one layer follow which of the layer before: the routing's flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.strict import TOLD, check_call, plain
from engine.trace import Trace
from fiddler_viz.frames.amounts import Ints

Chosen = NDArray[np.bool_]
Ratios = NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """From the experts of one layer to those of the next, counted over the same tokens.

    A token with top-k experts on both sides counts once for each of its k x k pairs.
    """

    layer: int
    """The upper one; the lower one is the next."""
    pairs: Ints
    """Shape ``(experts, experts)``: tokens that chose one above and the other below."""
    tokens: int
    top_k: int
    guessed: float
    """Share of the lower layer's choices that are among the k experts which most often follow the
    token's experts above; ``nan`` without tokens. Counted on the very same tokens."""
    shuffled: float
    """The same with the lower layer's tokens shuffled: what guessing by popularity alone gives."""
    picked: bool = False
    """Whether the layer was not asked for, but the one where the two differ most."""

    @property
    def lift(self) -> Ratios:
        """How many times as often as by chance each pair occurs; ``nan`` where chance is none."""
        total = max(int(self.pairs.sum()), 1)
        chance = self.pairs.sum(axis=1)[:, None] * (self.pairs.sum(axis=0)[None] / total)
        return np.where(chance > 0, self.pairs / np.where(chance > 0, chance, 1), np.nan)


def flow(
    trace: Trace, layer: int | None = None, *, progress: Callable[[int, int], object] | None = None
) -> Flow:
    """The flow from ``layer`` to the next one; None: from the layer that tells most of the next.

    Negative layers count from the end. ``progress`` is called after each layer looked at, with how
    many are done and of how many; what it raises ends it. Raises InputError for a layer that has
    no next one.
    """
    check_call("progress", progress, TOLD)
    layers, experts = trace.model.grid
    if layers < 2:
        raise InputError("flow: expected a model of at least 2 MoE layers, this one has 1.")
    layer = plain(layer)
    if layer is not None:
        if type(layer) is not int or not -layers <= layer < layers:
            raise InputError(f"flow, layer: expected 0 to {layers - 2}, got {layer!r}.")
        if layer % layers == layers - 1:
            raise InputError(f"flow: layer {layer} is the last one, nothing follows it.")
        return _between(trace, layer % layers, experts)
    every: list[Flow] = []
    for at in range(layers - 1):
        every.append(_between(trace, at, experts, picked=True))
        if progress is not None:
            progress(at + 1, layers - 1)
    return max(every, key=lambda found: np.nan_to_num(found.guessed - found.shuffled, nan=-1))


def _between(trace: Trace, layer: int, experts: int, *, picked: bool = False) -> Flow:
    above, below = (_choices(trace, at, experts) for at in (layer, layer + 1))
    both, first, second = np.intersect1d(above[0], below[0], return_indices=True)
    upper, lower = above[1][first], below[1][second]  # (tokens, experts)
    pairs = upper.astype(np.float32).T @ lower.astype(np.float32)
    top_k, many = trace.model.top_k, len(both)
    if not many:
        return Flow(layer, pairs.astype(np.int64), 0, top_k, np.nan, np.nan, picked)
    order = np.random.default_rng(0).permutation(many)
    return Flow(
        layer,
        pairs.astype(np.int64),
        many,
        top_k,
        _guessed(upper, lower, top_k),
        _guessed(upper, lower[order], top_k),
        picked,
    )


def _choices(trace: Trace, layer: int, experts: int) -> tuple[Ints, Chosen]:
    """Tokens that were routed in a layer, ascending, and their experts: ``(tokens, experts)``."""
    routing = trace.unpadded
    rows = np.flatnonzero(routing.layer == layer)
    token = routing.token[rows].astype(np.int64)
    chosen = np.zeros((len(rows), experts), np.bool_)
    chosen[np.arange(len(rows))[:, None], routing.experts[rows]] = True
    return token, chosen


def _guessed(upper: Chosen, lower: Chosen, top_k: int) -> float:
    """Share of ``lower``'s choices among the ``top_k`` most often seen below ``upper``'s."""
    above, below = upper.astype(np.float32), lower.astype(np.float32)
    often = above.T @ below  # (experts, experts)
    often /= np.maximum(above.sum(axis=0), 1)[:, None]  # P(below | above)
    best = np.argpartition(-(above @ often), top_k - 1, axis=1)[:, :top_k]
    return float(np.take_along_axis(below, best, axis=1).sum() / max(below.sum(), 1))
