"""The recorder: grows a trace while the engine runs, and feeds the viewers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from engine.events import MOVES, STEPS, TOKENS, WORK, Clock, Rows, StepKind, empty
from engine.feed import Feed
from engine.notes import HeadNote, Note, routing_of, rows_of
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.trace import Routing, Start, Trace

SETTLE_NOTES = 2048
"""Notes that are kept before they become rows: these need a tenth of the memory."""

_FIELDS = STEPS.names or ()
_COMPLETE, _START, _END = (_FIELDS.index(name) for name in ("complete", "start_ns", "end_ns"))


class _Settled(NamedTuple):
    work: Rows
    moves: Rows
    routing: Routing


class Recorder:
    """Takes down what an engine does; :meth:`trace` makes the columns. Nothing is ever dropped.

    A layer is written down with one append, after it ran: an interrupt leaves whole layers.
    """

    def __init__(
        self,
        model: ModelSpec,
        plan: Plan,
        start: Start,
        feed: Feed | None = None,
        *,
        clock: Clock = Clock.MODELLED,
    ) -> None:
        self.model = model
        self.feed = feed
        self.plans: list[tuple[int, Plan]] = [(0, plan)]
        self.texts: list[str] = []
        self._clock = clock
        self._start = start
        self._steps: list[Sequence[int]] = []
        self._tokens: list[Rows] = []
        self._token_count = 0
        self._kept: tuple[list[_Settled], list[Note]] = [], []  # one: an interrupt finds both
        if feed is not None:
            feed.begin(clock, self.plans, self.texts)

    def __repr__(self) -> str:
        return f"Recorder({len(self._steps)} steps, {self._token_count} tokens)"

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
            self.feed.tokens.write(rows)

    def note(self, note: Note) -> None:
        """Something happened. The note is kept as it is: nobody may change it."""
        self._kept[1].append(note)
        if self.feed is not None:
            self.feed.notes.write(note)

    def step(self, row: Sequence[int]) -> None:
        """A step ended: its row of :data:`engine.events.STEPS`.

        One that was cut short (``complete`` 0) ends, whatever the row says, where the last note
        of it does.
        """
        notes = self._kept[1]
        if not row[_COMPLETE]:
            while notes and isinstance(notes[-1], HeadNote) and notes[-1].step == row[0]:
                notes.pop()
            mine = [note.end_ns for note in notes[-1:] if note.step == row[0]]
            row = (*row[:_END], *(mine or [row[_START]]), *row[_END + 1 :])
        self._steps.append(row)
        if self.feed is not None:
            self.feed.steps.write(np.array([row], dtype=np.int64))
        if len(notes) >= SETTLE_NOTES:
            self._kept = [*self._kept[0], self._settle(notes)], []

    def sampled(self, tokens: Sequence[Sequence[int]]) -> Rows:
        """Rows for generated tokens of each sequence that no step processed (``step`` -1)."""
        known = np.concatenate([empty(TOKENS), *self._tokens])
        steps = self._step_rows()
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

    def trace(self, meta: Mapping[str, Any]) -> Trace:
        """Everything so far as a trace, without a step that has no row yet."""
        settled, notes = self._kept
        settled = [*settled, self._settle(notes)]
        step_rows = self._step_rows()
        steps = len(step_rows)
        tokens = np.concatenate([empty(TOKENS), *self._tokens])
        tokens[tokens[:, 0] >= steps, 0] = -1
        work = np.concatenate([empty(WORK), *(part.work for part in settled)])
        moves = np.concatenate([empty(MOVES), *(part.moves for part in settled)])
        return Trace(
            model=self.model,
            routing=_before([part.routing for part in settled], steps),
            step_rows=step_rows,
            token_rows=tokens,
            work_rows=work[work[:, 0] < steps],
            move_rows=moves[moves[:, 0] < steps],
            plan_list=tuple((step, plan) for step, plan in self.plans if step <= steps),
            start=self._start,
            texts=tuple(self.texts[: len(tokens)]),
            meta=dict(meta),
        )

    def _settle(self, notes: Sequence[Note]) -> _Settled:
        work, moves = rows_of(notes, self._clock)
        return _Settled(work, moves, routing_of(notes, self.model.top_k))

    def _step_rows(self) -> Rows:
        return np.array(self._steps, dtype=np.int64).reshape(-1, len(_FIELDS))


def _before(parts: Sequence[Routing], step: int) -> Routing:
    """All parts as one, up to a step."""
    keep = np.concatenate([part.step for part in parts]) < step
    columns = (
        np.concatenate([getattr(part, field.name) for part in parts])[keep]
        for field in fields(Routing)
    )
    return Routing(*columns)
