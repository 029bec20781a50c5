"""The beginning of a trace: a run as it was at the end of a step, cut out of the whole."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from engine.decision import Ints
from engine.events import TOKENS, Action, Lane, Rows, StepKind
from engine.happened import Calls, Changes, Happened, Recorded, Totals
from engine.lineage import searched
from engine.strict import whole
from engine.trace import Trace

_STEP = (TOKENS.names or ()).index("step")


@dataclass(frozen=True)
class Marks:
    """Where the steps of a trace end in its tables, and what had been added up by then.

    Arrays have one row for each number of steps, from none to all: ``steps + 1`` rows.
    """

    tokens: Ints
    work: Ints
    moves: Ints
    routing: Ints
    called: Ints
    """Rows of ``calls``."""
    calls: Calls
    """Of the whole trace."""
    actions: Ints
    """Expert calls by action, ``(steps + 1, 3)``."""
    bytes: Ints
    """What crossed the link by lane, ``(steps + 1, 4)``."""
    busy_ns: Ints
    """By lane, ``(steps + 1, 4)``."""


@dataclass(frozen=True)
class _Until:
    """What had happened by then: slices of the whole's rows, and sums known without counting."""

    steps: int
    work_rows: Rows
    move_rows: Rows
    totals: Totals
    calls: Calls
    changes: Changes
    whole: Happened
    places: None = None

    def spent(self, stop: int, grid: tuple[int, int]) -> Ints:
        """As :meth:`engine.happened.Happened.spent`; no step of the beginning is cut in two."""
        return self.whole.spent(min(stop, self.steps), grid)

    def window(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """Rows of the steps ``first`` to ``stop`` (exclusive)."""
        return Recorded(self.work_rows, self.move_rows).window(first, stop)


def marks(trace: Trace) -> Marks:
    """Marks of a trace. Counts its rows once; a replay's are made for that."""
    steps = np.arange(len(trace.step_rows) + 1)
    calls, work, moves = trace.happened.calls, trace.work, trace.moves
    crossed = moves["lane"] >= 0
    spent = work["end_ns"] - work["start_ns"]
    link, n_bytes = moves["lane"][crossed], moves["bytes"][crossed]
    newest = np.maximum.accumulate(trace.tokens["step"])  # those never processed come last
    processed = trace.tokens["step"] >= 0
    last = np.flatnonzero(processed)[-1] + 1 if processed.any() else 0
    return Marks(
        tokens=np.searchsorted(newest[:last], steps),
        work=np.searchsorted(work["step"], steps),
        moves=np.searchsorted(moves["step"], steps),
        routing=np.searchsorted(trace.routing.step, steps),
        called=np.searchsorted(calls.step, steps),
        calls=calls,
        actions=_added(calls.step, calls.action, np.ones_like(calls.step), len(steps), len(Action)),
        bytes=_added(moves["step"][crossed], link, n_bytes, len(steps), len(Lane)),
        busy_ns=_added(work["step"], work["lane"], spent, len(steps), len(Lane)),
    )


def _added(step: Ints, kind: Ints, amount: Ints, rows: int, kinds: int) -> Ints:
    """Amounts of all steps before each number of steps, by kind: ``(rows, kinds)``."""
    found = np.bincount((step + 1) * kinds + kind, amount, minlength=rows * kinds)
    return found.astype(np.int64).reshape(rows, kinds).cumsum(axis=0)  # exact below 2^53


def until(trace: Trace, step: int) -> Trace:
    """A trace as it was at the end of ``step``: what a run stopped there would hold.

    -1 is before the first step; the last step and beyond give the trace itself. Tokens that were
    known by then and not yet processed have step -1, as ever. Costs slices, once :func:`marks` has
    counted. Its meta has the step as ``until``. Raises InputError for a step below -1.
    """
    step = whole("until, step", step, least=-1)
    many = step + 1
    if many >= len(trace.step_rows):
        return trace
    at = trace.marks
    tokens, known = int(at.tokens[many]), _known(trace, many)
    rows = trace.token_rows[np.append(np.arange(tokens), known)]
    rows[rows[:, _STEP] >= many, _STEP] = -1
    texts: tuple[str, ...] = ()
    if trace.texts:
        later: list[int] = known.tolist()
        texts = (*trace.texts[:tokens], *(trace.texts[row] for row in later))
    routing = trace.routing.where(slice(int(at.routing[many])))
    if routing.predicted is not None and len(routing) and (routing.predicted < 0).all():
        routing = replace(routing, predicted=None)  # nothing was, so far
    called = slice(int(at.called[many]))
    changes = trace.happened.changes
    changed = int(np.searchsorted(changes.step, many))
    names = ("step", "layer", "expert", "action")
    return replace(
        trace,
        routing=routing,
        step_rows=trace.step_rows[:many],
        token_rows=rows,
        happened=_Until(
            many,
            trace.work_rows[: at.work[many]],
            trace.move_rows[: at.moves[many]],
            Totals(*(tuple(sums[many].tolist()) for sums in (at.actions, at.bytes, at.busy_ns))),
            Calls(*(getattr(at.calls, name)[called] for name in names)),
            Changes(*(getattr(changes, each.name)[:changed] for each in fields(Changes))),
            trace.happened,
        ),
        plan_list=(
            trace.plan_list[0],
            *((first, plan) for first, plan in trace.plan_list[1:] if first < many),
        ),
        texts=texts,
        meta={**trace.meta, "ended": "cut", "until": step},
    )


def _known(trace: Trace, step: int) -> Ints:
    """Rows of the tokens that had been sampled when ``step`` began, by prompt and by beam.

    It is about to process them, or nobody ever does: they end their text. Not of a beam search:
    which of its tokens go on is decided only then.
    """
    tokens, at = trace.tokens, trace.marks.tokens
    begin, end = int(at[step]), int(at[step + 1])
    rows = np.arange(int(at[-1]), len(tokens["step"]))
    if trace.steps["kind"][step] == StepKind.DECODE:
        rows = np.append(np.arange(begin, end), rows)
    parent = tokens["parent"][rows]
    rows = rows[(tokens["position"][rows] >= 0) & (parent >= 0) & (parent < begin)]
    sequence, beam = tokens["sequence"][rows], tokens["beam"][rows]
    if tokens["beam"].any():
        single = ~np.isin(sequence, searched(tokens))
        rows, sequence, beam = rows[single], sequence[single], beam[single]
    return rows[np.lexsort((beam, sequence))]
