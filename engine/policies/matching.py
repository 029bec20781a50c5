"""Fetch what a recorded piece of text that looks like this one used next: MoE-Infinity."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Request
from engine.events import Action
from engine.policies.base import Policy
from engine.policies.retention import State
from engine.policies.scores import Scores
from engine.profile import Profile
from engine.residency import Place, Residency

PIECE_TOKENS = 32
"""Tokens of the profile's sample that make a pattern, at most."""
HALF_LIFE_STEPS = 16
"""After so many steps what was seen counts half."""
FADE = 0.5 ** (1 / HALF_LIFE_STEPS)
LEAST_CHANCE = 0.3
"""An expert is fetched where a token of the pattern uses it with this chance, or a higher one."""
_HOST, _STREAM = int(Place.HOST), int(Action.STREAM)


class Activations(Scores):
    """The least used lately goes first; who is expected soon gets a slot in any case."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self.expected: Collection[int] = ()

    def score_of(self, flat: int) -> float:
        return math.inf if flat in self.expected else self.scores[flat]


class Matching(Policy):
    """The nearest recorded pattern of expert activations says what to fetch.

    MoE-Infinity (arXiv 2401.14361): a pattern is a matrix (layers, experts) of the shares of a
    layer's choices that each expert got, here on a piece of the profile's sample; nearest is the
    one with the highest cosine to the matrix of what was seen lately, which fades. At each layer
    the pattern's likeliest experts of the next layer are fetched, as many as this layer uses.
    Every miss is copied; the cache keeps what was used most lately. A profile without a sample is
    one pattern.
    """

    name = "matching"
    title = "Trace matching"
    summary = "Fetches for the next layer what the most similar recorded text used there."
    admits = True
    retention = Activations
    slot_share = 1.0

    def __init__(
        self, residency: Residency, costs: CostModel, profile: Profile | None = None
    ) -> None:
        super().__init__(residency, costs, profile)
        self._learn()

    def choose(self, request: Request, missing: list[int]) -> list[int]:
        self._cache.expected = ()  # what is needed now has to earn its slot
        return [_STREAM] * len(missing)

    def _learn(self) -> None:
        """Patterns of the profile in force."""
        self._learnt_from = self.profile
        shares = patterns(self.profile, self.residency.grid)  # (patterns, layers, experts)
        norms = np.sqrt(np.square(shares).sum(axis=(1, 2), keepdims=True))
        unit = shares / np.maximum(norms, 1e-9)
        self._unit = np.ascontiguousarray(unit.transpose(1, 2, 0))  # (layers, experts, patterns)
        self._shares = shares
        self.likeness = np.zeros(len(shares))
        """Of each pattern: its cosine with what was seen, times a factor common to all."""
        self._likely: dict[tuple[int, int, int], list[int]] = {}

    def _keep_up(self) -> None:
        """A new plan may bring another profile; a file's plans bring equal ones."""
        if self.profile is not self._learnt_from:
            if self.profile != self._learnt_from:
                self._learn()
            self._learnt_from = self.profile

    def ahead(self, request: Request) -> list[int]:
        self._keep_up()
        layer, experts, tokens = request.layer, request.experts, request.tokens
        likeness = self.likeness
        if not layer:
            likeness *= FADE
        rows = self._unit[layer].take(experts, axis=0)  # (active, patterns)
        if request.step_tokens > 1:
            rows *= np.array(tokens)[:, None]
        likeness += np.add.reduce(rows, axis=0) / sum(tokens)
        if layer + 1 == self.residency.grid[0]:
            return []
        wanted = self._likeliest(int(likeness.argmax()), layer + 1, len(experts))
        place = self.residency.place
        wanted = [flat for flat in wanted if place[flat] == _HOST]
        self._cache.expected = wanted
        return wanted

    @property
    def _cache(self) -> Activations:
        assert isinstance(self.cache, Activations)
        return self.cache

    def _likeliest(self, pattern: int, layer: int, active: int) -> list[int]:
        """Flat indices of a pattern's experts of a layer, the likeliest first. Remembered."""
        key = pattern, layer, active
        if key not in self._likely:
            shares = self._shares[pattern, layer]
            order = np.argsort(-shares, kind="stable")[:active]
            order = order[shares[order] * active >= LEAST_CHANCE]
            self._likely[key] = (layer * self.residency.grid[1] + order).tolist()
        return self._likely[key]

    def snapshot(self) -> State:
        self._keep_up()
        return super().snapshot() | {"likeness": self.likeness.tolist()}

    def restore(self, state: Mapping[str, list[int] | list[float]]) -> None:
        super().restore(state)
        known = np.array(state.get("likeness", ()), dtype=np.float64)
        fits = known.shape == self.likeness.shape
        self.likeness = known if fits else np.zeros(len(self.likeness))


def patterns(profile: Profile | None, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Shares of each layer's choices, by piece of the sample: ``(pieces, layers, experts)``."""
    if profile is None or profile.sample is None:
        counts = np.ones((1, *grid)) if profile is None else profile.array[None].astype(float)
    else:
        chosen = profile.sample.choices.astype(np.int64)  # (tokens, layers, top_k)
        piece = profile.sample.pieces(PIECE_TOKENS)
        layers, experts = grid
        flat = (piece[:, None] * layers + np.arange(layers))[:, :, None] * experts + chosen
        many = int(piece[-1]) + 1
        counts = np.bincount(flat.ravel(), minlength=many * layers * experts)
        counts = counts.reshape(many, layers, experts)
    return counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
