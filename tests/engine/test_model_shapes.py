"""ModelShapes: figures by hand, and counts that cannot be."""

from __future__ import annotations

import pytest

from engine.errors import InputError
from engine.model_shapes import ModelShapes
from engine.spec import ModelSpec


def test_a_tied_head_is_not_counted_twice() -> None:
    shapes = ModelShapes(
        name="tied", layers=1, all_layers=1, experts=2, top_k=1, hidden=4, expert_width=8,
        expert_matrices=3, expert_bias=False, kv_elements=8, vocabulary=10, tied=True,
        total_parameters=192 + 40 + 7, routed_parameters=192, bytes_per_weight=4.0,
        dense_bytes_per_weight=4, source="made up",
    )  # fmt: skip
    spec = ModelSpec(**shapes.figures())
    assert (spec.head_bytes, spec.embedding_bytes, spec.dense_bytes) == (160, 0, 188)
    assert spec.dense_flops_per_token == 2 * 7


def test_shapes_that_contradict_their_counts_are_refused() -> None:
    with pytest.raises(InputError, match="the shapes make"):
        ModelShapes(
            name="odd", layers=1, all_layers=1, experts=2, top_k=1, hidden=4, expert_width=8,
            expert_matrices=3, expert_bias=False, kv_elements=8, vocabulary=10, tied=True,
            total_parameters=500, routed_parameters=191, bytes_per_weight=4.0,
            dense_bytes_per_weight=4, source="made up",
        )  # fmt: skip
