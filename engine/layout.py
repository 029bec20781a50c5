"""The list scheduler for a whole trace at once: :class:`engine.timeline.Timeline`, vectorised.

Within a layer every lane takes its work in series, so starts and ends are running sums; only the
streamed experts of one layer depend on each other, and they are walked one by one, for all layers
side by side (:func:`lanes`). Layers follow each other, so absolute times are running sums too
(:func:`lay_out`), or are known (:mod:`engine.records`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

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


@dataclass(frozen=True)
class Lanes:
    """Every layer on the lanes, in ns from the layer's own start."""

    dense: Ints
    """Per segment: end of the dense part."""
    sent: Ints
    """Per segment: tokens whose activations go to the host, 0 where nothing runs there."""
    there: Ints
    """Per segment: when they have arrived."""
    back_start: Ints
    back_end: Ints
    """Per segment: the way back."""
    length: Ints
    """Per segment: when the device has all results."""
    begin: Ints
    end: Ints
    """Per entry: the expert's computation."""
    copy_start: Ints
    copy_end: Ints
    """Per entry: its copy, 0 where there is none."""
    rank: Ints
    """Per entry: streamed experts of its segment up to and with this one."""
    streams: Ints
    """Per segment: streamed experts."""


class LayerRows(NamedTuple):
    """Rows of many layers, with gaps that stand where the caller wanted them."""

    work: Rows
    moves: Rows
    work_gaps: Ints
    """Indices of the rows left free, in order."""
    move_gaps: Ints


def _running(values: Ints, segment: Ints, first: Ints) -> tuple[Ints, Ints]:
    """Ends of work done in series within each segment, and the total per segment."""
    total = _sums(values)
    base = total[first[:-1]]
    return total[1:] - base[segment], total[first[1:]] - base


def _sums(values: Ints) -> Ints:
    """What comes before each value, and the sum of all."""
    return np.concatenate(([0], np.cumsum(values)))


def lanes(costs: CostModel, batch: Batch, decisions: Decisions, context: Ints) -> Lanes:
    """:meth:`Timeline.lay` of every segment, each from 0 ns; ``context`` is given per segment."""
    seg, first = batch.segment, batch.first
    action, count = decisions.action, batch.count
    resident, cpu, stream = action == _RESIDENT, action == _CPU, action == _STREAM
    on_gpu, on_cpu = costs.gpu.array(count), costs.cpu.array(count)

    dense = costs.dense_array(batch.tokens, context)
    resident_end, resident_all = _running(np.where(resident, on_gpu, 0), seg, first)
    cpu_end, cpu_all = _running(np.where(cpu, on_cpu, 0), seg, first)
    _, cpu_pairs = _running(np.where(cpu, count, 0), seg, first)
    sent = np.minimum(batch.tokens, cpu_pairs)
    there = dense + np.where(sent > 0, costs.to_host.array(sent), 0)
    end = np.where(resident, dense[seg] + resident_end, there[seg] + cpu_end)
    begin = end - np.where(resident, on_gpu, np.where(cpu, on_cpu, 0))

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
    length = np.where(sent > 0, np.maximum(gpu, back_end), gpu)
    return Lanes(
        dense, sent, there, back_start, back_end, length,
        begin, end, copy_start, copy_end, rank, streams,
    )  # fmt: skip


def layer_rows(
    costs: CostModel,
    batch: Batch,
    decisions: Decisions,
    laid: Lanes,
    start: Ints,
    work_gaps: Ints,
    move_gaps: Ints,
) -> LayerRows:
    """Rows of every layer, in the order of :meth:`Timeline.lay`, from ``start`` ns per segment.

    ``work_gaps`` and ``move_gaps``, one longer than there are segments, say how many rows to
    leave free before each segment and after the last one.
    """
    seg, n_seg = batch.segment, len(batch.step)
    sizes = batch.first[1:] - batch.first[:-1]
    te = start[seg]
    es, el, ee = batch.step[seg], batch.layer[seg], batch.expert
    w = np.flatnonzero(decisions.action == _STREAM)
    weights = (te[w] + laid.copy_start[w], te[w] + laid.copy_end[w])
    any_cpu = laid.sent > 0
    c = np.flatnonzero(any_cpu)
    go = (start[c] + laid.dense[c], start[c] + laid.there[c])
    come = (start[c] + laid.back_start[c], start[c] + laid.back_end[c])

    # Work: dense, activations out, experts (each streamed one after its weights), and back.
    stream = decisions.action == _STREAM
    rows_in = 1 + 2 * any_cpu + sizes + laid.streams
    before = _sums(rows_in)
    work = _table(len(WORK.names or ()), int(before[-1] + work_gaps.sum()))
    base = before[:-1] + np.cumsum(work_gaps)[:-1]
    shown = (batch.step, batch.layer, -1, _DENSE, -1, batch.tokens, _GPU)
    _put(work, base, *shown, start, start + laid.dense)
    crossing = (batch.step[c], batch.layer[c], -1)
    _put(work, base[c] + 1, *crossing, _ACTS, -1, laid.sent[c], _D2H, *go)
    _put(work, base[c] + rows_in[c] - 1, *crossing, _ACTS, -1, laid.sent[c], _H2D, *come)
    nth = np.arange(len(seg)) - batch.first[:-1][seg]
    where = base[seg] + 1 + any_cpu[seg] + nth + laid.rank - stream
    lane = np.where(decisions.action == _CPU, _HOST, _GPU)
    ran = (_EXPERT, decisions.action, batch.count, lane, te + laid.begin, te + laid.end)
    _put(work, where + stream, es, el, ee, *ran)
    copied = (_WEIGHTS, decisions.action[w], batch.count[w], _H2D)
    _put(work, where[w], es[w], el[w], ee[w], *copied, *weights)

    # Moves: evictions, activations out, weights in expert order, activations back.
    gone = decisions.evict_segment
    evicted = np.bincount(gone, minlength=n_seg)
    moved_before = _sums(evicted + 2 * any_cpu + laid.streams)
    moves = _table(len(MOVES.names or ()), int(moved_before[-1] + move_gaps.sum()))
    base = moved_before[:-1] + np.cumsum(move_gaps)[:-1]
    if len(gone):
        nth = np.arange(len(gone)) - _sums(evicted)[gone]
        layer, expert = np.divmod(decisions.evict, batch.columns)
        when = start[gone] + laid.dense[gone]
        left = (batch.step[gone], layer, expert, Why.EVICT, -1, 0)
        _put(moves, base[gone] + nth, *left, when, when)
    n_bytes = laid.sent[c] * costs.activation_bytes
    _put(moves, base[c] + evicted[c], *crossing, Why.ACTIVATIONS, _D2H, n_bytes, *go)
    last = base[c] + evicted[c] + laid.streams[c] + 1
    _put(moves, last, *crossing, Why.ACTIVATIONS, _H2D, n_bytes, *come)
    why = np.where(decisions.keep[w], Why.ADMIT, Why.STREAM)
    place = base[seg[w]] + evicted[seg[w]] + any_cpu[seg[w]] + laid.rank[w] - 1
    _put(moves, place, es[w], el[w], ee[w], why, _H2D, costs.expert_bytes, *weights)
    return LayerRows(work, moves, _gaps(before, work_gaps), _gaps(moved_before, move_gaps))


def _gaps(before: Ints, gaps: Ints) -> Ints:
    return np.repeat(before, gaps) + np.arange(int(gaps.sum()))


def _table(width: int, rows: int) -> Rows:
    made = np.empty((rows, width), dtype=np.int64, order="F")  # filled column by column
    made[:, -1] = _MODELLED
    return made


def _put(rows: Rows, at: Ints, *values: Ints | int) -> None:
    for column, value in enumerate(values):
        rows[:, column][at] = value  # a column, then its rows: one index array is fastest


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
    laid = lanes(costs, batch, decisions, context)
    n_steps, complete = len(heads), heads > 0
    of_step = batch.step - first_step
    seg_first = np.searchsorted(of_step, np.arange(n_steps + 1))
    head = np.where(complete, costs.head.array(heads), 0)
    sums = _sums(laid.length)
    inner = sums[seg_first[1:]] - sums[seg_first[:-1]]
    step_end = start_ns + np.cumsum(before + inner + head)
    step_start = step_end - before - inner - head
    start = step_start[of_step] + before[of_step] + sums[:-1] - sums[seg_first[of_step]]

    head_gaps = np.zeros(len(batch.step) + 1, dtype=np.int64)
    np.add.at(head_gaps, seg_first[1:][complete], 1)  # the head's row ends a complete step
    rows = layer_rows(costs, batch, decisions, laid, start, head_gaps, np.zeros_like(head_gaps))
    h = np.flatnonzero(complete)
    ran = (h + first_step, -1, -1, _DENSE, -1, heads[h], _GPU)
    _put(rows.work, rows.work_gaps, *ran, step_end[h] - head[h], step_end[h])
    return Layout(rows.work, rows.moves, step_start, step_end)
