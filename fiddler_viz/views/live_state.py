"""What a viewer knows of a running engine: added up from the feed's newest rows, step by step."""

from __future__ import annotations

import numpy as np

from engine.events import MOVES, STEPS, TOKENS, WORK, Action, Rows, Work
from engine.recorder import ROUTED, Feed
from engine.spec import ModelSpec
from engine.trace import Routing, Trace
from fiddler_viz.frames import Ints
from fiddler_viz.views.growing import Growing

LIMIT_ROWS = 1 << 18
"""Rows of work, and of moves, kept for the timeline: some 20 MB each at most."""
_DTYPES = {"steps": STEPS, "tokens": TOKENS, "work": WORK, "moves": MOVES, "routing": ROUTED}
_STEP = {name: (dtype.names or ()).index("step") for name, dtype in _DTYPES.items()}
_NEVER = np.iinfo(np.int64).max


class LiveState:
    """The run so far of one engine's feed. One thread pulls and reads; the engine never waits.

    Counts cover the whole run; :meth:`trace` holds its steps and tokens and its newest work.
    """

    def __init__(self, model: ModelSpec, feed: Feed, limit: int = LIMIT_ROWS) -> None:
        self.model = model
        self.feed = feed
        self.limit = limit
        rings = {**feed.rings, "routing": feed.routing}
        self._cursors = dict.fromkeys(rings, 0)
        self._last_step: dict[str, int | None] = dict.fromkeys(rings, None)
        self._start(-1)  # what the rings hold is new

    def __repr__(self) -> str:
        return f"LiveState(run {self.run_id}, {len(self.tables['steps'])} steps)"

    def _start(self, run_id: int) -> None:
        self.run_id = run_id
        self.lost = 0
        """Rows that the engine overwrote before they were pulled; its own trace has them."""
        self.tables = {
            name: Growing(len(_DTYPES[name].names or ()), self.limit)
            for name in ("steps", "tokens", "work", "moves")
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
            rings = {**self.feed.rings, "routing": self.feed.routing}
            self._cursors = {name: ring.written for name, ring in rings.items()}
            self._start(self.feed.run_id)

    def pull(self, *, idle: bool = False) -> bool:
        """Take in what is new; True if there was anything. A new run starts everything over.

        ``idle``: the engine was seen not to run, so this pull sees the end of its last run.
        """
        run_id = self.feed.run_id
        new_run = run_id != self.run_id
        if new_run:
            self._start(run_id)
        # Steps first: what a finished step wrote to the other rings was written before it.
        pulled = [self._pull(name, new_run) for name in _DTYPES]
        if idle:
            self._last_step = dict.fromkeys(self._last_step, None)
        return new_run or any(pulled)

    def _pull(self, name: str, new_run: bool) -> bool:
        ring = self.feed.routing if name == "routing" else self.feed.rings[name]
        if ring.written == self._cursors[name]:
            return False
        rows, self._cursors[name], lost = ring.read(self._cursors[name])
        steps = rows[:, _STEP[name]]
        if new_run:
            begin = run_start(steps, self._last_step[name])
            rows, steps, lost = rows[begin:], steps[begin:], 0
        if len(rows):
            self._last_step[name] = int(steps[-1])
        self.lost += lost
        if name == "routing":
            self._count_routing(rows)
        else:
            table = self.tables[name]
            if lost and name in ("steps", "tokens"):  # rows are numbered: keep their places
                table.append(_filler(name, len(table), lost))
            table.append(rows)
        if name == "work":
            self._count_actions(rows)
        return bool(len(rows))

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
        texts = tuple(self.feed.texts[: len(tokens)])
        return Trace(
            model=self.model,
            routing=routing,
            step_rows=self.tables["steps"].rows,
            token_rows=tokens,
            work_rows=_before(self.tables["work"].rows, done),
            move_rows=_before(self.tables["moves"].rows, done),
            plan_list=tuple(self.feed.plans),
            texts=texts if len(texts) == len(tokens) else (),
        )


def run_start(steps: Ints, before: int | None) -> int:
    """Index of the newest run's first row, in rows that may begin with the last run's tail.

    Within a run ``steps`` never decrease, but for -1 (sampled, never processed) at its end.
    ``before`` is the last step seen of the run before, None where all of that run was seen.
    """
    numbers = np.concatenate(([_NEVER if before is None else before], steps))
    falls = np.flatnonzero(np.diff(np.where(numbers < 0, _NEVER, numbers)) < 0)
    return int(falls[-1]) if len(falls) else len(steps)


def _before(rows: Rows, step: int) -> Rows:
    """Rows of finished steps; they come in order."""
    return rows[: np.searchsorted(rows[:, 0], step)]


def _filler(name: str, first: int, count: int) -> Rows:
    """Rows in place of lost ones, so that the numbers of later rows stay right."""
    rows = np.zeros((count, len(_DTYPES[name].names or ())), dtype=np.int64)
    if name == "steps":
        rows[:, 0] = first + np.arange(count)
    return rows
