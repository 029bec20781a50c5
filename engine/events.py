"""The event schema: the tables in which what an engine did is written.

Every table is a numpy structured dtype whose fields are all int64, so a batch of rows is also a
plain ``(rows, fields)`` array: the hot path appends integers, nothing is converted twice.

==========  ===============================================================================
table       one row is
==========  ===============================================================================
``steps``   one forward pass: its kind, size, plan and time
``tokens``  one token that a step processed (``step`` is -1 for a token sampled but never processed)
``work``    one occupation of one lane: dense layers, an expert, a weight copy, activations
``moves``   one change of what is on the device, or one crossing of the link, and why
``plans``   one plan and the step from which it held
==========  ===============================================================================

Routing is recorded apart (:class:`engine.routing.Routing`), because its weights are floats.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""A batch of events, shape ``(rows, fields)``."""

Number = TypeVar("Number", bound=np.generic)


class Clock(IntEnum):
    """Where a time comes from. Every timed row carries it, and every view says it."""

    MEASURED = 0
    MODELLED = 1


class StepKind(IntEnum):
    """A prefill processes a prompt (or a chunk of one), a decode one token per sequence."""

    PREFILL = 0
    DECODE = 1


class Action(IntEnum):
    """Where an active expert runs."""

    RESIDENT = 0
    """On the device, where its weights already are."""
    STREAM = 1
    """On the device, after its weights were copied there."""
    CPU = 2
    """On the host: activations cross the link, weights stay."""


class Lane(IntEnum):
    """What can be busy."""

    GPU = 0
    CPU = 1
    H2D = 2
    D2H = 3


class Work(IntEnum):
    """What occupies a lane."""

    DENSE = 0
    """Attention, router, norms and shared experts of a layer (``layer`` -1: the output head)."""
    EXPERT = 1
    WEIGHTS = 2
    ACTIVATIONS = 3


class Why(IntEnum):
    """Why something moved, or left the device (then it costs no bytes: the host keeps weights)."""

    STREAM = 0
    """Copied for this call only, through a staging buffer."""
    ADMIT = 1
    """Copied for this call, and kept in a cache slot."""
    PIN = 2
    """Made resident by a plan (0 bytes if a cache slot already held it)."""
    UNPIN = 3
    """Released by a plan."""
    EVICT = 4
    """Its cache slot was given up."""
    ACTIVATIONS = 5
    """Hidden states on the way to the CPU's experts, or back."""
    FETCH = 6
    """Given a cache slot ahead of its use; its copy waits in line (0 bytes)."""
    AHEAD = 7
    """Part of the copy of a fetched expert, while the link has nothing more urgent to do."""


def _table(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


STEPS: Final = _table(
    "step",
    "kind",
    "tokens",
    "sequences",
    "context",
    "token",
    "plan",
    "complete",
    "start_ns",
    "end_ns",
    "clock",
)
"""``context``: key-value positions read, summed over sequences; ``token``: its first token's row;
``complete``: 0 where a stop or an error ended the step before the head."""
TOKENS: Final = _table("step", "sequence", "beam", "position", "id", "parent")
"""``sequence``: its prompt's number in the batch; ``beam``: its row's number among those of that
prompt (beams, or sampled answers; else 0); ``position``: from its text's first token on, -1 for
padding: left of a shorter prompt, or in the row of a text that has ended; ``parent``: row of the
token that it follows, -1 for the first of a text and for padding. Of the answers of a beam search
the last tokens come last (``step`` -1), with their rank as ``beam``."""
WORK: Final = _table(
    "step", "layer", "expert", "kind", "action", "tokens", "lane", "start_ns", "end_ns", "clock"
)
"""``expert`` and ``action`` are -1 where the work is not one expert's."""
MOVES: Final = _table(
    "step", "layer", "expert", "why", "lane", "bytes", "start_ns", "end_ns", "clock"
)
"""``lane`` is -1 where nothing crossed the link (an eviction, a promotion)."""
PLANS: Final = _table("plan", "step")

TABLES: Final[Mapping[str, np.dtype[np.void]]] = MappingProxyType(
    {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES, "plans": PLANS}
)


def locked(array: NDArray[Number]) -> NDArray[Number]:
    """A view of the same memory that cannot be written to."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def columns(rows: Rows, dtype: np.dtype[np.void]) -> dict[str, NDArray[np.int64]]:
    """Split rows into named columns (views of the same memory, read only, no copy)."""
    names, rows = dtype.names or (), locked(rows)
    return {name: rows[:, i] for i, name in enumerate(names)}


def rows_of(rows: Rows, first: int, stop: int) -> Rows:
    """Rows of the steps ``first`` to ``stop`` (exclusive), of a table in the order of its steps.

    A view. Found in a few looks; numpy's own search would copy the column.
    """
    step = rows[:, 0]
    return rows[bisect_left(step, first) : bisect_left(step, stop)]


def to_rows(flat: list[int], dtype: np.dtype[np.void]) -> Rows:
    """Shape a flat list of integers into rows of ``dtype``."""
    return np.fromiter(flat, np.int64, len(flat)).reshape(-1, len(dtype.names or ()))


def empty(dtype: np.dtype[np.void]) -> Rows:
    """No rows of ``dtype``."""
    return np.zeros((0, len(dtype.names or ())), dtype=np.int64)


Columns = dict[str, NDArray[Any]]
"""A table as named columns of equal length."""
