"""Verbs of the package: load a model, replay and compare what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.interchange.perfetto import to_perfetto as write_perfetto
from engine.policies import POLICIES, resolve_policy
from engine.replay import Replay
from engine.replay import replay as replay_trace
from engine.spec import HardwareSpec
from fiddler_viz import demo
from fiddler_viz.figures import as_trace

if TYPE_CHECKING:
    import pandas as pd

    from engine.hybrid import HybridEngine

Hardware = str | Path | HardwareSpec
"""A profile's name, the path of a profile's file, or the profile itself."""


def load(path: str | Path = demo.NAME, **options: Any) -> HybridEngine:
    """Open a Mixture-of-Experts checkpoint as a hybrid engine.

    ``path`` is ``"demo"`` (the bundled model), a folder or a hub id. Options are those of
    :meth:`engine.hybrid.HybridEngine.load`: ``gpu_memory="24GB"``, ``hardware="rtx-4090"``,
    ``policy="fiddler"``, ``cache_slots``, ``as_model``, ``planner``, ``dtype``, ``device``,
    ``max_tokens``, ``max_sequences``, ``profile``.

    ``as_model="mixtral-8x7b"`` costs the demo's routing with Mixtral's bytes and flops, so that
    budgets are Mixtral's gigabytes.
    """
    from engine.hybrid import HybridEngine  # torch and transformers only now

    if str(path) != demo.NAME:
        return HybridEngine.load(path, **options)
    options = {"dtype": "float32", "name": demo.NAME} | options  # faster than bf16 at this size
    return HybridEngine.load(demo.model_folder(), **options)


def calibrate(model: Any = None, path: str | Path | None = None, **options: Any) -> HardwareSpec:
    """Measure this machine and return its profile, to be given as ``hardware=``.

    ``model``: an engine, ``"demo"``, a checkpoint's folder or hub id, or None for a generated one.
    ``path``: JSON file to write. Options are those of :func:`engine.calibrate.calibrate`:
    ``seconds``, ``thorough``, ``name``, ``beside``, ``threads``, ``progress``.
    """
    from engine.calibrate import calibrate as measure  # torch only now

    if isinstance(model, str) and model == demo.NAME:
        model = load(demo.NAME, device="host")
    return measure(model, path, **options)


def replay(source: Any, **changes: Any) -> Replay:
    """What a finished run would have been under another plan, without the model.

    ``source``: a Trace, a run, an engine's last run, or the path of a trace file. Changes are
    those of :func:`engine.replay.replay`: ``gpu_memory``, ``cache_slots``, ``policy``,
    ``planner``, ``hardware``; without any, the run is repeated under its own plans.
    """
    return replay_trace(as_trace(source), **changes)


def compare(
    source: Any,
    *,
    policies: Sequence[str] | str | None = None,
    gpu_memory: Sequence[int | str] | int | str | None = None,
    hardware: Sequence[Hardware] | Hardware | None = None,
    cache_slots: int | None = None,
) -> pd.DataFrame:
    """Replay one run on several machines, budgets and policies; one row for each combination.

    Every row is on the modelled clock. Policies default to all there are, budgets and hardware to
    the run's; ``cache_slots`` holds for the policies that cache. Raises InputError for a list
    without entries, and what :func:`replay` raises.
    """
    import pandas as pd

    trace = as_trace(source)
    machines = _several("hardware", hardware, trace.plan.hardware)
    budgets = _several("gpu_memory", gpu_memory, trace.plan.gpu_memory)
    names = _several("policies", policies, *POLICIES)
    rows: list[dict[str, Any]] = []
    for machine, budget, policy in product(machines, budgets, names):
        what_if = replay_trace(
            trace,
            hardware=None if hardware is None else machine,  # the run's may be no preset
            gpu_memory=budget,
            policy=policy,
            cache_slots=cache_slots if resolve_policy(policy).admits else None,
        )
        summary, plan = what_if.summary, what_if.trace.plan
        rows.append(
            {
                "hardware": plan.hardware,
                "gpu_memory_gb": plan.gpu_memory / 1e9,
                "policy": policy,
                "pinned": len(plan.pinned),
                "cache_slots": plan.cache_slots,
                "tokens_per_s": summary.tokens_per_s,
                "hit_rate": summary.hit_rate,
                "mb_per_token": summary.bytes_per_token / 1e6,
                "gpu_busy": summary.busy["gpu"],
                "cpu_busy": summary.busy["cpu"],
                "link_busy": summary.busy["h2d"],
            }
        )
    return pd.DataFrame(rows)


def _several(name: str, value: Any, *default: Any) -> list[Any]:
    """What is to be compared: one thing, several, or the default where nothing was asked for."""
    if value is None:
        return list(default)
    if not isinstance(value, Iterable) or isinstance(value, str):
        return [value]
    if several := list(value):
        return several
    raise InputError(
        f"{name}: expected one or more to compare, got none; leave it out for the default"
    )


def to_perfetto(source: Any, path: str | Path) -> Path:
    """Write a run as JSON that ui.perfetto.dev opens; returns the path.

    ``source``: a Trace, a run, an engine's last run, or the path of a trace file.
    """
    return write_perfetto(as_trace(source), path)
