"""What bounds the end of every step: walking back from it, along what each piece waited for.

On the modelled clock this is exact. A piece of work starts when the last of what it needs is done
(:mod:`engine.timeline`, whose rules are repeated here as who waits for whom), so the pieces on the
path follow each other without a gap and their lengths sum to the step's. Shortening a piece that is
not on the path changes nothing. Where two things end in the same nanosecond, one of them is named.

On the measured clock nobody wrote down what waited for what. There the path is an estimate, by end
times: a piece is taken to have waited for whatever ended last before it began.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import WORK, Action, Clock, Columns, Lane, Work, columns
from engine.lane_times import LaneTimes, lane_times
from engine.trace import Trace

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_LANES = len(Lane)


@dataclass(frozen=True)
class CriticalPath:
    """What the end of each step waited for, in some steps of a trace."""

    exact: bool
    """True on the modelled clock; False where it is an estimate by end times."""
    work: Columns
    """Columns of :data:`engine.events.WORK`: the pieces on the path, in the order of time."""
    times: LaneTimes
    """How the steps' time was spent; its ``critical_ns`` is the path's, by lane."""

    def __repr__(self) -> str:
        shares = ", ".join(f"{lane.name.lower()} {self.times.critical(lane):.0%}" for lane in Lane)
        return f"CriticalPath({len(self.work['step'])} pieces: {shares})"


def critical_path(trace: Trace, first: int = 0, stop: int | None = None) -> CriticalPath:
    """The critical path of the steps ``first`` to ``stop`` (exclusive; left out: to the last)."""
    steps = slice(first, len(trace.step_rows) if stop is None else stop)
    work = columns(trace.happened.window(steps.start, steps.stop)[0], WORK)
    marked = on_path(trace, work)
    chosen = np.flatnonzero(marked)
    chosen = chosen[np.lexsort((work["end_ns"][chosen], work["start_ns"][chosen]))]
    start = int(trace.steps["start_ns"][steps].min(initial=np.iinfo(np.int64).max))
    end = int(trace.steps["end_ns"][steps].max(initial=0))
    return CriticalPath(
        trace.clock == Clock.MODELLED,
        {name: values[chosen] for name, values in work.items()},
        lane_times(work, marked, min(start, end), end),
    )


def on_path(trace: Trace, work: Columns) -> Flags:
    """Which rows of work are on the critical path of their step.

    ``work``: columns of all rows of some whole steps of the trace, in its own order. A million
    rows take about 0.4 s.
    """
    if not len(work["step"]):
        return np.zeros(0, dtype=np.bool_)
    if trace.clock != Clock.MODELLED:
        return by_end_times(work)
    plans = [plan for _, plan in trace.plan_list]
    costs = (plan.lane_costs if plan.has_policy else plan.costs for plan in plans)
    in_turn = np.array([not cost.overlap for cost in costs], dtype=np.bool_)
    return by_rules(work, in_turn[trace.steps["plan"]][work["step"]], trace.model.layers)


def by_end_times(work: Columns) -> Flags:
    """:func:`on_path` where nobody knows what waited for what."""
    step, start, end = work["step"], work["start_ns"], work["end_ns"]
    took = np.flatnonzero(end > start)  # what takes no time is waited for by nobody
    order = took[np.lexsort((end[took], step[took]))]
    step, start, end = step[order], start[order], end[order]
    before = np.searchsorted(end, start, side="right") - 1
    before[(before >= 0) & (step[before] != step)] = -1
    marked = np.zeros(len(work["step"]), dtype=np.bool_)
    marked[order[_walk(np.flatnonzero(np.diff(step, append=-1)), before)]] = True
    return marked


def by_rules(work: Columns, in_turn: Flags, layers: int) -> Flags:
    """:func:`on_path` by what :meth:`engine.timeline.Timeline.lay` has each piece wait for.

    ``in_turn``: per row, whether its plan's costs are without overlap.
    """
    segment, kept = _segments(work, layers)
    if not len(kept):
        return np.zeros(len(work["step"]), dtype=np.bool_)
    lane = work["lane"][kept]
    order = np.lexsort((work["start_ns"][kept], segment * _LANES + lane))
    rows = kept[order]
    segment = np.cumsum(np.diff(segment[order], prepend=segment[order[:1]]) != 0)
    block = segment * _LANES + lane[order]
    kind, action, start, end = (
        work[name][rows] for name in ("kind", "action", "start_ns", "end_ns")
    )
    edges = np.searchsorted(block, np.arange(_LANES * (int(segment[-1]) + 1) + 1))
    first, last = edges[:-1].reshape(-1, _LANES), edges[1:].reshape(-1, _LANES) - 1
    last = np.where(last >= first, last, -1)  # (segments, lanes): the last piece, -1: none
    dense = np.where(last[:, Lane.GPU] >= 0, first[:, Lane.GPU], -1)

    many = len(rows)
    needs = np.full((5, many), -1, dtype=np.int64)  # places of what each piece waits for
    same_lane = np.flatnonzero(block[1:] == block[:-1])
    needs[0, same_lane + 1] = same_lane  # lanes take one thing at a time

    copies = np.flatnonzero((kind == Work.WEIGHTS) & (action >= 0))
    runs = _own_runs(work, rows, copies)  # -1: copied, and not used
    used = runs >= 0
    needs[1, runs[used]] = copies[used]  # an expert runs when its weights are there
    needs[1, copies] = dense[segment[copies]]  # what is copied is known after the router
    turn = used & in_turn[rows[copies]]
    needs[2, copies[turn]] = needs[0, runs[turn]]  # ... and after the experts before it
    staged = action[copies] == Action.STREAM
    buffers, users = copies[staged], np.where(used, runs, copies)[staged]
    again = segment[buffers[2:]] == segment[buffers[:-2]]
    needs[3, buffers[2:][again]] = users[:-2][again]  # one of the two buffers is free again

    on_cpu = np.flatnonzero((kind == Work.EXPERT) & (lane[order] == Lane.CPU))
    needs[1, on_cpu] = last[segment[on_cpu], Lane.D2H]  # the CPU needs the activations
    crossing = kind == Work.ACTIVATIONS
    leave = np.flatnonzero(crossing & (lane[order] == Lane.D2H))
    needs[1, leave] = dense[segment[leave]]
    turn = leave[in_turn[rows[leave]]]
    needs[2, turn] = last[segment[turn], Lane.GPU]
    results = last[segment[turn], Lane.H2D]
    needs[3, turn] = np.where(results >= 0, needs[0, results], -1)  # the copies before them
    back = np.flatnonzero(crossing & (lane[order] == Lane.H2D))
    needs[1, back] = last[segment[back], Lane.CPU]

    known = (needs >= 0) & (end[needs] <= start)
    best = np.where(known, end[needs], np.iinfo(np.int64).min).argmax(axis=0)
    at = np.arange(many)
    waited_for = np.where(known[best, at], needs[best, at], -1)
    # A layer is over when the device has everything: its own results, and the link's.
    over = last[:, [Lane.GPU, Lane.H2D]]
    latest = np.where(over >= 0, end[over], np.iinfo(np.int64).min).argmax(axis=1)
    over = over[np.arange(len(over)), latest]
    marked = np.zeros(len(work["step"]), dtype=np.bool_)
    marked[rows[_walk(over[over >= 0], waited_for)]] = True
    return marked


def _segments(work: Columns, layers: int) -> tuple[Ints, Ints]:
    """A number for each layer of each step, ascending in time; and the rows that can be waited for.

    What a new plan changes comes before the step's first layer, its head after the last. Copies
    made ahead hold nobody up: they take the link only where it is idle.
    """
    step, start = work["step"], work["start_ns"]
    dense = np.flatnonzero(work["kind"] == Work.DENSE)
    steps, begins = np.unique(step[dense], return_index=True)
    ahead = np.flatnonzero((work["kind"] == Work.WEIGHTS) & (work["action"] < 0))
    found = np.searchsorted(steps, step[ahead])
    begun = np.append(start[dense[begins]], np.iinfo(np.int64).max)
    there = np.append(steps, -1)[found] == step[ahead]
    pinned = start[ahead] < np.where(there, begun[found], begun[-1])
    number = np.where(work["layer"] < 0, layers + 1, work["layer"] + 1)
    number[ahead[pinned]] = 0
    kept = np.ones(len(step), dtype=np.bool_)
    kept[ahead[~pinned]] = False
    rows = np.flatnonzero(kept)
    return (step * (layers + 2) + number)[rows], rows


def _own_runs(work: Columns, rows: Ints, copies: Ints) -> Ints:
    """Per copy of weights the place of the expert's run, which stands in the next row of work."""
    place = np.full(len(work["step"]) + 1, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    copy = rows[copies]
    run = np.minimum(copy + 1, len(work["step"]) - 1)
    mine = work["kind"][run] == Work.EXPERT
    for name in ("step", "layer", "expert"):
        mine &= work[name][run] == work[name][copy]
    return np.where(mine, place[run], -1)


def _walk(ends: Ints, waited_for: Ints) -> Ints:
    """The places passed on the way back from each of ``ends``, all of them at the same time."""
    seen = np.zeros(len(waited_for), dtype=np.bool_)
    while len(ends):
        seen[ends] = True
        ends = waited_for[ends]
        ends = ends[ends >= 0]
        ends = ends[~seen[ends]]
    return np.flatnonzero(seen)
