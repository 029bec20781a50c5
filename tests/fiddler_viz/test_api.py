"""The package's public names, and its verbs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fiddler_viz as fv
from engine.budgets import budget_curve
from engine.calibrate import calibrate
from engine.curves import hit_curves
from engine.heldout import heldout
from engine.policies import POLICIES
from engine.replay import replay
from engine.sweep import sweep
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz import demo


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", prompt_tokens=8, decode_tokens=12, gpu_memory="24GB")


def test_public_names() -> None:
    assert fv.__all__ == [
        "BudgetError",
        "CheckpointError",
        "Explorer",
        "FiddlerError",
        "HardwareSpec",
        "HybridEngine",
        "InputError",
        "ModelSpec",
        "Profile",
        "Replay",
        "Run",
        "SyntheticRouting",
        "Trace",
        "TraceError",
        "UnsupportedModelError",
        "bound",
        "budget_speeds",
        "budgets",
        "calibrate",
        "compare",
        "crossover",
        "curves",
        "heatmap",
        "heldout",
        "hit_rates",
        "inspect",
        "likeness",
        "load",
        "memory",
        "memory_over_time",
        "plans",
        "policy_lab",
        "regrets",
        "replay",
        "routing_flow",
        "scenarios",
        "specialisation",
        "sweep",
        "synthetic",
        "timeline",
        "to_html",
        "to_perfetto",
        "tokens",
    ]
    for name in fv.__all__:
        found = getattr(fv, name)
        assert callable(found)
        assert found.__doc__, name
    assert {name for name in dir(fv) if not name.startswith("__")} == set(fv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'heat'"):
        _ = fv.heat  # type: ignore[attr-defined]


def test_replay_takes_what_leads_to_a_trace(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "run.safetensors")
    for source in (trace, path, str(path), fv.replay(trace)):
        what_if = fv.replay(source, gpu_memory="48GB")
        assert len(what_if.trace.plan.pinned) > len(trace.plan.pinned)
    for nothing in (42, None):
        with pytest.raises(fv.InputError, match=r"^expected a Trace.*; got (int|NoneType)\.$"):
            fv.replay(nothing)


def test_compare(trace: Trace) -> None:
    table = fv.compare(trace, gpu_memory=["8GB", "24GB"], policies=["fiddler", "stream"])
    assert table[["gpu_memory_gb", "policy"]].to_numpy().tolist() == [
        [8.0, "fiddler"],
        [8.0, "stream"],
        [24.0, "fiddler"],
        [24.0, "stream"],
    ]
    expected = fv.replay(trace, gpu_memory="8GB", policy="stream").summary.tokens_per_s
    assert table["tokens_per_s"][1] == expected
    assert list(fv.compare(trace)["policy"]) == [name for name in POLICIES if name != "prefetch"]
    with pytest.raises(fv.InputError, match="unknown policy"):
        fv.compare(trace, policies=["best"])


def test_curves_budgets_and_bound(trace: Trace) -> None:
    curves = fv.curves(trace, policies=("lru", "opt"))
    assert list(curves.curves) == ["lru", "opt"] and len(curves.to_pandas()) > 0
    points = fv.budgets(trace, policies=("cpu",), budgets=("0%", "100%")).to_pandas()
    assert (points.tokens_per_s <= points.bound_tokens_per_s).all()
    assert 0 < fv.bound(trace).achieved <= 1


def test_compare_machines(trace: Trace) -> None:
    spec = replace(fv.HardwareSpec.preset("h200"), name="mine")
    table = fv.compare(trace, policies="fiddler", hardware=["quadro-rtx-6000", spec])
    assert table["hardware"].tolist() == ["quadro-rtx-6000", "mine"]
    for row, hardware in zip(table["tokens_per_s"], ("quadro-rtx-6000", "h200"), strict=True):
        assert row == fv.replay(trace, hardware=hardware).summary.tokens_per_s
    custom = fv.replay(trace, hardware=spec)  # of no preset: its costs stay the run's
    assert fv.compare(custom, policies="fiddler")["tokens_per_s"][0] == table["tokens_per_s"][1]
    with pytest.raises(fv.InputError, match="unknown hardware"):
        fv.compare(trace, hardware="abacus")


def test_compare_is_a_sweep_of_one_run(trace: Trace) -> None:
    options: dict[str, Any] = {"policies": ["lru", "cpu"], "cache_slots": [3, 5]}
    table = fv.sweep([trace, demo.trace_path()], **options)
    assert table.drop(columns="trace")[:3].equals(fv.compare(trace, **options))
    assert table["trace"].tolist() == ["0"] * 3 + [str(demo.trace_path())] * 3
    assert fv.sweep(fv.replay(trace), **options).equals(table[:3])
    named = fv.sweep({"mine": fv.replay(trace)}, **options)
    assert named["trace"].unique().tolist() == ["mine"]
    assert list(table.columns) == ["trace", *fv.compare(trace, policies="cpu").columns]
    with pytest.raises(fv.InputError, match="expected a Trace"):
        fv.sweep([42])


def test_synthetic_after_a_run() -> None:
    options: dict[str, Any] = {"decode_tokens": 40, "gpu_memory": "30%"}
    fitted = fv.SyntheticRouting.fit(demo.trace())
    made = fv.synthetic("qwen3-30b-a3b", like=demo.trace_path(), **options)
    assert made.model.grid == (48, 128)
    assert made.meta["synthetic"] == fitted.to_dict() | {"seed": 0}
    again = fv.synthetic("qwen3-30b-a3b", like=fitted, **options)
    np.testing.assert_array_equal(again.work_rows, made.work_rows)
    assert "LRU of 50% of the experts" in repr(fv.likeness(demo.trace_path(), made))
    with pytest.raises(fv.InputError, match="got routing and skew"):
        fv.synthetic(like=fitted, skew=0.1)


def test_synthetic_like_a_run_or_by_routing(trace: Trace) -> None:
    with pytest.raises(fv.InputError, match="like= and routing= both say"):
        fv.synthetic(like=trace, routing=fv.SyntheticRouting())


def test_heldout() -> None:
    report = fv.heldout(demo.trace_path(), gpu_memory=["24GB", "48GB"])
    assert "the bundled calibration text" in repr(report)
    same = fv.heldout(demo.trace(), demo.trace().plan.profile, gpu_memory=["24GB", "48GB"])
    assert same.to_pandas().equals(report.to_pandas())
    other = fv.synthetic(decode_tokens=50)
    assert fv.heldout(demo.trace(), other).profile == fv.Profile.from_trace(other)


@pytest.mark.parametrize("name", ["policies", "gpu_memory", "hardware"])
def test_compare_of_nothing(trace: Trace, name: str) -> None:
    with pytest.raises(fv.InputError, match=f"{name}: expected one or more to compare, got none"):
        fv.compare(trace, **{name: []})


def test_the_bundled_run() -> None:
    trace = demo.trace()
    assert trace.model.name == demo.COSTED_AS
    assert trace.model.grid == (32, 8)
    assert trace.plan.gpu_memory == 24_000_000_000
    again = fv.replay(trace).trace
    np.testing.assert_array_equal(again.work_rows, trace.work_rows)
    np.testing.assert_array_equal(again.move_rows, trace.move_rows)


def test_the_paper_check() -> None:
    """Environment 1 of the paper: 24e9 bytes, KV cache for 4,096 tokens, workspace stated."""
    at: dict[str, Any] = {"hardware": "quadro-rtx-6000", "gpu_memory": "24GB"}
    fiddler = fv.replay(demo.trace_path(), policy="fiddler", **at)
    plan = fiddler.trace.plan
    assert plan.kv_bytes == 4096 * 131_072
    assert plan.workspace_bytes > 2 * plan.expert_bytes
    assert abs(len(plan.pinned) - 56) <= 2
    stream = fv.replay(demo.trace_path(), policy="stream", **at)
    assert fiddler.summary.tokens_per_s >= 3 * stream.summary.tokens_per_s


@pytest.mark.parametrize(
    ("verb", "of"),
    [
        (fv.replay, replay),
        (fv.curves, hit_curves),
        (fv.budgets, budget_curve),
        (fv.sweep, sweep),
        (fv.synthetic, synthetic_trace),
        (fv.heldout, heldout),
        (fv.load, fv.HybridEngine.load),
        (fv.calibrate, calibrate),
    ],
)
def test_help_names_every_option(verb: Callable[..., Any], of: Callable[..., Any]) -> None:
    known = {"trace", "traces", "model", "path", "routing", "profile"}  # said in other words
    for name in inspect.signature(of).parameters.keys() - known:
        assert re.search(rf"``{name}\b", verb.__doc__ or ""), name


def test_the_demo_s_popularity_is_what_would_be_measured() -> None:
    measured, bundled = fv.load("demo", dtype="float32").profile, fv.load("demo").profile
    assert bundled == demo.profile() and bundled.sample is not None
    assert (measured.tokens, measured.source) == (bundled.tokens, bundled.source)
    apart = abs(measured.array - bundled.array).sum() / bundled.array.sum()
    assert apart <= 1e-3, "on another CPU a near tie may fall the other way"
