"""A trace in the terminal: what ran, under which plan, and a short table of where time went."""

from __future__ import annotations

import numpy as np

from engine.events import Action, Clock, Lane, Work
from engine.history import memory_at
from engine.trace import Trace
from engine.units import format_bytes, format_ns

_LANES = {
    Lane.GPU: "gpu",
    Lane.CPU: "cpu",
    Lane.H2D: "link to device",
    Lane.D2H: "link to host",
}


def describe(trace: Trace) -> str:
    """Plan, summary, memory and time by kind of work, as plain text."""
    plan, summary = trace.plan, trace.summary
    costed = trace.meta.get("as_model")
    loaded = trace.meta.get("loaded", trace.model.name)
    title = f"{loaded}, costed as {costed}" if costed else str(loaded)
    clock = "modelled, no such hardware ran" if trace.clock == Clock.MODELLED else "measured"
    layers, experts = trace.model.grid
    memory = memory_at(trace, len(trace.step_rows) - 1)
    beyond = f" ({plan.beyond_card})" if plan.beyond_card else ""
    planned = (
        f"{format_bytes(plan.gpu_memory)}{beyond}: {len(plan.pinned)} of {layers * experts} "
        f"experts pinned by {plan.planner}, {plan.cache_slots} cache slots, policy {plan.policy}; "
        f"host memory holds all {format_bytes(trace.model.routed_bytes)} of experts"
    )
    if trace.on_host:
        planned = f"none: {format_bytes(trace.model.routed_bytes)} of experts in host memory"
    lines = [
        f"{title}: {layers} layers x {experts} experts, top-{trace.model.top_k}",
        f"hardware    {trace.machine}, clock: {clock}",
        f"plan        {planned}",
        f"memory      dense {format_bytes(memory.dense)}, KV {format_bytes(memory.kv)}, workspace "
        f"{format_bytes(memory.workspace)}, pinned {format_bytes(memory.pinned)}, cached "
        f"{format_bytes(memory.cached)}, free {format_bytes(memory.free)}",
        str(summary),
        "",
        *time_table(trace),
    ]
    return "\n".join(lines)


def time_table(trace: Trace) -> list[str]:
    """Lines of a table: what occupied each lane, how often, how long, and the share of it all."""
    work = trace.work
    length = work["end_ns"] - work["start_ns"]
    rows = [f"{'lane':<16}{'work':<20}{'times':>8}{'in all':>12}{'each':>12}{'of the run':>12}"]
    for lane in Lane:
        for kind in Work:
            for action in (-1, *Action):
                mine = (work["lane"] == lane) & (work["kind"] == kind) & (work["action"] == action)
                if not mine.any():
                    continue
                total, times = int(length[mine].sum()), int(mine.sum())
                name = _name(kind, action)
                share = total / trace.duration_ns if trace.duration_ns else np.nan
                rows.append(
                    f"{_LANES[lane]:<16}{name:<20}{times:>8}{format_ns(total):>12}"
                    f"{format_ns(total // times):>12}{share:>12.1%}"
                )
    return rows


def _name(kind: Work, action: int) -> str:
    if kind == Work.EXPERT:
        return f"experts, {Action(action).name.lower()}"
    return {Work.DENSE: "dense", Work.WEIGHTS: "expert weights"}.get(kind, "activations")
