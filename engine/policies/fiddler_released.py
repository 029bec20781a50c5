"""Fiddler as the authors' released code of April 2024 does it; for comparison."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy

CPU_MS_PER_TOKEN, DEVICE_MS = 7, 70
"""The constants of the released code: an expert on the CPU, by token; copied to the device."""


class FiddlerReleased(Policy):
    """Constants in place of measured latencies, one thing after the other, unpinned copies.

    It minimises the sum of both sides' costs, which is the cheaper side for each expert.
    """

    name = "fiddler_released"
    title = "Fiddler, released"
    summary = "Fiddler's released code: fixed costs, no overlap, copies from pageable memory."
    overlap = False

    def miss(self, tokens: int) -> Action:
        return Action.STREAM if CPU_MS_PER_TOKEN * tokens > DEVICE_MS else Action.CPU
