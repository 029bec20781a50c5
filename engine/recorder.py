"""The recorder: grows a trace while the engine runs, and feeds the viewers' rings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import (
    MOVES,
    STEPS,
    TOKENS,
    WORK,
    Ring,
    Rows,
    StepKind,
    Why,
    columns,
    empty,
    to_rows,
)
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.timeline import Log
from engine.trace import Routing, Start, Trace

_Piece = tuple[int, int, int, NDArray[Any], NDArray[Any]]
"""``(step, layer, first token, experts (tokens, top_k), weights (tokens, top_k))``."""

ROUTED = np.dtype([(name, np.int64) for name in ("step", "layer", "token", "rank", "expert")])
"""Routing as it goes through the ring: one row per token, layer and rank."""


class RoutingRing:
    """The router's newest choices, read like an :class:`engine.events.Ring`.

    It counts pieces (one layer of one step each), not rows: the writer only passes references on,
    and a reader who wants rows makes them, in its own thread.
    """

    def __init__(self, capacity: int = 1 << 13) -> None:
        self._pieces: deque[tuple[int, _Piece]] = deque(maxlen=capacity)
        self.written = 0
        """Pieces ever written."""

    def __repr__(self) -> str:
        return f"RoutingRing({self.written} pieces written)"

    def write(self, piece: _Piece) -> None:
        """Append one piece, dropping the oldest when full."""
        self._pieces.append((self.written, piece))
        self.written += 1

    def read(self, cursor: int = 0) -> tuple[Rows, int, int]:
        """Return ``(rows of ROUTED since cursor, new cursor, pieces lost to overwriting)``."""
        new = [entry for entry in list(self._pieces) if entry[0] >= cursor]
        if not new:
            return empty(ROUTED), cursor, 0
        lost = new[0][0] - cursor
        return _routed([piece for _, piece in new]), new[-1][0] + 1, lost


class Feed:
    """What viewers pull: rings of the newest rows, and the run they belong to.

    One writer (the engine), any number of readers. ``run_id`` counts runs: steps and times
    start from 0 with each, and a viewer that sees a new one starts over.
    """

    def __init__(self, capacity: int = 1 << 15) -> None:
        self.run_id = 0
        self.rings: dict[str, Ring] = {
            "steps": Ring(STEPS, 1 << 12),
            "tokens": Ring(TOKENS, 1 << 12),
            "work": Ring(WORK, capacity),
            "moves": Ring(MOVES, capacity),
        }
        self.routing = RoutingRing()
        self.plans: list[tuple[int, Plan]] = []
        self.texts: list[str] = []

    def __repr__(self) -> str:
        return f"Feed(run {self.run_id}, {self.rings['steps'].written} steps)"


class Recorder:
    """Appends rows; :meth:`trace` makes the finished columns. Nothing is ever dropped.

    The hot path appends integers to flat lists (``log``) and keeps references to the router's
    arrays; :meth:`flush` turns them into rows once a step, or once a layer of a long one.
    """

    def __init__(
        self, model: ModelSpec, plan: Plan, start: Start, feed: Feed | None = None
    ) -> None:
        self.model = model
        self.log = Log([], [])
        self.feed = feed
        self.plans: list[tuple[int, Plan]] = [(0, plan)]
        self.texts: list[str] = []
        self._start = start
        self._steps: list[int] = []
        self._step_count = 0
        self._tokens: list[Rows] = []
        self._token_count = 0
        self._chunks: tuple[list[Rows], list[Rows]] = ([], [])
        self._routing: list[_Piece] = []
        if feed is not None:
            feed.run_id += 1
            feed.plans = self.plans
            feed.texts = self.texts

    def __repr__(self) -> str:
        return f"Recorder({self._step_count} steps, {self._token_count} tokens)"

    @property
    def token_count(self) -> int:
        """Token rows so far: the row of the next token."""
        return self._token_count

    def plan(self, step: int, plan: Plan) -> int:
        """Another plan holds from ``step`` on; returns its number.

        The plan before it stays on record even where no step ran under it: the changes between
        the two were made, and a replay has to make them too.
        """
        self.plans.append((step, plan))
        return len(self.plans) - 1

    def tokens(self, rows: Rows, texts: Sequence[str]) -> None:
        """Tokens that a step is about to process (or, with step -1, that none will)."""
        self._tokens.append(rows)
        self.texts.extend(texts)
        self._token_count += len(rows)
        if self.feed is not None:
            self.feed.rings["tokens"].write(rows)

    def sampled(self, tokens: Sequence[Sequence[int]]) -> Rows:
        """Rows for generated tokens of each sequence that no step processed (``step`` -1)."""
        known = np.concatenate([empty(TOKENS), *self._tokens])
        steps = np.array(self._steps, dtype=np.int64).reshape(-1, len(STEPS.names or ()))
        prefills = steps[steps[:, 1] == StepKind.PREFILL, 0]  # several, of a prompt in chunks
        found: list[tuple[int, int, int, int]] = []
        if len(known) and int(known[:, 1].max()) + 1 == len(tokens):  # not so in beam search
            prompt = np.bincount(known[np.isin(known[:, 0], prefills), 1], minlength=len(tokens))
            seen = np.bincount(known[:, 1], minlength=len(tokens))
            last = [int(known[known[:, 1] == s, 2].max()) for s in range(len(tokens))]
            for sequence, ids in enumerate(tokens):
                done = int(seen[sequence] - prompt[sequence])
                found += [
                    (-1, sequence, last[sequence] + 1 + at, token)
                    for at, token in enumerate(ids[done:])
                ]
        return np.array(found, dtype=np.int64).reshape(-1, len(TOKENS.names or ()))

    def route(
        self, step: int, layer: int, token: int, experts: NDArray[Any], weights: NDArray[Any]
    ) -> None:
        """The router's choices for tokens ``token...``: two arrays ``(tokens, top_k)``, kept."""
        piece = (step, layer, token, experts, weights)
        self._routing.append(piece)
        if self.feed is not None:
            self.feed.routing.write(piece)

    def step(self, row: Sequence[int]) -> None:
        """A step ended: its row of :data:`engine.events.STEPS`."""
        self._steps.extend(row)
        self._step_count += 1
        self.flush()
        if self.feed is not None:
            self.feed.rings["steps"].write(np.array([row], dtype=np.int64))

    def flush(self) -> None:
        """Turn what was appended into rows, and show them to the viewers."""
        log, feed = self.log, self.feed
        tables = (("work", log.work, WORK), ("moves", log.moves, MOVES))
        for (name, flat, dtype), chunks in zip(tables, self._chunks, strict=True):
            if flat:
                rows = to_rows(flat, dtype)
                chunks.append(rows)
                flat.clear()
                if feed is not None:
                    feed.rings[name].write(rows)

    def trace(self, meta: Mapping[str, Any]) -> Trace:
        """Everything so far as a trace.

        Where an interrupt fell between the rows of one thing, what is not whole is left out: a
        step without its row, a layer without its routing.
        """
        self.flush()
        fields = len(STEPS.names or ())
        step_rows = np.array(self._steps, dtype=np.int64).reshape(-1, fields)
        steps = len(step_rows)
        tokens = np.concatenate([empty(TOKENS), *self._tokens])
        tokens[tokens[:, 0] >= steps, 0] = -1
        work, moves = (
            np.concatenate([empty(dtype), *chunks])
            for dtype, chunks in zip((WORK, MOVES), self._chunks, strict=True)
        )
        return Trace(
            model=self.model,
            routing=_routing([p for p in self._routing if p[0] < steps], self.model.top_k),
            step_rows=step_rows,
            token_rows=tokens,
            work_rows=_whole(work, WORK, step_rows),
            move_rows=_whole(moves, MOVES, step_rows),
            plan_list=tuple((step, plan) for step, plan in self.plans if step <= steps),
            start=self._start,
            texts=tuple(self.texts[: len(tokens)]),
            meta=dict(meta),
        )


_COMPLETE, _STEP_START, _STEP_END = (
    (STEPS.names or ()).index(name) for name in ("complete", "start_ns", "end_ns")
)
_PLANNED = (Why.PIN, Why.UNPIN, Why.EVICT)


def _whole(rows: Rows, dtype: np.dtype[np.void], step_rows: Rows) -> Rows:
    """Rows of the steps there are; of one that was cut short, only those of whole layers.

    A layer's rows all begin before the clock moves to its end: what begins at or after the end
    of a step that was cut short is of a layer that was, or of the head.
    """
    column = columns(rows, dtype)
    keep = column["step"] < len(step_rows)
    if len(step_rows) and not step_rows[-1, _COMPLETE]:
        inside = column["start_ns"] < step_rows[-1, _STEP_END]
        if "why" in column:  # a plan's changes may take no time at all
            inside |= np.isin(column["why"], _PLANNED) & (
                column["start_ns"] == step_rows[-1, _STEP_START]
            )
            inside &= column["start_ns"] <= step_rows[-1, _STEP_END]
        else:
            inside &= column["layer"] >= 0
        keep &= inside | (column["step"] < len(step_rows) - 1)
    return rows[keep]


def _routed(pieces: list[_Piece]) -> Rows:
    """Pieces of routing as rows of :data:`ROUTED`."""
    experts = np.concatenate([piece[3] for piece in pieces])  # (rows, top_k)
    heads = np.array([piece[:3] for piece in pieces], dtype=np.int64)
    counts = np.array([len(piece[3]) for piece in pieces])
    rows, top_k = experts.shape
    made = np.empty((rows, top_k, len(ROUTED.names or ())), dtype=np.int64)
    made[:, :, :3] = np.repeat(heads, counts, axis=0)[:, None]
    made[:, :, 2] += (np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts))[:, None]
    made[:, :, 3] = np.arange(top_k)
    made[:, :, 4] = experts
    return made.reshape(rows * top_k, -1)


def _routing(pieces: list[_Piece], top_k: int) -> Routing:
    if not pieces:
        none = np.zeros(0, dtype=np.int32)
        return Routing(
            none, none, none, np.zeros((0, top_k), np.int16), np.zeros((0, top_k), np.float32)
        )
    counts = [len(piece[3]) for piece in pieces]
    heads = np.array([piece[:3] for piece in pieces], dtype=np.int32)
    offsets = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    return Routing(
        step=np.repeat(heads[:, 0], counts),
        layer=np.repeat(heads[:, 1], counts),
        token=np.repeat(heads[:, 2], counts) + offsets,
        experts=np.concatenate([piece[3] for piece in pieces]).astype(np.int16),
        weights=np.concatenate([piece[4] for piece in pieces]).astype(np.float32),
    )
