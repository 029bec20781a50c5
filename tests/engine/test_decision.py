"""Batches of decisions: how segments and entries point at each other."""

from __future__ import annotations

import random

import numpy as np

from engine.decision import Decision
from engine.events import Action
from tests.engine.builders import random_batch


def test_tokens_on_the_cpu() -> None:
    actions = [Action.CPU, Action.STREAM, Action.CPU, Action.RESIDENT]
    decision = Decision(4, [0, 1, 2, 3], [2, 5, 3, 7], [int(a) for a in actions], [False] * 4)
    assert decision.cpu_tokens == 5
    assert decision.evict == []


def test_entries_of_a_segment() -> None:
    batch = random_batch(random.Random(0), 20)
    assert len(batch.first) == len(batch.step) + 1
    assert (batch.first[0], batch.first[-1]) == (0, len(batch.segment))
    for number in range(len(batch.step)):
        at = slice(batch.first[number], batch.first[number + 1])
        assert set(batch.segment[at].tolist()) == {number}
        assert (np.diff(batch.expert[at]) > 0).all()
        expected = batch.layer[number] * batch.columns + batch.expert[at]
        np.testing.assert_array_equal(batch.flat[at], expected)
        assert batch.count[at].sum() == 2 * batch.tokens[number]  # top-2


def test_parts() -> None:
    batch = random_batch(random.Random(1), 12)
    assert batch.part(0, 12) is batch
    for start, stop in ((0, 5), (5, 12), (3, 3), (12, 12)):
        part = batch.part(start, stop)
        whole = slice(batch.first[start], batch.first[stop])
        np.testing.assert_array_equal(part.step, batch.step[start:stop])
        np.testing.assert_array_equal(part.segment + start, batch.segment[whole])
        np.testing.assert_array_equal(part.flat, batch.flat[whole])
        np.testing.assert_array_equal(part.count, batch.count[whole])
        np.testing.assert_array_equal(
            part.first, batch.first[start : stop + 1] - batch.first[start]
        )
