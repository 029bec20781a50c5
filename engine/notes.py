"""Notes: what the engine keeps of each layer as it runs, and the rows that are made of them later.

Writing a layer down must cost next to nothing, so the engine only passes references on. Whoever
wants rows makes them, many steps at once: the recorder now and then, a viewer for each frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decision, Decisions
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Why, Work, empty, to_rows
from engine.layout import lanes, layer_rows
from engine.timeline import Log, Timeline
from engine.trace import Routing

Span = tuple[int, int]
"""Start and end in ns."""

ROUTED = np.dtype([(name, np.int64) for name in ("step", "layer", "token", "rank", "expert")])
"""Routing as a viewer reads it: one row per token, layer and rank."""

_MEASURED = int(Clock.MEASURED)


@dataclass(slots=True)
class LayerNote:
    """One layer of one step, after it ran."""

    step: int
    layer: int
    tokens: int
    """Tokens of the step."""
    context: int
    """Key-value positions read, summed over sequences."""
    token: int
    """Row of the step's first token."""
    start_ns: int
    end_ns: int
    costs: CostModel
    """In force at the time."""
    decision: Decision
    experts: NDArray[Any]
    """The router's choices, ``(tokens, top_k)``."""
    weights: NDArray[Any]
    """Theirs, ``(tokens, top_k)``."""
    spans: Sequence[Span] = ()
    """Each active expert's start and end, on a measured clock."""


@dataclass(slots=True)
class PinsNote:
    """What a new plan changed, before the step: ``(layer, expert, why, bytes copied)`` each."""

    step: int
    start_ns: int
    end_ns: int
    costs: CostModel
    changes: Sequence[tuple[int, int, Why, int]]

    def lay(self, log: Log) -> None:
        """Append the rows."""
        Timeline(self.costs, self.start_ns).pins(self.step, self.changes, log)


@dataclass(slots=True)
class HeadNote:
    """The output head, which ends a complete step."""

    step: int
    tokens: int
    start_ns: int
    end_ns: int
    costs: CostModel

    def lay(self, log: Log) -> None:
        """Append the row."""
        Timeline(self.costs, self.start_ns).head(self.step, self.tokens, log)


Note = LayerNote | PinsNote | HeadNote


def rows_of(notes: Sequence[Note], clock: int) -> tuple[Rows, Rows]:
    """Rows of :data:`engine.events.WORK` and ``MOVES``, in the order in which things happened."""
    if clock == _MEASURED:
        return _measured(notes), empty(MOVES)
    parts = [_modelled(list(group)) for _, group in groupby(notes, lambda note: id(note.costs))]
    work, moves = ([part[at] for part in parts] for at in (0, 1))
    return np.concatenate([empty(WORK), *work]), np.concatenate([empty(MOVES), *moves])


def _modelled(notes: list[Note]) -> tuple[Rows, Rows]:
    """Notes under the same costs; at least one."""
    layers = [note for note in notes if isinstance(note, LayerNote)]
    gaps = np.zeros((2, len(layers) + 1), dtype=np.int64)
    log = Log([], [])
    widths = len(WORK.names or ()), len(MOVES.names or ())
    at = 0
    for note in notes:
        if isinstance(note, LayerNote):
            at += 1
            continue
        old = len(log.work), len(log.moves)
        note.lay(log)
        gaps[0, at] += (len(log.work) - old[0]) // widths[0]
        gaps[1, at] += (len(log.moves) - old[1]) // widths[1]
    if not layers:
        return to_rows(log.work, WORK), to_rows(log.moves, MOVES)
    costs = notes[0].costs
    batch, decisions = _batch(layers)
    context = np.array([note.context for note in layers], dtype=np.int64)
    start = np.array([note.start_ns for note in layers], dtype=np.int64)
    laid = lanes(costs, batch, decisions, context)
    made = layer_rows(costs, batch, decisions, laid, start, *gaps)
    made.work[made.work_gaps] = to_rows(log.work, WORK)
    made.moves[made.move_gaps] = to_rows(log.moves, MOVES)
    return made.work, made.moves


def _batch(layers: Sequence[LayerNote]) -> tuple[Batch, Decisions]:
    """Decisions that were made one by one, as columns."""
    made = [note.decision for note in layers]
    heads = np.array([(n.step, n.layer, n.tokens) for n in layers], dtype=np.int64)
    step, layer, tokens = heads.T.copy()
    segments = np.arange(len(made))
    sizes = [len(decision.experts) for decision in made]
    batch = Batch(
        made[0].columns,
        step,
        layer,
        tokens,
        np.repeat(segments, sizes),
        _column(decision.experts for decision in made),
        _column(decision.tokens for decision in made),
    )
    decisions = Decisions(
        _column(decision.actions for decision in made),
        _column(decision.keep for decision in made).astype(bool),
        np.repeat(segments, [len(decision.evict) for decision in made]),
        _column(decision.evict for decision in made),
    )
    return batch, decisions


def _column(lists: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), np.int64)


def _measured(notes: Sequence[Note]) -> Rows:
    """All on the CPU: what ran between two layers' experts is the dense part."""
    flat: list[int] = []
    for note in notes:
        if isinstance(note, HeadNote):
            dense = (note.step, -1, -1, Work.DENSE, -1, note.tokens, Lane.CPU)
            flat.extend((*dense, note.start_ns, note.end_ns, _MEASURED))
        elif isinstance(note, LayerNote):
            step, layer, made = note.step, note.layer, note.decision
            dense = (step, layer, -1, Work.DENSE, -1, note.tokens, Lane.CPU)
            flat.extend((*dense, note.start_ns, note.spans[0][0], _MEASURED))
            for expert, count, span in zip(made.experts, made.tokens, note.spans, strict=True):
                ran = (step, layer, expert, Work.EXPERT, Action.CPU, count, Lane.CPU)
                flat.extend((*ran, *span, _MEASURED))
    return to_rows(flat, WORK)


def routing_of(notes: Iterable[Note], top_k: int) -> Routing:
    """The router's choices, one row per token and layer."""
    layers = [note for note in notes if isinstance(note, LayerNote)]
    if not layers:
        none = np.zeros(0, dtype=np.int32)
        choices = np.zeros((0, top_k), dtype=np.int16), np.zeros((0, top_k), dtype=np.float32)
        return Routing(none, none, none, *choices)
    counts = np.array([len(note.experts) for note in layers])
    heads = np.array([(note.step, note.layer, note.token) for note in layers], dtype=np.int32)
    step, layer, token = np.repeat(heads, counts, axis=0).T
    nth = np.arange(len(step)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Routing(
        step=step.copy(),
        layer=layer.copy(),
        token=(token + nth).astype(np.int32),
        experts=np.concatenate([note.experts for note in layers]).astype(np.int16),
        weights=np.concatenate([note.weights for note in layers]).astype(np.float32),
    )


def routed_rows(notes: Iterable[Note], top_k: int) -> Rows:
    """The same as rows of :data:`ROUTED`."""
    routing = routing_of(notes, top_k)
    made = np.empty((len(routing), top_k, len(ROUTED.names or ())), dtype=np.int64)
    for column, values in enumerate((routing.step, routing.layer, routing.token)):
        made[:, :, column] = values[:, None]
    made[:, :, 3] = np.arange(top_k)
    made[:, :, 4] = routing.experts
    return made.reshape(-1, made.shape[2])
