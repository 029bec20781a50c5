"""Tables of older trace files, as today's."""

from __future__ import annotations

import numpy as np

from engine.events import TOKENS, Rows

TOKENS_WIDTH_1 = 4
"""Schema 1 had ``step``, ``sequence``, ``position`` and ``id``."""


def tokens_from_1(old: Rows) -> Rows:
    """The tokens table of a file of schema 1: each token follows the one before in its sequence.

    Its sequences were rows of the batch: which beam went on from which was not kept.
    """
    step, sequence, position, token = old.T
    parent = np.full(len(old), -1, dtype=np.int64)
    real = np.flatnonzero(position >= 0)
    order = real[np.argsort(sequence[real], kind="stable")]
    same = np.diff(sequence[order]) == 0
    parent[order[1:][same]] = order[:-1][same]
    values = step, sequence, np.zeros_like(step), position, token, parent
    made = np.zeros((len(old), len(TOKENS.names or ())), dtype=np.int64)
    for column, value in enumerate(values):
        made[:, column] = value
    return made
