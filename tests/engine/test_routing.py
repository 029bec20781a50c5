"""Routing by hand: rows taken out, put together, and counted for a policy."""

from __future__ import annotations

import numpy as np

from engine.routing import Routing

GRID = (2, 4)


def rows(*, predicted: bool = False) -> Routing:
    """One step of two tokens through two layers, top-2."""
    experts = np.array([[3, 1], [1, 0], [2, 3], [0, 2]], dtype=np.int16)
    return Routing(
        step=np.zeros(4, dtype=np.int32),
        layer=np.array([0, 0, 1, 1], dtype=np.int32),
        token=np.array([0, 1, 0, 1], dtype=np.int32),
        experts=experts,
        weights=np.array([[0.75, 0.25], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]], dtype=np.float32),
        predicted=np.where(experts == 3, -1, experts) if predicted else None,
    )


def test_rows_are_taken_out_and_put_together() -> None:
    whole = rows(predicted=True)
    first = whole.layer == 0
    again = whole.where(first).and_then(whole.where(~first))
    for name, column in vars(whole).items():
        np.testing.assert_array_equal(getattr(again, name), column, err_msg=name)
    assert len(Routing.none(2).and_then(whole)) == len(whole) == 4


def test_what_nobody_predicted_is_told_from_what_was() -> None:
    assert rows().foreseen().tolist() == [[-1, -1]] * 4
    both = rows().and_then(rows(predicted=True))
    assert both.predicted is not None
    assert both.predicted.tolist()[3:5] == [[-1, -1], [-1, 1]]
    assert rows().and_then(rows()).predicted is None


def test_choices_as_flat_indices() -> None:
    assert rows().flat(4).tolist() == [3, 1, 1, 0, 6, 7, 4, 6]


def test_a_batch_by_hand() -> None:
    batch = rows(predicted=True).batch(GRID, np.array([2]))
    assert (batch.layer.tolist(), batch.tokens.tolist()) == ([0, 1], [2, 2])
    assert batch.segment.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.expert.tolist() == [0, 1, 3, 0, 2, 3]
    assert batch.count.tolist() == [1, 2, 1, 1, 2, 1]
    assert batch.weight is not None and batch.predicted is not None
    np.testing.assert_allclose(batch.weight, [0.5, 0.75, 0.75, 0.9, 0.7, 0.4], rtol=1e-6)
    assert [batch.predicted.of(segment) for segment in (0, 1)] == [[0, 1], [0, 2]]


def test_no_rows_make_an_empty_batch() -> None:
    batch = Routing.none(2).batch(GRID, np.array([], dtype=np.int64))
    assert (len(batch.step), len(batch.expert), batch.predicted) == (0, 0, None)
