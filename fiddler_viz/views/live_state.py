"""What a viewer knows of a running engine: added up from the feed's newest rows, step by step."""

from __future__ import annotations

import numpy as np

from engine.events import MOVES, STEPS, TOKENS, WORK, Action, Rows, Work
from engine.feed import Feed, FeedRun
from engine.notes import ROUTED, Note, routed_rows, rows_of
from engine.spec import ModelSpec
from engine.trace import Routing, Trace
from fiddler_viz.frames import Ints
from fiddler_viz.views.growing import Growing

LIMIT_ROWS = 1 << 18
"""Rows of work, and of moves, kept for the timeline: some 20 MB each at most."""
_DTYPES = {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES}


class LiveState:
    """The run so far of one engine's feed. One thread pulls and reads; the engine never waits.

    Counts cover the whole run; :meth:`trace` holds its steps and tokens and its newest work.
    """

    def __init__(self, model: ModelSpec, feed: Feed, limit: int = LIMIT_ROWS) -> None:
        self.model = model
        self.feed = feed
        self.limit = limit
        self._start(feed.run)

    def __repr__(self) -> str:
        return f"LiveState(run {self.run.number}, {len(self.tables['steps'])} steps)"

    def _start(self, run: FeedRun) -> None:
        self.run = run
        self._cursors = run.steps_begin, run.tokens_begin, run.notes_begin
        self.lost = 0
        """Notes that the engine overwrote before they were pulled; its own trace has them."""
        self.tables = {
            name: Growing(len(_DTYPES[name].names or ()), self.limit) for name in _DTYPES
        }
        shape = self.model.grid
        self.routed: Ints = np.zeros(shape, dtype=np.int64)
        """Tokens routed to each expert."""
        self.actions: Ints = np.zeros((len(Action), *shape), dtype=np.int64)
        """Calls of each expert by action."""
        self.last: Rows = np.zeros((0, len(ROUTED.names or ())), dtype=np.int64)
        """Routing of the newest step that has any."""

    @property
    def steps(self) -> int:
        """Finished steps."""
        return len(self.tables["steps"])

    def skip(self, *, running: bool) -> None:
        """Begin with what comes next, unless a run is under way: then with its start."""
        if not running:
            self._start(self.feed.run)
            feed = self.feed
            self._cursors = feed.steps.written, feed.tokens.written, feed.notes.written

    def pull(self) -> bool:
        """Take in what is new; True if there was anything. A new run starts everything over."""
        feed = self.feed
        run = feed.run
        new_run = run is not self.run
        if new_run:
            self._start(run)
        # Steps first: what a finished step left elsewhere was written before its row.
        at = self._cursors
        pulled = feed.steps.read(at[0]), feed.tokens.read(at[1]), feed.notes.read(at[2])
        if feed.run is not run:  # another run began meanwhile: these may be rows of both
            return self.pull()
        (steps, _, steps_lost), (tokens, _, tokens_lost), (notes, _, lost) = pulled
        self._cursors = pulled[0][1], pulled[1][1], pulled[2][1]
        self.lost += lost
        for name, rows, gone in (("steps", steps, steps_lost), ("tokens", tokens, tokens_lost)):
            table = self.tables[name]
            if gone:  # rows are numbered: keep their places
                table.append(_filler(name, len(table), gone))
            table.append(rows)
        if notes:
            self._take(notes, run.clock)
        return new_run or bool(len(steps) or len(tokens) or notes)

    def _take(self, notes: list[Note], clock: int) -> None:
        work, moves = rows_of(notes, clock)
        self.tables["work"].append(work)
        self.tables["moves"].append(moves)
        self._count_actions(work)
        self._count_routing(routed_rows(notes, self.model.top_k))

    def _count_routing(self, rows: Rows) -> None:
        if not len(rows):
            return
        step, layer, expert = rows[:, 0], rows[:, 1], rows[:, 4]
        size = self.model.experts_total
        counted = np.bincount(layer * self.model.experts + expert, minlength=size)
        self.routed += counted.reshape(self.routed.shape)
        newest = rows[step == step[-1]]
        same = len(self.last) and self.last[-1, 0] == step[-1]
        self.last = np.concatenate([self.last, newest]) if same else newest

    def _count_actions(self, rows: Rows) -> None:
        field = {name: i for i, name in enumerate(WORK.names or ())}
        ran = rows[rows[:, field["kind"]] == Work.EXPERT]
        flat = ran[:, field["layer"]] * self.model.experts + ran[:, field["expert"]]
        at = ran[:, field["action"]] * self.model.experts_total + flat
        self.actions += np.bincount(at, minlength=self.actions.size).reshape(self.actions.shape)

    def trace(self) -> Trace:
        """The finished steps as a trace without routing; arrays are valid until the next pull."""
        done = self.steps
        tokens = self.tables["tokens"].rows
        if done and (tokens[:, 0] >= done).any():  # in the running step: known, not yet priced
            tokens = tokens.copy()
            tokens[tokens[:, 0] >= done, 0] = -1
        elif not done:
            tokens = tokens[:0]
        no = np.zeros(0, dtype=np.int32)
        top_k = self.model.top_k
        routing = Routing(no, no, no, no.astype("i2").reshape(0, top_k), np.zeros((0, top_k), "f4"))
        texts = tuple(self.run.texts[: len(tokens)])
        return Trace(
            model=self.model,
            routing=routing,
            step_rows=self.tables["steps"].rows,
            token_rows=tokens,
            work_rows=_before(self.tables["work"].rows, done),
            move_rows=_before(self.tables["moves"].rows, done),
            plan_list=tuple(self.run.plans),
            texts=texts if len(texts) == len(tokens) else (),
        )


def _before(rows: Rows, step: int) -> Rows:
    """Rows of finished steps; they come in order."""
    return rows[: np.searchsorted(rows[:, 0], step)]


def _filler(name: str, first: int, count: int) -> Rows:
    """Rows in place of lost ones, so that the numbers of later rows stay right."""
    rows = np.zeros((count, len(_DTYPES[name].names or ())), dtype=np.int64)
    if name == "steps":
        rows[:, 0] = first + np.arange(count)
    return rows
