"""Models and hardware as numbers: `ModelSpec`, `HardwareSpec`, presets, how to name one."""

from __future__ import annotations

from engine.hardware_spec import UNCALIBRATED, HardwareSpec, resolve_hardware
from engine.model_spec import (
    ModelSpec,
    resolve_costed,
    resolve_model,
    same_routing,
)

__all__ = [
    "UNCALIBRATED",
    "HardwareSpec",
    "ModelSpec",
    "resolve_costed",
    "resolve_hardware",
    "resolve_model",
    "same_routing",
]
