"""Costs of the first trace files, completed; their tables are read in test_trace_file.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.cost import CURVES, CostModel
from engine.spec import ModelSpec, resolve_hardware
from engine.trace_upgrade import costs_from_1


def first_version(costs: CostModel) -> dict[str, Any]:
    """A cost model as traces of schema 1 held it."""
    values = json.loads(json.dumps(costs.to_dict()))
    for name in (
        "pageable_copy_ns", "copy_contended_ns", "h2d_contended_gbps", "cpu_contended_gbps",
        "overlap",
    ):  # fmt: skip
        del values[name]
    for name in CURVES:
        del values[name]["points"]
    return values


def test_the_first_version_is_completed_with_what_presets_assume() -> None:
    costs = CostModel.of(ModelSpec.preset("mixtral-8x7b"), resolve_hardware("rtx-4090"))
    made = CostModel.from_dict(costs_from_1(first_version(costs)))
    assert made.copy_ns == costs.copy_ns and made.cpu == costs.cpu and made.dense == costs.dense
    for name in (
        "pageable_copy_ns", "copy_contended_ns", "h2d_contended_gbps", "cpu_contended_gbps",
        "link_share",
    ):  # fmt: skip
        assert getattr(made, name) == pytest.approx(getattr(costs, name), rel=0.05)
    assert made.overlap


@pytest.mark.parametrize("values", [None, 7, [], {}, {"expert_bytes": 0}, {"grid": [1, 2]}])
def test_what_is_no_cost_model_stays_as_it_is(values: Any) -> None:
    assert costs_from_1(values) is values
