"""The list scheduler for many layers at once: :class:`engine.timeline.Timeline` in compiled code.

What waits for the link runs on from layer to layer, so layers are walked one after the other. The
walk alone is cheap, and tells when everything ends and how busy the lanes are; rows are written
only of the layers that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_int64, c_uint8, cast
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.course import HEAD, Course
from engine.decision import Ints, Ragged
from engine.events import MOVES, WORK, Action, Lane, Rows, to_rows
from engine.native import function
from engine.timeline import Log, Timeline

_WORK_WIDTH, _MOVE_WIDTH = len(WORK.names or ()), len(MOVES.names or ())


@dataclass(frozen=True)
class Laid:
    """A course on the clock."""

    work: Rows
    moves: Rows
    start: Ints
    end: Ints
    """Per segment of the course."""
    busy_ns: tuple[int, ...]
    """By lane, of the whole course."""
    bytes: tuple[int, ...]
    """By lane: what crossed the link."""
    waiting: Mapping[int, int] = field(default_factory=dict[int, int])
    """Copies of fetched experts that are not through: flat index -> ns left."""


def lay_out(
    course: Course,
    start_ns: int | Ints = 0,
    waiting: Mapping[int, int] | None = None,
    rows: slice = slice(None),
) -> Laid:
    """Lay a course on the lanes.

    ``start_ns`` is when the first segment starts, the others following without a gap, or when
    each does. ``rows`` picks the segments whose rows are made.
    """
    lay = function("fiddler_lay", None, POINTER(_Lay))
    begin, stop, _ = rows.indices(len(course))
    if lay is None:
        return _one_by_one(course, start_ns, waiting or {}, begin, stop)
    return _compiled(lay, course, start_ns, waiting or {}, begin, stop)


def _one_by_one(
    course: Course, start_ns: int | Ints, waiting: Mapping[int, int], begin: int, stop: int
) -> Laid:
    """The readable reference."""
    batch, columns = course.batch, course.batch.columns
    timeline = Timeline(course.costs, 0, waiting)
    start, end = np.empty(len(course), dtype=np.int64), np.empty(len(course), dtype=np.int64)
    given = None if isinstance(start_ns, int) else start_ns.tolist()
    timeline.now_ns = start_ns if isinstance(start_ns, int) else 0
    log, shown = Log(), Log()
    values = zip(
        batch.step.tolist(), batch.layer.tolist(), batch.tokens.tolist(), course.context.tolist(),
        course.decisions.each(batch), strict=True,
    )  # fmt: skip
    for at, (step, layer, tokens, context, decision) in enumerate(values):
        if given is not None:
            timeline.now_ns = given[at]
        start[at] = timeline.now_ns
        into = [len(log.work), len(log.moves)]
        if layer == HEAD:
            timeline.head(step, columns, tokens, log)
        else:
            timeline.lay(step, layer, tokens, context, decision, log)
        end[at] = timeline.now_ns
        if begin <= at < stop:
            shown.work += log.work[into[0] :]
            shown.moves += log.moves[into[1] :]
    work, moves = to_rows(log.work, WORK), to_rows(log.moves, MOVES)
    lane, crossed = (names.index("lane") for names in (WORK.names or (), MOVES.names or ()))
    busy = np.bincount(work[:, lane], weights=work[:, -2] - work[:, -3], minlength=len(Lane))
    link = moves[moves[:, crossed] >= 0]
    n_bytes = np.bincount(link[:, crossed], weights=link[:, crossed + 1], minlength=len(Lane))
    return Laid(
        to_rows(shown.work, WORK), to_rows(shown.moves, MOVES), start, end,
        tuple(busy.astype(np.int64).tolist()), tuple(n_bytes.astype(np.int64).tolist()),
        timeline.waiting,
    )  # fmt: skip


_ints, _bytes = POINTER(c_int64), POINTER(c_uint8)


class _Ragged(Structure):
    _fields_ = [("first", _ints), ("values", _ints)]


class _Lay(Structure):
    """``Lay`` of ``native/src/lay.c``, field by field."""

    _fields_ = [
        ("records", c_int64), ("columns", c_int64),
        ("step", _ints), ("layer", _ints), ("tokens", _ints), ("dense_ns", _ints),
        ("start", _ints), ("end", _ints), ("chained", c_int64),
        ("first", _ints), ("expert", _ints), ("count", _ints), ("action", _ints),
        ("keep", _bytes), ("evict", _Ragged), ("fetch", _Ragged), ("unused", _Ragged),
        ("gpu_ns", _ints), ("cpu_ns", _ints), ("to_host_ns", _ints), ("to_device_ns", _ints),
        ("copy_ns", c_int64), ("expert_bytes", c_int64), ("activation_bytes", c_int64),
        ("overlap", c_int64),
        ("queue", _ints), ("head", c_int64), ("tail", c_int64), ("where", _ints), ("left", _ints),
        ("from_", c_int64), ("to", c_int64), ("work_room", c_int64), ("move_room", c_int64),
        ("work_rows", c_int64), ("move_rows", c_int64), ("work", _ints), ("moves", _ints),
        ("busy_ns", c_int64 * 4), ("bytes", c_int64 * 4), ("scratch", _ints),
        ("overflow", c_int64),
    ]  # fmt: skip


def _compiled(
    lay: Any,
    course: Course,
    start_ns: int | Ints,
    waiting: Mapping[int, int],
    begin: int,
    stop: int,
) -> Laid:
    costs, batch, made = course.costs, course.batch, course.decisions
    alive: list[Any] = []  # what the struct points at

    def ints(values: Any) -> Any:
        alive.append(np.ascontiguousarray(values, dtype=np.int64))
        return cast(alive[-1].ctypes.data, _ints)

    def ragged(lists: Ragged) -> _Ragged:
        return _Ragged(ints(lists.first), ints(lists.values))

    segments, sizes = len(course), np.diff(batch.first)
    named = [*waiting, made.evict.values.max(initial=0), made.fetch.values.max(initial=0)]
    total = max(batch.columns * (int(batch.layer.max(initial=0)) + 1), int(max(named)) + 1)
    fetched = len(made.fetch.values) + len(waiting)
    queue = np.zeros(fetched + 1, dtype=np.int64)
    where, left = np.full(total, -1, dtype=np.int64), np.zeros(total, dtype=np.int64)
    for at, (flat, ns) in enumerate(waiting.items()):
        queue[at], where[flat], left[flat] = flat, at, ns
    start = np.zeros(segments, dtype=np.int64)
    start[:1] = start_ns if isinstance(start_ns, int) else 0
    if not isinstance(start_ns, int):
        start[:] = start_ns
    end = np.zeros(segments, dtype=np.int64)
    heads = batch.layer == HEAD
    tokens = np.where(heads, 0, batch.tokens)
    most = int(max(batch.counts.max(initial=0), tokens.max(initial=0)))
    dense = costs.dense_array(batch.tokens, course.context)
    dense[heads] = costs.head.array(batch.tokens[heads])
    a, b = (int(batch.first[at]) for at in (begin, stop)) if segments else (0, 0)
    lists = [
        int(each.first[stop] - each.first[begin]) if segments else 0
        for each in (made.evict, made.fetch, made.unused)
    ]
    # Most rows: each layer's own three and pieces of waiting copies in each of three gaps.
    pieces = fetched + 3 * (stop - begin)
    streams = int((made.action[a:b] != Action.CPU).sum())
    work_room = 3 * (stop - begin) + (b - a) + streams + lists[2] + pieces + 1
    move_room = 2 * (stop - begin) + streams + sum(lists) + pieces + 1
    work = np.empty((work_room, _WORK_WIDTH), dtype=np.int64, order="F")
    moves = np.empty((move_room, _MOVE_WIDTH), dtype=np.int64, order="F")
    alive += [keep := np.ascontiguousarray(made.keep, dtype=np.uint8), work, moves, start, end]
    args = _Lay(
        records=segments, columns=batch.columns,
        step=ints(batch.step), layer=ints(batch.layer), tokens=ints(batch.tokens),
        dense_ns=ints(dense),
        start=ints(start), end=ints(end), chained=isinstance(start_ns, int),
        first=ints(batch.first), expert=ints(batch.expert), count=ints(batch.count),
        action=ints(made.action), keep=keep.ctypes.data_as(_bytes),
        evict=ragged(made.evict), fetch=ragged(made.fetch), unused=ragged(made.unused),
        gpu_ns=ints(costs.gpu.upto(most)), cpu_ns=ints(costs.cpu.upto(most)),
        to_host_ns=ints(costs.to_host.upto(most)),
        to_device_ns=ints(costs.to_device.upto(most)),
        copy_ns=costs.copy_ns, expert_bytes=costs.expert_bytes,
        activation_bytes=costs.activation_bytes, overlap=costs.overlap,
        queue=ints(queue), head=0, tail=len(waiting), where=ints(where), left=ints(left),
        from_=begin, to=stop, work_room=work_room, move_room=move_room,
        work=cast(work.ctypes.data, _ints), moves=cast(moves.ctypes.data, _ints),
        scratch=ints(np.empty(8 * int(sizes.max(initial=0)) + 1, dtype=np.int64)),
    )  # fmt: skip
    lay(byref(args))
    assert not args.overflow
    still = (int(queue[at]) for at in range(args.head, args.tail) if where[queue[at]] == at)
    return Laid(
        work[: args.work_rows], moves[: args.move_rows], start, end,
        tuple(args.busy_ns), tuple(args.bytes), {flat: int(left[flat]) for flat in still},
    )  # fmt: skip
