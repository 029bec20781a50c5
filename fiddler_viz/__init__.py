"""fiddler-viz: see, and decide, where the experts of a Mixture-of-Experts model run.

    import fiddler_viz as fv

    engine = fv.load("demo", as_model="mixtral-8x7b", gpu_memory="24GB")
    fv.Explorer(engine)

Names are imported when first used: opening and drawing a trace never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import (
        BudgetError,
        CheckpointError,
        FiddlerError,
        InputError,
        TraceError,
        UnsupportedModelError,
    )
    from engine.hybrid import HybridEngine
    from engine.profile import Profile
    from engine.replay import Replay
    from engine.run import Run
    from engine.spec import HardwareSpec, ModelSpec
    from engine.synthetic import SyntheticRouting
    from engine.trace import Trace
    from fiddler_viz.api import (
        bound,
        budgets,
        calibrate,
        compare,
        curves,
        heldout,
        likeness,
        load,
        regrets,
        replay,
        sweep,
        synthetic,
        to_perfetto,
    )
    from fiddler_viz.explorer import Explorer
    from fiddler_viz.figures import (
        budget_speeds,
        crossover,
        heatmap,
        hit_rates,
        inspect,
        memory,
        memory_over_time,
        plans,
        policy_lab,
        routing_flow,
        scenarios,
        specialisation,
        timeline,
        tokens,
    )
    from fiddler_viz.page import to_html

__version__ = "0.1.0"

_HOME = {
    "BudgetError": "engine.errors",
    "CheckpointError": "engine.errors",
    "Explorer": "fiddler_viz.explorer",
    "FiddlerError": "engine.errors",
    "HardwareSpec": "engine.spec",
    "HybridEngine": "engine.hybrid",
    "InputError": "engine.errors",
    "ModelSpec": "engine.spec",
    "Profile": "engine.profile",
    "Replay": "engine.replay",
    "Run": "engine.run",
    "SyntheticRouting": "engine.synthetic",
    "Trace": "engine.trace",
    "TraceError": "engine.errors",
    "UnsupportedModelError": "engine.errors",
    "bound": "fiddler_viz.api",
    "budget_speeds": "fiddler_viz.figures",
    "budgets": "fiddler_viz.api",
    "calibrate": "fiddler_viz.api",
    "compare": "fiddler_viz.api",
    "crossover": "fiddler_viz.figures",
    "curves": "fiddler_viz.api",
    "heatmap": "fiddler_viz.figures",
    "heldout": "fiddler_viz.api",
    "hit_rates": "fiddler_viz.figures",
    "inspect": "fiddler_viz.figures",
    "likeness": "fiddler_viz.api",
    "load": "fiddler_viz.api",
    "memory": "fiddler_viz.figures",
    "memory_over_time": "fiddler_viz.figures",
    "plans": "fiddler_viz.figures",
    "policy_lab": "fiddler_viz.figures",
    "regrets": "fiddler_viz.api",
    "replay": "fiddler_viz.api",
    "routing_flow": "fiddler_viz.figures",
    "scenarios": "fiddler_viz.figures",
    "specialisation": "fiddler_viz.figures",
    "sweep": "fiddler_viz.api",
    "synthetic": "fiddler_viz.api",
    "timeline": "fiddler_viz.figures",
    "to_html": "fiddler_viz.page",
    "to_perfetto": "fiddler_viz.api",
    "tokens": "fiddler_viz.figures",
}
"""Public name -> the module it lives in."""

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fiddler_viz' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
