"""Tables and costs of older trace files, as today's."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.cost import CURVES
from engine.events import TOKENS, Rows

TOKENS_WIDTH_1 = 4
"""Schema 1 had ``step``, ``sequence``, ``position`` and ``id``."""

CONTENDED = (8.4 / 13, 22 / 30)
"""Share of its rate that the link, and the CPU, keep while the other is busy: a published profile
of one machine (13 -> 8.4 GB/s and 30 -> 22 GB/s)."""


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


def costs_from_1(values: Any) -> Any:
    """A cost model's plain values as the first traces held them, in today's form.

    What they did not hold is assumed as in the presets (see `engine/data/hardware`): half the rate
    from memory that is not pinned; under contention the shares of :data:`CONTENDED`. Values that
    are no cost model come back as they are, to be refused by ``CostModel.from_dict``.
    """
    try:
        made = dict(values)
        expert, copy = made["expert_bytes"], max(made["copy_ns"], 1)
        fixed, per_token = made["cpu"]["lines"][0]
        link, cpu = CONTENDED
        made |= {
            "pageable_copy_ns": 2 * copy,
            "copy_contended_ns": round(copy / link),
            "h2d_contended_gbps": expert / copy * link,
            "cpu_contended_gbps": expert / (fixed + per_token) * cpu,
            "overlap": True,
        }
        for name in CURVES:
            made[name] = made[name] | {"points": []}
        return made
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return values
