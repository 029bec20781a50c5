"""Choices drawn from made-up routing."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.synthetic.routing import SyntheticRouting

Floats = NDArray[np.float64]

_CHUNK_SCORES = 2**21
"""Scores worked on at once: some 50 MB, whatever the grid and the length."""

_SURE = 14.0
"""The largest log-odds of an expert to be chosen, and not to be."""


@dataclass(frozen=True)
class Drawing:
    """What a made-up router chose."""

    experts: NDArray[np.int16]
    """Shape ``(tokens, layers, top_k)``, the best first."""
    weights: NDArray[np.float32]
    """Shape ``(tokens, layers, top_k)``: softmax over the scores of the chosen."""
    predicted: NDArray[np.int16] | None
    """Shape ``(tokens, layers, top_k)``: experts of the *next* layer, predicted while this layer
    ran; -1 in the last layer. None where no accuracy was asked for."""


@dataclass(frozen=True)
class Router:
    """Made-up routing on a grid: which experts are the popular ones. The same for all draws."""

    top_k: int
    logits: NDArray[np.float32]
    """Shape ``(domains, layers, experts)``: of the probability to be chosen."""
    kin: NDArray[np.int64]
    """Shape ``(layers, experts)``: the expert of the layer before whose noise each one shares."""
    locality: NDArray[np.float32]
    """Shape ``(layers,)``."""
    coupling: NDArray[np.float32]
    """Shape ``(layers,)``."""

    @classmethod
    def of(cls, routing: SyntheticRouting, grid: tuple[int, int], top_k: int, seed: int) -> Router:
        """Deal popularity out to the experts of a grid, by ``seed``.

        Every layer gets the same quantiles of a normal distribution times its skew, shuffled: its
        skew is the one asked for, not a sample of it.
        """
        rng = np.random.default_rng((seed, 0))
        layers, experts = grid
        deep = routing.at(layers)
        shape = np.tile(normal_quantiles(experts), (routing.domains + 1, layers, 1))
        shape = rng.permuted(shape, axis=2)  # (1 + domains, layers, experts): common, each domain's
        own, common = np.sqrt(routing.contrast), np.sqrt(1.0 - routing.contrast)
        mixed = common * shape[0] + own * shape[1:]
        if 0 < routing.contrast < 1:  # a sum of two orders: spread as each of them
            spread = shape.std(axis=2)[1:] / np.maximum(mixed.std(axis=2), 1e-12)
            mixed *= spread[:, :, None]
        return cls(
            top_k=top_k,
            logits=log_odds(mixed * deep["skew"][:, None], top_k).astype(np.float32),
            kin=rng.permuted(np.tile(np.arange(experts), (layers, 1)), axis=1),
            locality=deep["locality"].astype(np.float32),
            coupling=deep["coupling"].astype(np.float32),
        )

    @property
    def chances(self) -> Floats:
        """Shape ``(domains, layers, experts)``: the probability to be chosen for a token."""
        return chances(self.logits.astype(np.float64))

    def draw(
        self,
        domain: NDArray[np.int64],
        fresh: NDArray[np.bool_],
        rng: np.random.Generator,
        *,
        accuracy: float | None = None,
    ) -> Drawing:
        """Experts of tokens in a row.

        Args:
            domain: of each token.
            fresh: True for tokens that owe nothing to the one before: a request's first.
            rng: the noise.
            accuracy: share of each layer's experts that the layer before predicts; wrong ones are
                the best of those not chosen. Raises InputError where there are too few of them.
        """
        _, layers, experts = self.logits.shape
        spare = min(self.top_k, experts - self.top_k)
        wrong = 0.0 if accuracy is None else (1.0 - accuracy) * self.top_k
        if not 0.0 <= wrong <= spare:
            least = 1.0 - spare / self.top_k
            raise InputError(
                f"accuracy: expected a share from {least:.3g} to 1 for top-{self.top_k} of "
                f"{experts} experts, got {accuracy!r}."
            )
        shape = (len(domain), layers, self.top_k)
        chosen, weights = np.empty(shape, np.int16), np.empty(shape, np.float32)
        predicted = None if accuracy is None else np.full(shape, -1, dtype=np.int16)
        before = np.zeros((layers, experts), dtype=np.float32)
        many = max(1, _CHUNK_SCORES // (layers * experts))
        luck = rng.spawn(1)[0]  # a stream of its own: predicting changes no choice
        for first in range(0, len(domain), many):
            part = slice(first, first + many)
            noise = self._noise(fresh[part], before, rng)
            before = noise[-1].copy()
            # logistic noise from normal (E. Page, Applied Statistics 26, 1977), and the top_k of
            # logit + noise: Pareto sampling, which chooses each expert with its probability
            score: NDArray[np.float32] = np.square(noise)  # in place from here: it is large
            score *= 0.070566
            score += 1.5976
            score *= noise
            score += self.logits[domain[part]]
            best = _best(score, self.top_k + (0 if predicted is None else spare))
            held = np.take_along_axis(score, best[..., : self.top_k], axis=2)
            power = np.exp(held - held[..., :1])
            chosen[part] = best[..., : self.top_k]
            weights[part] = power / power.sum(axis=2, keepdims=True)
            if predicted is not None:
                guess = best[..., : self.top_k].copy()
                missed = luck.random((len(guess), layers, spare)) < wrong / max(spare, 1)
                tail = slice(self.top_k - spare, self.top_k)  # the least of the chosen
                guess[..., tail] = np.where(missed, best[..., self.top_k :], guess[..., tail])
                predicted[part, :-1] = guess[:, 1:]
        return Drawing(chosen, weights, predicted)

    def _noise(
        self,
        fresh: NDArray[np.bool_],
        before: NDArray[np.float32],
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Standard normal noise ``(tokens, layers, experts)``, along layers, then along tokens."""
        layers, experts = before.shape
        noise = rng.standard_normal((len(fresh), layers, experts), dtype=np.float32)
        rest = np.sqrt(1.0 - self.coupling**2)
        for layer in range(1, layers):
            if self.coupling[layer]:
                noise[:, layer] *= rest[layer]
                shared = np.take(noise[:, layer - 1], self.kin[layer], axis=1)
                noise[:, layer] += self.coupling[layer] * shared
        if self.locality.any():
            keep = self.locality[:, None]
            new = np.sqrt(1.0 - keep**2)
            for token, first in enumerate(fresh.tolist()):
                if not first:
                    noise[token] *= new
                    noise[token] += keep * before
                before = noise[token]
        return noise


def normal_quantiles(many: int) -> Floats:
    """The standard normal distribution in so many points, of mean 0 and deviation 1."""
    points = np.array([NormalDist().inv_cdf((i + 0.5) / many) for i in range(many)])
    return points / points.std() if many > 1 else points


def log_odds(spread: Floats, top_k: int) -> Floats:
    """``spread`` moved so that ``top_k`` experts are chosen over the last axis, on average.

    Over 14 in size they are cut: chances of a millionth.
    """
    low, high = np.full(spread.shape[:-1], -60.0), np.full(spread.shape[:-1], 60.0)
    for _ in range(50):
        middle = (low + high) / 2
        total = chances(spread + middle[..., None]).sum(axis=-1)
        low, high = np.where(total < top_k, middle, low), np.where(total < top_k, high, middle)
    return np.clip(spread + high[..., None], -_SURE, _SURE)


def chances(log_odds: Floats) -> Floats:
    """Probabilities of log-odds."""
    return 1.0 / (1.0 + np.exp(-log_odds))


def _best(score: NDArray[np.float32], many: int) -> NDArray[np.int64]:
    """Indices of the ``many`` largest along the last axis, the largest first."""
    if many < score.shape[-1]:
        found = np.argpartition(score, -many, axis=-1)[..., -many:]
    else:
        found = np.broadcast_to(np.arange(many), score.shape)
    order = np.argsort(-np.take_along_axis(score, found, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, axis=-1)
