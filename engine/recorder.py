"""The recorder: grows a trace while the engine runs; viewers read it as it grows."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.events import STEPS, TOKENS, Clock, Rows
from engine.happened import Recorded
from engine.lineage import Lineage
from engine.notes import Notes
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.trace import Start, Trace

_FIELDS = STEPS.names or ()
_STEP_WIDTH, _TOKEN_WIDTH = len(_FIELDS), len(TOKENS.names or ())
_COMPLETE, _START, _END = (_FIELDS.index(name) for name in ("complete", "start_ns", "end_ns"))


class Recorder:
    """Takes down what an engine does; :meth:`trace` makes the columns. Nothing is ever dropped.

    One thread writes. Viewers in others read what is new since they last asked, in this order:
    :meth:`step_rows`, :meth:`token_rows`, :attr:`notes`. Who sees a step finds all that led to it.
    """

    def __init__(
        self,
        model: ModelSpec,
        plan: Plan,
        start: Start,
        clock: Clock = Clock.MODELLED,
        lineage: Lineage | None = None,
    ) -> None:
        self.model = model
        self.notes = Notes(model, plan.lane_costs, clock)
        self.plans: list[tuple[int, Plan]] = [(0, plan)]
        """``(first step, plan)``."""
        self.texts: list[str] = []
        """Of each token."""
        self.lineage = lineage or Lineage()
        """Of the rows of the batch that runs."""
        self.start = start
        """What it began with, besides what the first plan pins."""
        self._steps = array("q")
        self._tokens = array("q")

    def __repr__(self) -> str:
        return f"Recorder({self.step_count} steps, {self.token_count} tokens)"

    @property
    def token_count(self) -> int:
        """Token rows so far: the row of the next token."""
        return len(self._tokens) // _TOKEN_WIDTH

    def plan(self, step: int, plan: Plan) -> int:
        """Another plan holds from ``step`` on; returns its number.

        The plan before it stays on record even where no step ran under it: the changes between
        the two were made, and a replay has to make them too.
        """
        self.plans.append((step, plan))
        return len(self.plans) - 1

    def tokens(self, rows: Rows, texts: Sequence[str]) -> None:
        """Tokens that a step is about to process (or, with step -1, that none will)."""
        self.texts.extend(texts)
        self._tokens.frombytes(rows.tobytes())
        self.lineage.commit()

    def step(self, row: Sequence[int]) -> None:
        """A step ended: its row of :data:`engine.events.STEPS`.

        One that was cut short (``complete`` 0) ends, whatever the row says, with its last layer.
        """
        if not row[_COMPLETE]:
            end = self.notes.end_of(row[0])
            row = (*row[:_END], row[_START] if end is None else end, *row[_END + 1 :])
        self._steps.extend(row)

    @property
    def step_count(self) -> int:
        """Steps that ended so far."""
        return len(self._steps) // _STEP_WIDTH

    def step_rows(self, cursor: int = 0) -> Rows:
        """Rows of :data:`engine.events.STEPS` from number ``cursor`` on. A copy."""
        flat = self._steps[cursor * _STEP_WIDTH :]
        return np.array(flat, dtype=np.int64).reshape(-1, _STEP_WIDTH)

    def token_rows(self, cursor: int = 0) -> Rows:
        """Rows of :data:`engine.events.TOKENS` from number ``cursor`` on. A copy."""
        flat = self._tokens[cursor * _TOKEN_WIDTH :]
        return np.array(flat, dtype=np.int64).reshape(-1, _TOKEN_WIDTH)

    def sampled(self, tokens: Sequence[Sequence[int]]) -> Rows:
        """Rows for generated tokens of each row of the batch that no step processed."""
        return self.lineage.unprocessed(self.token_rows(), tokens)

    def trace(self, meta: Mapping[str, Any]) -> Trace:
        """Everything so far as a trace, without a step that has no row yet."""
        step_rows, tokens, notes = self.step_rows(), self.token_rows(), self.notes.read()
        steps = len(step_rows)
        tokens[tokens[:, 0] >= steps, 0] = -1
        complete = np.append(step_rows[:, _COMPLETE] > 0, False)
        kept = notes.step < steps
        notes = notes.where(kept & (complete[notes.step.clip(max=steps)] | ~notes.is_head))
        return Trace(
            model=self.model,
            routing=notes.routing(),
            step_rows=step_rows,
            token_rows=tokens,
            happened=Recorded(*notes.rows()),
            plan_list=tuple((step, plan) for step, plan in self.plans if step <= steps),
            start=self.start,
            texts=tuple(self.texts[: len(tokens)]),
            meta=dict(meta),
        )
