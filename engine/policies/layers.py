"""Whole layers on the device, the rest on the CPU: llama.cpp's ``--n-cpu-moe``."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy


class Layers(Policy):
    """Experts of a layer are all resident or all on the CPU."""

    name = "layers"
    title = "Whole layers"
    summary = "Keeps whole layers on the device, runs the other layers' experts on the CPU."
    planner = "layers"

    def miss(self, tokens: int) -> Action:
        return Action.CPU
