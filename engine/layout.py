"""The list scheduler for a whole trace at once: :class:`engine.timeline.Timeline`, vectorised.

Within a layer every lane takes its work in series, so starts and ends are running sums; only the
streamed experts of one layer depend on each other, and they are walked one by one, for all layers
side by side. Layers follow each other, so absolute times are running sums too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Batch, Decisions
from engine.events import MOVES, WORK, Action, Clock, Lane, Rows, Why, Work
from engine.timeline import STAGING_BUFFERS

Ints = NDArray[np.int64]

_RESIDENT, _STREAM, _CPU = int(Action.RESIDENT), int(Action.STREAM), int(Action.CPU)
_GPU, _HOST, _H2D, _D2H = int(Lane.GPU), int(Lane.CPU), int(Lane.H2D), int(Lane.D2H)
_DENSE, _EXPERT = int(Work.DENSE), int(Work.EXPERT)
_WEIGHTS, _ACTS = int(Work.WEIGHTS), int(Work.ACTIVATIONS)
_MODELLED = int(Clock.MODELLED)


@dataclass(frozen=True)
class Layout:
    """Everything laid out: rows and the time of every segment and step, from 0 ns."""

    work: Rows
    moves: Rows
    step_start: Ints
    """Per step, its plan changes included."""
    step_end: Ints


def _running(values: Ints, segment: Ints, first: Ints) -> tuple[Ints, Ints]:
    """Ends of work done in series within each segment, and the total per segment."""
    total = np.concatenate(([0], np.cumsum(values)))
    base = total[first[:-1]]
    return total[1:] - base[segment], total[first[1:]] - base


def lay_out(
    costs: CostModel,
    batch: Batch,
    decisions: Decisions,
    context: Ints,
    heads: Ints,
    before: Ints,
    *,
    first_step: int,
    start_ns: int,
) -> Layout:
    """:meth:`Timeline.lay` and :meth:`Timeline.head` for many consecutive steps at once.

    ``context`` is given per segment; ``heads`` (tokens through the output head, 0 where a step
    ended before it) and ``before`` (ns of plan changes laid before the step) per step, the steps
    numbered from ``first_step``.
    """
    seg, first = batch.segment, batch.first
    n_seg = len(batch.step)
    action, count = decisions.action, batch.count
    resident, cpu, stream = action == _RESIDENT, action == _CPU, action == _STREAM
    on_gpu = costs.gpu.array(count)

    # Relative to the layer's start, in the order of Timeline.lay.
    dense = costs.dense_array(batch.tokens, context)
    resident_end, resident_all = _running(np.where(resident, on_gpu, 0), seg, first)
    cpu_end, cpu_all = _running(np.where(cpu, costs.cpu.array(count), 0), seg, first)
    _, cpu_pairs = _running(np.where(cpu, count, 0), seg, first)
    sent = np.minimum(batch.tokens, cpu_pairs)
    any_cpu = sent > 0
    there = dense + np.where(any_cpu, costs.to_host.array(sent), 0)
    end = np.where(resident, dense[seg] + resident_end, there[seg] + cpu_end)
    begin = end - np.where(resident, on_gpu, np.where(cpu, costs.cpu.array(count), 0))

    gpu, link = dense + resident_all, dense.copy()
    buffers = [dense.copy() for _ in range(STAGING_BUFFERS)]
    copy_start, copy_end = np.zeros_like(end), np.zeros_like(end)
    rank, streams = _running(stream.astype(np.int64), seg, first)
    for turn in range(int(streams.max(initial=0))):
        at = np.flatnonzero(stream & (rank == turn + 1))  # the turn-th stream of each segment
        s = seg[at]
        copy_start[at] = np.maximum(link[s], buffers[0][s])
        copy_end[at] = link[s] = copy_start[at] + costs.copy_ns
        begin[at] = np.maximum(gpu[s], link[s])
        end[at] = gpu[s] = begin[at] + on_gpu[at]
        last = buffers[-1].copy()
        last[s] = gpu[s]
        older = [np.where(streams > turn, new, old) for old, new in pairwise(buffers)]
        buffers = [*older, last]
    back_start = np.maximum(there + cpu_all, link)
    back_end = back_start + costs.to_device.array(sent)
    length = np.where(any_cpu, np.maximum(gpu, back_end), gpu)

    # Absolute: plan changes, then layers, then the head, step after step.
    n_steps, complete = len(heads), heads > 0
    of_step = batch.step - first_step
    seg_first = np.searchsorted(of_step, np.arange(n_steps + 1))
    head = np.where(complete, costs.head.array(heads), 0)
    laid = np.concatenate(([0], np.cumsum(length)))
    inner = laid[seg_first[1:]] - laid[seg_first[:-1]]
    step_end = start_ns + np.cumsum(before + inner + head)
    step_start = step_end - before - inner - head
    t0 = step_start[of_step] + before[of_step] + laid[:-1] - laid[seg_first[of_step]]

    def table(width: int, rows: int) -> Rows:
        made = np.empty((rows, width), dtype=np.int64, order="F")  # filled column by column
        made[:, -1] = _MODELLED
        return made

    def put(rows: Rows, at: Ints, *values: Ints | int) -> None:
        for column, value in enumerate(values):
            rows[:, column][at] = value  # a column, then its rows: one index array is fastest

    # Rows stand in the order of Timeline.lay: dense, activations out, experts (each streamed
    # one after its weights), activations back; the head ends a complete step.
    seg_layer, seg_step = batch.layer, batch.step
    first_of_entry = first[:-1][seg]
    before_entry = np.arange(len(seg)) - first_of_entry + rank - stream
    rows_in = 1 + 2 * any_cpu + (first[1:] - first[:-1]) + streams
    ends_step = np.zeros(n_seg, np.int64)
    ends_step[seg_first[1:][complete] - 1] = 1
    at_seg = np.concatenate(([0], np.cumsum(rows_in + ends_step)))
    work = table(len(WORK.names or ()), int(at_seg[-1]))
    base = at_seg[:-1]
    put(work, base, seg_step, seg_layer, -1, _DENSE, -1, batch.tokens, _GPU, t0, t0 + dense)
    c = np.flatnonzero(any_cpu)
    out = (seg_step[c], seg_layer[c], -1, _ACTS, -1, sent[c])
    put(work, base[c] + 1, *out, _D2H, t0[c] + dense[c], t0[c] + there[c])
    put(work, base[c] + rows_in[c] - 1, *out, _H2D, t0[c] + back_start[c], t0[c] + back_end[c])
    where = base[seg] + 1 + any_cpu[seg] + before_entry
    te = t0[seg]
    lane = np.where(cpu, _HOST, _GPU)
    es, el, ee = seg_step[seg], seg_layer[seg], batch.expert
    put(work, where + stream, es, el, ee, _EXPERT, action, count, lane, te + begin, te + end)
    w = np.flatnonzero(stream)
    weights = (t0[seg[w]] + copy_start[w], t0[seg[w]] + copy_end[w])
    put(work, where[w], es[w], el[w], ee[w], _WEIGHTS, action[w], count[w], _H2D, *weights)
    h = np.flatnonzero(complete)
    last = seg_first[1:][h] - 1
    head_row = at_seg[last + 1] - 1
    span = (step_end[h] - head[h], step_end[h])
    put(work, head_row, seg_step[last], -1, -1, _DENSE, -1, heads[h], _GPU, *span)

    # Moves: evictions, activations out, weights in expert order, activations back.
    evicted = np.bincount(decisions.evict_segment, minlength=n_seg)
    moves_in = evicted + 2 * any_cpu + streams
    at_move = np.concatenate(([0], np.cumsum(moves_in)))
    moves = table(len(MOVES.names or ()), int(at_move[-1]))
    if len(decisions.evict):
        ev = decisions.evict_segment
        nth = np.arange(len(ev)) - np.concatenate(([0], np.cumsum(evicted)))[ev]
        ev_layer, ev_expert = np.divmod(decisions.evict, batch.columns)
        when = t0[ev] + dense[ev]
        put(
            moves,
            at_move[ev] + nth,
            seg_step[ev],
            ev_layer,
            ev_expert,
            Why.EVICT,
            -1,
            0,
            when,
            when,
        )
    n_bytes = sent[c] * costs.activation_bytes
    crossing = (seg_step[c], seg_layer[c], -1, Why.ACTIVATIONS)
    go, come = (t0[c] + dense[c], t0[c] + there[c]), (t0[c] + back_start[c], t0[c] + back_end[c])
    put(moves, at_move[c] + evicted[c], *crossing, _D2H, n_bytes, *go)
    put(moves, at_move[c + 1] - 1, *crossing, _H2D, n_bytes, *come)
    why = np.where(decisions.keep[w], Why.ADMIT, Why.STREAM)
    place = at_move[seg[w]] + evicted[seg[w]] + any_cpu[seg[w]] + rank[w] - 1
    put(moves, place, es[w], el[w], ee[w], why, _H2D, costs.expert_bytes, *weights)
    return Layout(work, moves, step_start, step_end)
