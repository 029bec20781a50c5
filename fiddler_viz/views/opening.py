"""From what a user gives an explorer to a session: an engine, a run, a trace, a file, nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.trace import Trace
from fiddler_viz.figures import as_trace
from fiddler_viz.views.session import Session

_DEMO = Path(__file__).parent.parent / "demo"  # its files; its code stands below the explorer


def open_session(source: Any) -> Session:
    """A session for a source; raises InputError or TraceError where it leads to nothing.

    None opens the bundled trace. An engine that has not run yet shows the bundled trace as an
    example, where that is of the same model.
    """
    if source is None:
        return Session(trace=bundled_trace(), example=True)
    if hasattr(source, "generate") and hasattr(source, "feed"):
        example = None if source.last_run is not None else _example()
        return Session(engine=source, trace=example, example=True)
    return Session(trace=as_trace(source))


def bundled_trace() -> Trace:
    """The run that comes with the library."""
    found = sorted(_DEMO.glob("traces/*.safetensors"))
    if not found:
        raise InputError("this installation has no bundled run: give an engine, a trace or a file")
    return Trace.load(found[0])


def _example() -> Trace | None:
    return bundled_trace() if any(_DEMO.glob("traces/*.safetensors")) else None


def load_demo(trace: Trace) -> Any:
    """The demo engine, costed and planned as a trace of it. Imports torch; takes seconds."""
    from engine.hybrid import HybridEngine

    plan = trace.plan
    return HybridEngine.load(
        _DEMO / "model",
        gpu_memory=plan.gpu_memory,
        cache_slots=plan.cache_slots,
        policy=plan.policy,
        planner=plan.planner,
        hardware=plan.hardware,
        as_model=trace.meta.get("as_model"),
        dtype="float32",
        name=str(trace.meta.get("loaded", "demo")),
        profile=plan.profile,
    )
