"""A trace's choices token by token, request by request: what is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.trace import Trace

NEAR_TOKENS = 16
"""Tokens as close as this are taken to be alike; further apart, to be independent."""


@dataclass(frozen=True)
class Choices:
    """Which experts each token of a request went to, in every layer."""

    hot: NDArray[np.bool_]
    """Shape ``(tokens, layers, experts)``: True where the token went; requests in a row."""
    bounds: tuple[int, ...]
    """Where each request begins, and the number of tokens."""
    top_k: int

    @classmethod
    def of(cls, trace: Trace) -> Choices:
        """Of all tokens that went through every layer.

        A request is one sequence from one token to the last before its positions start again.
        Raises InputError where no request has two tokens.
        """
        routing, (layers, experts) = trace.unpadded, trace.model.grid
        seen = np.bincount(routing.token, minlength=len(trace.token_rows))
        whole = np.flatnonzero(seen == layers)
        sequence, position = (trace.tokens[name][whole] for name in ("sequence", "position"))
        order = np.argsort(sequence, kind="stable")
        again = np.diff(position[order], prepend=-1) <= 0
        again |= np.diff(sequence[order], prepend=-1) != 0
        starts = np.flatnonzero(again)
        place = np.full(len(trace.token_rows), -1)
        place[whole[order]] = np.arange(len(order))
        rows = place[routing.token]
        kept = rows >= 0
        hot = np.zeros((len(order), layers, experts), dtype=np.bool_)
        hot[rows[kept, None], routing.layer[kept, None], routing.experts[kept]] = True
        made = cls(hot, (*starts.tolist(), len(order)), trace.model.top_k)
        if not made.again.any():
            raise InputError(
                f"a trace to learn from: expected a request of at least two tokens, got {trace!r}."
            )
        return made

    def first(self, tokens: int) -> Choices:
        """Of the first so many tokens."""
        bounds = [at for at in self.bounds if at < tokens]
        return Choices(self.hot[:tokens], (*bounds, min(tokens, len(self.hot))), self.top_k)

    @property
    def again(self) -> NDArray[np.bool_]:
        """Shape ``(tokens,)``: False for the first token of a request."""
        again = np.ones(len(self.hot), dtype=np.bool_)
        again[list(self.bounds[:-1])] = False
        return again

    @cached_property
    def requests(self) -> list[NDArray[np.bool_]]:
        """``hot`` of each request."""
        return [
            self.hot[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True) if b > a
        ]

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """Shape ``(layers, experts)``: share of all tokens that went to each expert."""
        return self.hot.mean(axis=0)

    @cached_property
    def reuse(self) -> NDArray[np.float64]:
        """Shape ``(layers,)``: share of a token's experts that the token before had, too."""
        again = self.again
        both = self.hot[again] & self.hot[np.flatnonzero(again) - 1]
        return both.sum(axis=(0, 2)) / (len(both) * self.top_k)

    @cached_property
    def chance(self) -> NDArray[np.float64]:
        """Shape ``(layers,)``: the same for two tokens of a request that are far apart.

        Of all pairs further apart than :data:`NEAR_TOKENS` (or a quarter of a short request): what
        popularity alone explains, without the bias that counting a token against itself has.
        """
        layers = self.hot.shape[1]
        shared, pairs = np.zeros(layers), 0
        for hot in self.requests:
            near = min(NEAR_TOKENS, len(hot) // 4)
            counts = hot.sum(axis=0, dtype=np.int64)
            shared += (counts**2).sum(axis=1) - len(hot) * self.top_k
            for lag in range(1, near + 1):
                shared -= 2 * (hot[lag:] & hot[:-lag]).sum(axis=(0, 2))
            pairs += (len(hot) - near) * (len(hot) - near - 1)
        return shared / max(pairs * self.top_k, 1)

    @cached_property
    def foresight(self) -> NDArray[np.float64]:
        """Shape ``(layers,)``: share of a layer's experts that the layer before gives away.

        Counted on the first half of the tokens, judged on the second: with each expert of the
        layer before, the log-odds of this layer's experts change by what was counted; the
        ``top_k`` best are the guess. NaN in the first layer, and for fewer than four tokens.
        """
        half = len(self.hot) // 2
        result = np.full(self.hot.shape[1], np.nan)
        if half < 2:
            return result
        known, judged = self.hot[:half], self.hot[half:]
        for layer in range(1, len(result)):
            before, now = (known[:, at].astype(np.float32) for at in (layer - 1, layer))
            usual = (now.sum(axis=0) + 0.5) / (half + 1)
            seen = before.sum(axis=0)[:, None]  # (experts before, 1)
            given = (before.T @ now + 4 * usual) / (seen + 4)  # four tokens' worth of the usual
            lift = np.log(given / usual)
            score = judged[:, layer - 1].astype(np.float32) @ lift + np.log(usual)
            best = np.argpartition(-score, self.top_k - 1, axis=1)[:, : self.top_k]
            result[layer] = np.take_along_axis(judged[:, layer], best, axis=1).mean()
        return result
