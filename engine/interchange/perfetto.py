"""A trace for ui.perfetto.dev: the Chrome trace event format (JSON), one track per lane.

Format: "Trace Event Format" of the Chromium project. Complete events (``ph: X``) for work,
counters (``ph: C``) for the memory ledger, instant events (``ph: i``) for plans.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.destination import writing
from engine.events import Action, Lane, StepKind, Work
from engine.history import memory_over_time
from engine.trace import Trace

_TITLES = {
    Lane.GPU: "GPU",
    Lane.CPU: "CPU",
    Lane.H2D: "host to device",
    Lane.D2H: "device to host",
}
_PROCESS = 1
_STEPS = len(Lane)


def to_perfetto(trace: Trace, path: str | Path) -> Path:
    """Write a trace as JSON that ui.perfetto.dev (or chrome://tracing) opens; returns the path.

    Times are microseconds there. The process's name says which clock they come from. Makes the
    file's folder. Raises InputError where it cannot be written.
    """
    title = f"{trace.model.name}, {trace.clock.name.lower()} clock"
    events: list[dict[str, Any]] = [_named("process_name", 0, title)]
    events += [_named("thread_name", lane, _TITLES[lane]) for lane in Lane]
    events.append(_named("thread_name", _STEPS, "steps"))
    for row in zip(*(trace.steps[name].tolist() for name in _STEP_FIELDS), strict=True):
        step, kind, tokens, plan, start, end = row
        events.append(
            _span(f"{StepKind(kind).name.lower()} {step}", _STEPS, start, end)
            | {"args": {"tokens": tokens, "plan": plan}}
        )
    for row in zip(*(trace.work[name].tolist() for name in _WORK_FIELDS), strict=True):
        step, layer, expert, kind, action, tokens, lane, start, end = row
        args: dict[str, Any] = {"step": step, "layer": layer, "tokens": tokens}
        name = Work(kind).name.lower() if layer >= 0 else "head"
        if expert >= 0:
            args["expert"] = expert
            name = f"{name} L{layer} E{expert}"
        if action >= 0:
            args["action"] = Action(action).name.lower()
        events.append(_span(name, lane, start, end) | {"cat": Work(kind).name, "args": args})
    last = trace.duration_ns
    for first, plan in trace.plan_list:
        at = int(trace.steps["start_ns"][first]) if first < len(trace.step_rows) else last
        what = {"name": repr(plan), "ph": "i", "s": "p", "tid": _STEPS}  # s: across the process
        events.append(what | {"ts": at / 1e3, "pid": _PROCESS})
    ends = trace.steps["end_ns"].tolist()
    memory = memory_over_time(trace)
    where = "host memory" if trace.on_host else "device memory"
    parts = ("dense", "kv", "workspace", "pinned", "cached", "free")
    for at, *values in zip(ends, *(memory[part].tolist() for part in parts), strict=True):
        counter = dict(zip(parts, values, strict=True))
        events.append({"name": where, "ph": "C", "ts": at / 1e3, "pid": _PROCESS, "args": counter})
    content = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"title": title}}
    with writing(path) as path:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


_STEP_FIELDS = ("step", "kind", "tokens", "plan", "start_ns", "end_ns")
_WORK_FIELDS = (
    "step",
    "layer",
    "expert",
    "kind",
    "action",
    "tokens",
    "lane",
    "start_ns",
    "end_ns",
)


def _named(what: str, thread: int, title: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": title}}


def _span(name: str, thread: int, start_ns: int, end_ns: int) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "pid": _PROCESS,
        "tid": thread,
        "ts": start_ns / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
    }
