"""Verbs of the package: load a model, replay and compare what it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.interchange.perfetto import to_perfetto as write_perfetto
from engine.policies import POLICIES, resolve_policy
from engine.replay import Replay
from engine.replay import replay as replay_trace
from fiddler_viz import demo
from fiddler_viz.figures import as_trace

if TYPE_CHECKING:
    import pandas as pd

    from engine.hybrid import HybridEngine


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
    cache_slots: int | None = None,
) -> pd.DataFrame:
    """Replay one run under several policies and budgets; one row for each pair.

    Every row is on the modelled clock. Policies default to all there are, budgets to the run's;
    ``cache_slots`` holds for the policies that cache.
    """
    import pandas as pd

    trace = as_trace(source)
    if isinstance(policies, str):
        policies = [policies]
    if isinstance(gpu_memory, int | str):
        gpu_memory = [gpu_memory]
    rows: list[dict[str, Any]] = []
    for budget in gpu_memory or [trace.plan.gpu_memory]:
        for policy in policies or list(POLICIES):
            slots = cache_slots if resolve_policy(policy).admits else None
            what_if = replay_trace(trace, gpu_memory=budget, policy=policy, cache_slots=slots)
            summary, plan = what_if.summary, what_if.trace.plan
            rows.append(
                {
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


def to_perfetto(source: Any, path: str | Path) -> Path:
    """Write a run as JSON that ui.perfetto.dev opens; returns the path.

    ``source``: a Trace, a run, an engine's last run, or the path of a trace file.
    """
    return write_perfetto(as_trace(source), path)
