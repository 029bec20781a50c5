"""What a figure can be drawn from: a trace, and whatever leads to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.events import STEPS, TOKENS, empty
from engine.happened import Recorded
from engine.routing import Routing
from engine.trace import Trace

ACCEPTED = "a Trace, a run or replay (anything with .trace), an engine, or the path of a trace file"


def as_trace(source: Any) -> Trace:
    """The trace that ``source`` is or leads to; an engine that has not run yet has an empty one.

    Raises InputError where it leads to none, TraceError where a file is not a trace.
    """
    if isinstance(source, Trace):
        return source
    if isinstance(source, str | Path):
        if os.path.isdir(source):  # pathlib's own raises for a name that the system refuses
            raise InputError(
                f"{str(source)!r} is a folder: expected {ACCEPTED}. Give the file in it that "
                "Trace.save() wrote, or load a checkpoint's folder with fv.load()."
            )
        if not os.path.isfile(source):
            raise InputError(f"no file {str(source)!r}: expected {ACCEPTED}.")
        return Trace.load(source)
    found = getattr(source, "trace", None)
    if isinstance(found, Trace):
        return found
    if hasattr(source, "last_run"):
        run = source.last_run
        return not_run_yet(source) if run is None else as_trace(run)
    raise InputError(f"expected {ACCEPTED}; got {type(source).__name__}.")


def about(engine: Any) -> dict[str, Any]:
    """What the meta of an engine's traces says of where they run, before there is one."""
    device = getattr(getattr(engine, "device", None), "name", None)
    loaded = getattr(getattr(engine, "real_spec", None), "name", None)
    known = {"device": device, "loaded": loaded}
    return {key: name for key, name in known.items() if name is not None}


def not_run_yet(engine: Any) -> Trace:
    """An empty trace under an engine's current plan."""
    spec = engine.model_spec
    return Trace(
        model=spec,
        routing=Routing.none(spec.top_k),
        step_rows=empty(STEPS),
        token_rows=empty(TOKENS),
        happened=Recorded.nothing(),
        plan_list=((0, engine.plan),),
        meta=about(engine),
    )
