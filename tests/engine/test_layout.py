"""The compiled scheduler writes the rows of the readable one, for any decisions and any window."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.cost import CostModel, Curve
from engine.course import HEAD, Course, Outline
from engine.decision import Batch, Decisions, Ragged
from engine.events import MOVES, WORK, Action, Clock, Lane, Why, Work, columns
from engine.layout import Laid, lay_out
from engine.native import SWITCH
from tests.engine.builders import COSTS, MODEL, random_batch
from tests.engine.caches import need_library

FAST_LINK = replace(COSTS, copy_ns=3, gpu=Curve(((60, 5),)))
"""Copies so short that the staging buffers bind."""
IN_TURN = replace(COSTS, overlap=False)
ALL = {"slow link": COSTS, "fast link": FAST_LINK, "in turn": IN_TURN}


def random_decisions(rng: random.Random, batch: Batch) -> Decisions:
    """Any actions, keeps, evictions and fetches: the layout does not ask whether they make sense.

    But what is fetched is not fetched again before it was used or evicted, as in a ledger.
    """
    many, segments = len(batch.expert), len(batch.step)
    action = np.array([rng.choice(list(Action)) for _ in range(many)], dtype=np.int64)
    keep = (action == Action.STREAM) & (np.array([rng.random() for _ in range(many)]) < 0.5)
    lists: dict[str, list[list[int]]] = {"evict": [], "fetch": [], "unused": []}
    there: set[int] = set()
    for segment in range(segments):
        a, b = batch.first[segment : segment + 2]
        base = int(batch.layer[segment]) * batch.columns
        used = action[a:b] == Action.RESIDENT  # the rest is copied at once
        there -= set((base + batch.expert[a:b][used]).tolist())
        gone = [rng.randrange(MODEL.experts_total) for _ in range(rng.choice((0, 0, 1)))]
        there -= set(gone)
        free = sorted(set(range(MODEL.experts_total)) - there)
        ahead = rng.sample(free, min(len(free), rng.choice((0, 0, 1, 3))))
        there |= set(ahead)
        lists["evict"].append(gone)
        lists["fetch"].append(ahead)
        idle = sorted(set(range(batch.columns)) - set(batch.expert[a:b].tolist()))
        lists["unused"].append([base + e for e in idle] if rng.random() < 0.1 else [])
    ragged = {
        name: Ragged(
            np.cumsum([0, *map(len, values)]),
            np.array([one for each in values for one in each], dtype=np.int64),
        )
        for name, values in lists.items()
    }
    return Decisions(action, keep, **ragged)


def random_course(seed: int, costs: CostModel) -> Course:
    """Decode and prefill, all actions, steps cut short and steps without layers."""
    rng = random.Random(seed)
    batch = random_batch(rng, rng.randrange(1, 40))
    batch = replace(batch, step=batch.step + rng.choice((0, 17)))
    whole = [step for step in np.unique(batch.step).tolist() if rng.random() < 0.9]
    heads = np.array([(step, rng.randrange(1, 3)) for step in whole], dtype=np.int64)
    context = np.array([rng.randrange(100) for _ in batch.step], dtype=np.int64)
    outline = Outline.of(batch, context, heads.reshape(-1, 2))
    return outline.course(costs, random_decisions(rng, batch))


@pytest.fixture(params=["compiled", "python"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setenv(SWITCH, "0")
    else:
        need_library()


def reference(course: Course, *args: object, **options: object) -> Laid:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return lay_out(course, *args, **options)  # type: ignore[arg-type]


def same(made: Laid, expected: Laid) -> None:
    for name in ("work", "moves", "start", "end"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name), err_msg=name)
    assert made.busy_ns == expected.busy_ns
    assert made.bytes == expected.bytes
    assert list(made.waiting.items()) == list(expected.waiting.items())


@pytest.mark.parametrize("costs", ALL.values(), ids=ALL)
@pytest.mark.parametrize("seed", range(40))
def test_compiled_is_the_readable_one(seed: int, costs: CostModel) -> None:
    need_library()
    course = random_course(seed, costs)
    same(lay_out(course, 12_345), reference(course, 12_345))


@pytest.mark.parametrize("seed", range(12))
def test_a_run_laid_in_parts_is_the_run(seed: int, both: None) -> None:
    """What waits for the link is handed from part to part; starts are given or follow."""
    rng, course = random.Random(seed), random_course(seed, COSTS)
    whole = lay_out(course, 7)
    cuts = sorted(rng.randrange(len(course) + 1) for _ in range(3))
    waiting, work, moves = dict[int, int](), [], []
    for start, stop in pairwise([0, *cuts, len(course)]):
        laid = lay_out(course.part(start, stop), whole.start[start:stop], waiting)
        waiting = dict(laid.waiting)
        work.append(laid.work)
        moves.append(laid.moves)
    np.testing.assert_array_equal(np.concatenate(work), whole.work)
    np.testing.assert_array_equal(np.concatenate(moves), whole.moves)
    assert waiting == whole.waiting


@pytest.mark.parametrize("seed", range(12))
def test_a_window_has_the_rows_of_the_whole(seed: int, both: None) -> None:
    course = random_course(seed, COSTS)
    whole = lay_out(course)
    rng = random.Random(seed)
    start, stop = sorted(rng.randrange(len(course) + 1) for _ in range(2))
    window = lay_out(course, rows=slice(start, stop))
    before, through = (
        [len(rows) for rows in (part.work, part.moves)]
        for part in (lay_out(course, rows=slice(0, at)) for at in (start, stop))
    )
    np.testing.assert_array_equal(window.work, whole.work[before[0] : through[0]])
    np.testing.assert_array_equal(window.moves, whole.moves[before[1] : through[1]])
    np.testing.assert_array_equal(window.end, whole.end)
    assert (window.busy_ns, window.bytes) == (whole.busy_ns, whole.bytes)


@pytest.mark.parametrize("costs", ALL.values(), ids=ALL)
@pytest.mark.parametrize("seed", range(12))
def test_what_holds_of_any_run(seed: int, costs: CostModel, both: None) -> None:
    """No lane does two things at once; copies ahead never lengthen a layer; bytes add up."""
    course = random_course(seed, costs)
    laid = lay_out(course)
    work, moves = columns(laid.work, WORK), columns(laid.moves, MOVES)
    assert (work["clock"] == Clock.MODELLED).all() and (moves["clock"] == Clock.MODELLED).all()
    for lane in Lane:
        mine = work["lane"] == lane
        order = np.lexsort((work["end_ns"][mine], work["start_ns"][mine]))
        start, end = work["start_ns"][mine][order], work["end_ns"][mine][order]
        assert (start[1:] >= end[:-1]).all()
        assert laid.busy_ns[lane] == int((end - start).sum())
        assert laid.bytes[lane] == int(moves["bytes"][moves["lane"] == lane].sum())
    dense = work["kind"] == Work.DENSE
    assert dense.sum() == len(course)
    assert (work["layer"][dense] == course.batch.layer).all() and (course.batch.layer >= HEAD).all()
    fetched = int((moves["why"] == Why.FETCH).sum())
    ahead = int(moves["bytes"][moves["why"] == Why.AHEAD].sum())
    assert ahead <= fetched * costs.expert_bytes
    if not len(course.decisions.evict.values):
        left = sum(costs.expert_bytes * ns // costs.copy_ns for ns in laid.waiting.values())
        assert abs(fetched * costs.expert_bytes - ahead - left) <= len(laid.waiting)


def test_nothing_at_all(both: None) -> None:
    none = np.zeros(0, dtype=np.int64)
    batch = Batch(4, none, none, none, none, none, none)
    heads = np.zeros((0, 2), dtype=np.int64)
    laid = lay_out(Outline.of(batch, none, heads).course(COSTS, Decisions.plain(batch, none)), 100)
    assert len(laid.work) == len(laid.moves) == len(laid.end) == 0
