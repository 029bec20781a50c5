"""How a model routes: statistics of recorded expert choices, numpy only.

Choices are integers (S, T, L, K): sequences, tokens, layers, the K experts chosen. All residency
figures take one token at a time, layer after layer, as decoding does.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

Choices = np.ndarray


def loads(choices: Choices, experts: int) -> np.ndarray:
    """The share of each layer's choices that each expert gets: (L, E), rows sum to 1."""
    layers = choices.shape[2]
    flat = np.moveaxis(choices, 2, 0).reshape(layers, -1)  # (L, S * T * K)
    return np.stack([np.bincount(row, minlength=experts) for row in flat]) / flat.shape[1]


def mixed_loads(by_domain: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Loads (L, E) of text mixed by `weights`, from each domain's."""
    total = sum(weights.values())
    return sum(weights[name] / total * load for name, load in by_domain.items())


@dataclass(frozen=True)
class Popularity:
    """Loads of all (layer, expert), divided by the largest of them."""

    mean: float
    deviation: float
    lower_quartile: float
    upper_quartile: float


def popularity(load: np.ndarray) -> Popularity:
    """The paper's measure of how even experts' popularity is."""
    scaled = load / load.max()
    lower, upper = np.quantile(scaled, (0.25, 0.75))
    return Popularity(float(scaled.mean()), float(scaled.std()), float(lower), float(upper))


def mutual_information(
    by_domain: dict[str, np.ndarray], weights: dict[str, float]
) -> tuple[np.ndarray, float]:
    """(bits between domain and expert in each layer (L,), largest P(e given d) / P(e))."""
    mixed = mixed_loads(by_domain, weights)
    total = sum(weights.values())
    bits = np.zeros(len(mixed))
    lift = 0.0
    for name, load in by_domain.items():
        ratio = np.divide(load, mixed, out=np.ones_like(load), where=mixed > 0)
        logs = np.log2(ratio, out=np.zeros_like(ratio), where=ratio > 0)
        bits += weights[name] / total * (load * logs).sum(1)
        lift = max(lift, float(ratio.max()))
    return bits, lift


def reuse(choices: Choices) -> tuple[float, float]:
    """How often the next token uses (at least one, all) of a layer's experts again."""
    before, after = choices[:, :-1], choices[:, 1:]
    shared = (before[..., :, None] == after[..., None, :]).any(-1).sum(-1)  # (S, T - 1, L)
    return float((shared > 0).mean()), float((shared == choices.shape[-1]).mean())


def shuffled(choices: Choices, seed: int = 0) -> Choices:
    """The same choices with tokens in random order, layers kept together: reuse by load alone."""
    flat = choices.reshape(-1, *choices.shape[2:])
    return np.random.default_rng(seed).permutation(flat).reshape(choices.shape)


def resident_hits(choices: Choices, profile: np.ndarray, count: int) -> float:
    """Share of choices that are among the `count` most popular (layer, expert) of `profile`."""
    resident = np.zeros(profile.size, bool)
    resident[np.argsort(-profile, axis=None, kind="stable")[:count]] = True
    layer = np.arange(choices.shape[2])[:, None]
    return float(resident.reshape(profile.shape)[layer, choices].mean())


def lru_hits(choices: Choices, experts: int, slots: int, per_layer: bool) -> float:
    """Share of choices found in a least-recently-used cache, warm from sequence to sequence.

    `slots` counts experts, in each layer or in all together.
    """
    layers = choices.shape[2]
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(layers)]
    hits = total = 0
    for token in choices.reshape(-1, *choices.shape[2:]):  # (L, K)
        for layer, chosen in enumerate(token.tolist()):
            cache = caches[layer if per_layer else 0]
            for expert in chosen:
                key = layer * experts + expert
                total += 1
                if key in cache:
                    hits += 1
                    cache.move_to_end(key)
                else:
                    cache[key] = None
                    if len(cache) > slots:
                        cache.popitem(last=False)
    return hits / total


def recall(predicted: Choices, choices: Choices) -> float:
    """Share of choices that were predicted; both (..., K)."""
    return float((choices[..., :, None] == predicted[..., None, :]).any(-1).mean())


def most_popular_recall(choices: Choices, load: np.ndarray) -> float:
    """`recall` of always naming each layer's K most popular experts."""
    top = np.argsort(-load, axis=1)[:, : choices.shape[-1]]  # (L, K)
    return recall(np.broadcast_to(top, choices.shape), choices)
