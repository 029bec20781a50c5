"""Rows of a layer on a device: which tokens go through which expert, and how many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.devices.reserve import CALL_BYTES
from engine.store import ExpertStore

FEWEST_ROWS = 16
"""A call that does not fit with so few rows will not with fewer."""


@dataclass
class DeviceRows:
    """The device's rows of one layer: token-expert pairs, by expert."""

    hidden: Tensor
    """``(T, H)``."""
    weights: Tensor
    """``(T * K,)`` float32."""
    pairs: Tensor
    """``(n,)``: places in ``weights``, expert by expert."""
    top_k: int
    out: Tensor
    """``(T, H)`` float32: where weighted results are added up."""

    def take(self, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Some pairs' tokens ``(n,)``, hidden states ``(n, H)`` and weights ``(n, 1)``."""
        pairs = self.pairs[begin:end]
        rows = pairs // self.top_k
        return rows, self.hidden[rows], self.weights[pairs][:, None]

    def add(self, rows: Tensor, y: Tensor, by: Tensor) -> None:
        """Add results ``(n, H)`` to their tokens."""
        weighted = y.float() * by
        if len(self.out) == 1:
            self.out.add_(weighted.sum(dim=0, keepdim=True))  # always in the same order
        else:
            self.out.index_add_(0, rows, weighted)


def rows_at_once(store: ExpertStore) -> int:
    """So many rows of a call take at most :data:`CALL_BYTES`."""
    weights = store.weights(0, 0)
    hidden, inner = weights.sizes(store.modules[0].is_transposed)
    size = store.dtype.itemsize
    row = size * (2 * hidden + 2 * inner + 2 * inner) + 8 * hidden  # x, y; up; gated; in float32
    return max(CALL_BYTES // row, FEWEST_ROWS)


def pairs_by_expert(
    chosen: NDArray[np.int64], experts: list[int]
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Places in ``chosen`` ``(T, K)``, flat, of some experts one after the other; and of each its
    begin and end among these."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    by_expert = flat[order]
    first = np.searchsorted(by_expert, experts, side="left")
    last = np.searchsorted(by_expert, experts, side="right")
    pieces = [order[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    ends = np.cumsum([0, *map(len, pieces)]).tolist()
    return np.concatenate(pieces), list(pairwise(ends))
