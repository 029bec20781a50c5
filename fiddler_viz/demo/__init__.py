"""The bundled model and the bundled run: everything works offline, with real, learnt routing.

How they were made: :mod:`fiddler_viz.demo.training` trains the model, ``python -m
fiddler_viz.demo.record`` makes the run. ``model/MODEL_CARD.md`` says what is in it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from engine.profile import Profile
from engine.trace import Trace

NAME = "demo"
"""What :func:`fiddler_viz.load` calls the bundled model."""

COSTED_AS = "mixtral-8x7b"
"""The model with the demo's routing grid, whose bytes and flops make the sliders read in GB."""


def model_folder() -> Path:
    """Folder of the bundled checkpoint, an ordinary transformers one."""
    return _here() / "model"


def trace_path() -> Path:
    """The bundled run, which an explorer opens before anything was generated."""
    return _here() / "traces" / "mixtral-24gb.safetensors"


def trace() -> Trace:
    """The bundled run: the demo's routing costed as Mixtral-8x7B on a 24 GB card."""
    return Trace.load(trace_path())


def profile() -> Profile:
    """Popularity of the demo's experts, as measured in float32 when the bundled run was made."""
    return trace().plan.profile


def _here() -> Path:
    return Path(str(resources.files(__name__)))
