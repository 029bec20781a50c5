"""Training windows: which tokens each step sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .corpus import WEIGHTS, Domain

_SWITCH_SHARE = 0.25
_LINE_START_SHARE = 0.5


class Stream:
    """The tokens of one domain's training blocks in a row, and where its lines start."""

    def __init__(self, tokens: np.ndarray, newline: int) -> None:
        self.tokens = tokens
        self.line_starts = np.flatnonzero(tokens == newline) + 1

    def take(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` consecutive tokens from a random place, half of the time a line's start."""
        last = len(self.tokens) - count
        starts = self.line_starts[self.line_starts <= last]
        if len(starts) and rng.random() < _LINE_START_SHARE:
            start = int(starts[rng.integers(len(starts))])
        else:
            start = int(rng.integers(last + 1))
        return self.tokens[start : start + count]


class Windows:
    """Draws batches of windows from all domains.

    A quarter of the windows switch domain half-way, with end-of-text (0) between, so that a
    sequence's routing is seen to change with its subject.
    """

    def __init__(
        self,
        domains: list[Domain],
        tokenizer: PreTrainedTokenizerFast,
        seed: int | list[int],
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        newline = tokenizer.encode("\n")[0]
        self._streams = [
            Stream(np.concatenate([np.array(tokenizer.encode(b)) for b in d.train]), newline)
            for d in domains
        ]
        share = np.array([weights[d.name] for d in domains])
        self._share = share / share.sum()
        self._rng = np.random.default_rng(seed)

    @property
    def total_tokens(self) -> int:
        """Training tokens there are, all domains together."""
        return sum(len(s.tokens) for s in self._streams)

    def _stream(self) -> Stream:
        return self._streams[int(self._rng.choice(len(self._streams), p=self._share))]

    def _one(self, count: int) -> np.ndarray:
        if self._rng.random() >= _SWITCH_SHARE:
            return self._stream().take(count, self._rng)
        first = self._stream().take(count // 2, self._rng)
        second = self._stream().take(count - count // 2 - 1, self._rng)
        return np.concatenate((first, [0], second))

    def batch(self, windows: int, length: int) -> Tensor:
        """(windows, length + 1) token ids: inputs and, shifted by one, targets."""
        return torch.from_numpy(np.stack([self._one(length + 1) for _ in range(windows)]))
