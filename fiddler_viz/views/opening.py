"""From what a user gives an explorer to a session: an engine, a run, a trace, a file, nothing."""

from __future__ import annotations

from typing import Any

from engine.trace import Trace
from fiddler_viz import demo
from fiddler_viz.figures import as_trace
from fiddler_viz.views.session import Session


def open_session(source: Any) -> Session:
    """A session for a source; raises InputError or TraceError where it leads to nothing.

    None opens the bundled trace. An engine that has not run yet shows the bundled trace as an
    example, where that is of the same model.
    """
    if source is None:
        return Session(trace=demo.trace(), example=True)
    if hasattr(source, "generate") and hasattr(source, "recorder"):
        example = None if source.last_run is not None else demo.trace()
        return Session(engine=source, trace=example, example=True)
    return Session(trace=as_trace(source))


def load_demo(trace: Trace) -> Any:
    """The demo engine, costed and planned as a trace of it. Imports torch; takes seconds."""
    from engine.hybrid import HybridEngine

    plan = trace.plan
    loaded = str(trace.meta.get("loaded", demo.NAME))
    machine = plan.machine(trace.model)
    engine = HybridEngine.load(
        demo.model_folder(),
        gpu_memory=plan.gpu_memory,
        cache_slots=plan.cache_slots,
        policy=plan.policy,
        planner=plan.planner,
        hardware=plan.hardware if machine is None else machine,
        as_model=None if trace.model.name == loaded else trace.model,
        dtype="float32",
        name=loaded,
        profile=plan.profile,
    )
    if plan.by_hand:
        engine.replan(**plan.by_hand.arguments(plan.grid), cache_slots=plan.cache_slots)
    return engine
