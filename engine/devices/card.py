"""A card as a machine to plan for, before it was calibrated."""

from __future__ import annotations

from dataclasses import replace

from engine.spec import HardwareSpec


def card_hardware(card: str, memory_bytes: int, fallback: str) -> HardwareSpec:
    """The preset of a card's name, else ``fallback``, with the memory there is.

    Its rates decide until a calibration replaces them, and its title says so.
    """
    words = card.lower().replace("-", " ").split()
    fits = [name for name in HardwareSpec.presets() if set(name.split("-")) <= set(words)]
    spec = HardwareSpec.preset(max([*fits, fallback], key=lambda name: (name in fits, len(name))))
    return replace(
        spec,
        title=f"{card}, decided by {spec.name}'s profile: not calibrated on this machine",
        gpu_memory_bytes=memory_bytes,
    )
