"""What a viewer knows of a running engine: added up from what its recorder has since last asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from engine.events import MOVES, STEPS, TOKENS, WORK, Action, Rows, Work, empty, rows_of
from engine.happened import Recorded, Totals
from engine.recorder import Recorder
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.trace import Start, Trace
from fiddler_viz.frames import Ints
from fiddler_viz.views.growing import Growing
from fiddler_viz.views.live_usage import LiveUsage

LIMIT_ROWS = 1 << 18
"""Rows of work, and of moves, kept for the timeline: some 20 MB each at most."""
_PARENT = (TOKENS.names or ()).index("parent")
_POSITION = (TOKENS.names or ()).index("position")
_DTYPES = {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES}


class Source(Protocol):
    """What is watched: an engine, or anything that records runs."""

    @property
    def model_spec(self) -> ModelSpec:
        """Whose experts these are."""
        ...

    @property
    def recorder(self) -> Recorder | None:
        """Of the newest run, finished or not; None before the first."""
        ...


@dataclass(frozen=True)
class _SoFar(Recorded):
    """The newest rows of a run under way, and sums over all of it."""

    usage: LiveUsage
    done: int
    """Steps that had ended."""

    @cached_property
    def _totals(self) -> Totals:
        """Of all of the run; of the rows at hand where nobody asked before the next step's end."""
        return self.usage.totals(self.done) or super()._totals

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy stands for itself: it has the sums, and not who adds them up."""
        return Recorded, (self.work_rows, self.move_rows), {"_totals": self._totals}


class LiveState:
    """The run so far of one engine. One thread pulls and reads; the engine never waits.

    Counts cover the whole run; :meth:`trace` holds its steps and tokens and its newest work.
    """

    def __init__(self, source: Source, limit: int = LIMIT_ROWS) -> None:
        self.limit = limit
        self._source = source
        self._start(source.recorder)

    def __repr__(self) -> str:
        return f"LiveState({self.steps} steps)"

    def _start(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self.model = self._source.model_spec
        self._read = 0, 0, 0  # steps, tokens, notes
        self._padded = False
        self.tables = {
            name: Growing(len(_DTYPES[name].names or ()), self.limit) for name in _DTYPES
        }
        shape = self.model.grid
        self.routed: Ints = np.zeros(shape, dtype=np.int64)
        """Tokens routed to each expert."""
        self.actions: Ints = np.zeros((len(Action), *shape), dtype=np.int64)
        """Calls of each expert by action."""
        self.usage = LiveUsage(shape, recorder)
        self._waiting: dict[int, int] = {}
        """Copies that wait for the link, between two pulls."""
        self.last = Routing.none(self.model.top_k)
        """Routing of the newest step that has any."""

    @property
    def steps(self) -> int:
        """Finished steps."""
        return len(self.tables["steps"])

    @property
    def follows(self) -> bool:
        """Whether what was pulled is of the source's newest run."""
        return self._source.recorder is self._recorder

    def skip(self, *, running: bool) -> None:
        """Begin with what comes next, unless a run is under way: then with its start."""
        recorder = self._source.recorder
        if not running and recorder is not None:
            self._start(recorder)
            self._read = recorder.step_count, recorder.token_count, len(recorder.notes)

    def pull(self) -> bool:
        """Take in what is new; True if there was anything. A new run starts everything over."""
        recorder = self._source.recorder
        new_run = recorder is not self._recorder
        if new_run:
            self._start(recorder)
        if recorder is None:
            return new_run
        done, known, noted = self._read
        # Steps first: what a finished step led to was there before its row.
        # And tokens last: what notes tell of is among them.
        steps, notes = recorder.step_rows(done), recorder.notes.read(noted)
        tokens = recorder.token_rows(known)
        self._read = done + len(steps), known + len(tokens), notes.end
        self.tables["steps"].append(steps)
        self.tables["tokens"].append(tokens)
        self._padded = self._padded or bool((tokens[:, _POSITION] < 0).any())
        work, moves = empty(WORK), empty(MOVES)
        if len(notes):
            work, moves = notes.rows(self._waiting)
            self.tables["work"].append(work)
            self.tables["moves"].append(moves)
            self._count_actions(work)
            self._count_routing(notes.routing())
        self.usage.take(steps, work, moves)
        return new_run or bool(len(steps) or len(tokens) or len(notes))

    def _count_routing(self, new: Routing) -> None:
        """Padding does not count: see :attr:`engine.trace.Trace.unpadded`."""
        if self._padded:
            tokens = self.tables["tokens"]
            new = new.where(tokens.rows[new.token - tokens.dropped, _POSITION] >= 0)
        if not len(new):
            return
        counted = np.bincount(new.flat(self.model.experts), minlength=self.model.experts_total)
        self.routed += counted.reshape(self.routed.shape)
        newest = new.where(new.step == new.step[-1])
        same = len(self.last) and self.last.step[-1] == newest.step[-1]
        self.last = self.last.and_then(newest) if same else newest

    def _count_actions(self, rows: Rows) -> None:
        field = {name: i for i, name in enumerate(WORK.names or ())}
        ran = rows[rows[:, field["kind"]] == Work.EXPERT]
        flat = ran[:, field["layer"]] * self.model.experts + ran[:, field["expert"]]
        at = ran[:, field["action"]] * self.model.experts_total + flat
        self.actions += np.bincount(at, minlength=self.actions.size).reshape(self.actions.shape)

    def trace(self) -> Trace:
        """The finished steps as a trace without routing; the next pull changes nothing in it."""
        done = self.steps
        tokens = self.tables["tokens"].rows
        if dropped := self.tables["tokens"].dropped:  # parents are rows of the whole table
            tokens = tokens.copy()
            tokens[:, _PARENT] = (tokens[:, _PARENT] - dropped).clip(min=-1)
        if done and (tokens[:, 0] >= done).any():  # in the running step: known, not yet priced
            tokens = tokens.copy()
            tokens[tokens[:, 0] >= done, 0] = -1
        elif not done:
            tokens = tokens[:0]
        recorder = self._recorder
        texts = tuple(recorder.texts[: len(tokens)]) if recorder else ()
        return Trace(
            model=self.model,
            routing=Routing.none(self.model.top_k),
            step_rows=self.tables["steps"].rows,
            token_rows=tokens,
            happened=_SoFar(
                rows_of(self.tables["work"].rows, 0, done),
                rows_of(self.tables["moves"].rows, 0, done),
                self.usage,
                done,
            ),
            plan_list=tuple(recorder.plans) if recorder else (),
            start=recorder.start if recorder else Start(),
            texts=texts if len(texts) == len(tokens) else (),
        )
