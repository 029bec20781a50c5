"""Costs: curves to the nanosecond, derived from bytes and flops by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.cost import TABLE_TOKENS, CostModel, Curve
from engine.errors import InputError
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from tests.engine.builders import COSTS, MODEL

COUNTS = [0, 1, 2, 3, 4, 100, TABLE_TOKENS - 1, TABLE_TOKENS, TABLE_TOKENS + 1, 10**6]


# ---------------------------------------------------------------------- curves


def test_a_curve_is_the_highest_of_its_lines() -> None:
    curve = Curve(((10, 0), (4, 2)))
    assert [curve(tokens) for tokens in (0, 1, 3, 4, 10)] == [10, 10, 10, 12, 24]
    assert Curve(((-50, 10),))(2) == 0  # never below nothing


@pytest.mark.parametrize(
    "curve",
    [
        COSTS.gpu,
        COSTS.cpu,
        Curve(((0.3, 0.7), (0.1, 0.9))),
        Curve(points=((1, 9.3), (4, 7.1), (8, 11.2))),
    ],
)
def test_looked_up_or_computed_it_is_the_same(curve: Curve) -> None:
    """In the table, beyond it, one by one and many at once."""
    at_once = curve.array(np.array(COUNTS, dtype=np.int64))
    assert at_once.dtype == np.int64
    assert [curve(tokens) for tokens in COUNTS] == at_once.tolist()
    assert len(curve.table) == TABLE_TOKENS + 1
    assert {type(value) for value in (curve(3), curve(10**6), curve.table[3])} == {int}


def test_points_say_what_was_measured() -> None:
    """Four tokens may be faster than one; beyond the last point it goes on as before it."""
    curve = Curve(points=((1, 100), (4, 70), (8, 110)))
    assert [curve(tokens) for tokens in (0, 1, 2, 4, 6, 8, 10)] == [100, 100, 90, 70, 90, 110, 130]
    assert curve(10**6) == 110 + 10 * (10**6 - 8)
    falling = Curve(points=((1, 100), (4, 70)))
    assert falling(5) == falling(10**6) == 70
    assert Curve(points=((3, 9),))(100) == 9


def test_times_are_rounded_to_whole_nanoseconds() -> None:
    curve = Curve(((0.0, 0.5),))
    assert [curve(tokens) for tokens in range(6)] == [0, 0, 1, 2, 2, 2]  # half to even


def test_a_curve_never_falls() -> None:
    made = CostModel.of(ModelSpec.preset("mixtral-8x7b"), resolve_hardware("rtx-4090"))
    for curve in (made.gpu, made.cpu, made.to_host, made.to_device, made.dense, made.head):
        assert (np.diff(curve.array(np.arange(5000))) >= 0).all()


# ---------------------------------------------------------------------- by hand


def machine(**figures: Any) -> HardwareSpec:
    """A machine with round numbers: bytes per ns are GB/s, flops per ns 1e-3 TFLOPS."""
    round_numbers: dict[str, Any] = {
        "gpu_gbps": 10.0, "gpu_tflops": 0.1, "gpu_launch_ns": 5, "gpu_layer_ns": 20,
        "h2d_gbps": 2.0, "d2h_gbps": 4.0, "link_latency_ns": 100, "cpu_gbps": 1.0,
        "h2d_pageable_gbps": 1.0, "h2d_contended_gbps": 1.25, "cpu_contended_gbps": 0.75,
        "cpu_tflops": 0.01, "cpu_call_ns": 50, "relative_error": 0.5, "calibrated": True,
    }  # fmt: skip
    return replace(resolve_hardware("rtx-4090"), **round_numbers | figures)


def test_of_a_model_on_a_machine_by_hand() -> None:
    """1,000 bytes and 192 flops an expert; dense: 3,000 bytes and 100 flops in three layers."""
    made = CostModel.of(MODEL, machine())
    assert made.gpu(1) == 5 + 1000 // 10  # reading the weights
    assert made.gpu(1000) == 5 + 192 * 1000 // 100  # computing
    assert made.cpu(1) == pytest.approx(50 + 1000 + 19.2, abs=1)  # both, one after the other
    assert made.copy_ns == 100 + 1000 // 2
    assert made.pageable_copy_ns == 100 + 1000
    assert made.copy_contended_ns == 100 + 1000 * 4 // 5
    assert made.link_share == pytest.approx(1.25 / (1.25 + 0.75))
    assert made.overlap
    assert made.to_host(3) == 100 + 3 * 8 // 4
    assert made.to_device(3) == 100 + 3 * 8 // 2
    assert made.dense(1) == 20 + 1000 // 10  # (5000 - 1000 - 1000) / 3 layers
    assert made.dense(10_000) == 20 + round(10_000 * 100 / 3 / 100)
    assert made.head(1) == 5 + 1000 // 10
    assert made.kv_ns == pytest.approx(10 / 10 / 3)
    assert (made.expert_bytes, made.activation_bytes) == (1000, 8)
    assert (made.relative_error, made.calibrated) == (0.5, True)
    assert made.stream_ns(1) == made.copy_ns + made.gpu(1)
    assert made.cpu_ns(3) == made.to_host(3) + made.cpu(3) + made.to_device(3)


def test_without_an_accelerator_activations_stay_where_they_are() -> None:
    made = CostModel.of(MODEL, machine(accelerator=False, gpu_memory_bytes=0))
    assert not made.overlap
    assert made.to_host(100) == made.to_device(100) == 0
    assert made.cpu_ns(3) == made.cpu(3)


def test_the_dense_part_reads_the_cache() -> None:
    assert [COSTS.dense_ns(4, context) for context in (0, 1, 2, 3, 5, 10)] == [7, 7, 8, 9, 9, 12]
    tokens, context = np.array([4, 9]), np.array([3, 1001])
    assert COSTS.dense_array(tokens, context).tolist() == [COSTS.dense_ns(4, 3), 9 + 500]
    assert COSTS.dense_ns(9, 1001) == 9 + 500  # both round halves to even


def test_break_even_is_the_first_count_at_which_copying_wins() -> None:
    assert COSTS.break_even_tokens == 3
    never = replace(COSTS, copy_ns=10**9)
    assert never.break_even_tokens is None
    always = replace(COSTS, copy_ns=0)
    assert always.break_even_tokens == 1
    late = replace(COSTS, copy_ns=20 + 15 * TABLE_TOKENS)
    found = late.break_even_tokens
    assert found is not None
    assert late.cpu_ns(found) > late.stream_ns(found)
    assert late.cpu_ns(found - 1) <= late.stream_ns(found - 1)


@pytest.mark.parametrize("hardware", ["quadro-rtx-6000", "rtx-4090", "h200"])
@pytest.mark.parametrize("model", ["mixtral-8x7b", "deepseek-v3"])
def test_presets_are_plausible(model: str, hardware: str) -> None:
    """For one token: device beats CPU beats copying; copying wins for long prompts."""
    made = CostModel.of(ModelSpec.preset(model), resolve_hardware(hardware))
    assert made.gpu(1) < made.cpu_ns(1) < made.stream_ns(1)
    assert made.break_even_tokens is not None and 1 < made.break_even_tokens < 1000
    tokens = np.array([1, made.break_even_tokens - 1, made.break_even_tokens, 4096])
    assert made.streams_array(tokens).tolist() == [False, False, True, True]


# ---------------------------------------------------------------------- plain values


def test_round_trip() -> None:
    for made in (COSTS, CostModel.of(MODEL, machine())):
        again = CostModel.from_dict(json.loads(json.dumps(made.to_dict())))
        assert again == made
        assert hash(again) == hash(made)
        assert again.cpu_ns(17) == made.cpu_ns(17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"copy_ns": -1}, "copy_ns: expected a whole number of at least 0"),
        ({"copy_ns": 1.5}, "copy_ns: expected a whole number"),
        ({"copy_ns": 10**30}, "copy_ns"),
        ({"expert_bytes": 2**60}, "expert_bytes: .* absurdly large"),
        ({"activation_bytes": None}, "activation_bytes"),
        ({"kv_ns": "fast"}, "kv_ns: expected a number"),
        ({"kv_ns": float("nan")}, "kv_ns"),
        ({"kv_ns": 10**20}, "kv_ns: .* absurdly large"),
        ({"relative_error": -0.1}, "relative_error"),
        ({"calibrated": 1}, "calibrated: expected a bool"),
        ({"overlap": None}, "overlap: expected a bool"),
        ({"pageable_copy_ns": -1}, "pageable_copy_ns: expected a whole number"),
        ({"copy_contended_ns": 0.5}, "copy_contended_ns: expected a whole number"),
        ({"h2d_contended_gbps": 0}, "h2d_contended_gbps: expected a number above 0"),
        ({"cpu_contended_gbps": "x"}, "cpu_contended_gbps: expected a number above 0"),
        ({"speed": 3}, "unknown speed"),
    ],
)
def test_unsound_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CostModel.from_dict(COSTS.to_dict() | change)


@pytest.mark.parametrize("name", sorted(COSTS.to_dict()), ids="no {}".format)
def test_a_missing_value_is_named(name: str) -> None:
    values = COSTS.to_dict()
    del values[name]
    with pytest.raises(InputError, match=f"missing {name}"):
        CostModel.from_dict(values)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (None, "gpu: expected pairs"),
        ({}, "gpu: missing lines, points"),
        ({"lines": []}, "gpu: missing points"),
        ({"lines": [], "points": []}, "gpu: expected lines or points"),
        ({"lines": [[1]], "points": []}, "gpu: expected pairs"),
        ({"lines": [[1, 2, 3]], "points": []}, "gpu: expected pairs"),
        ({"lines": [["a", 2]], "points": []}, "gpu: expected pairs"),
        ({"lines": [[float("inf"), 2]], "points": []}, "gpu: expected lines"),
        ({"lines": [[float("nan"), 2]], "points": []}, "gpu: expected lines"),
        ({"lines": [[10**400, 2]], "points": []}, "gpu: expected pairs"),
        ({"lines": [], "points": [[1, 5], [1, 6]]}, "gpu: points must have ascending tokens"),
        ({"lines": [], "points": [[2, 5], [1, 6]]}, "gpu: points must have ascending tokens"),
        ({"lines": [], "points": [[-1, 5], [1, 6]]}, "gpu: points must have ascending tokens"),
        ({"lines": [], "points": [[1, -5]]}, "gpu: points must have .* at least 0"),
    ],
)
def test_unsound_curves_are_refused(curve: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CostModel.from_dict(COSTS.to_dict() | {"gpu": curve})


def test_link_share_is_what_is_copied_while_the_rest_runs_on_the_cpu() -> None:
    assert COSTS.link_share == 0.25
    even = replace(COSTS, h2d_contended_gbps=37.5)
    assert even.link_share == 0.5
