"""Never copy weights: what is not pinned runs on the CPU."""

from __future__ import annotations

from engine.events import Action
from engine.policies.base import Policy


class Cpu(Policy):
    """Every missing expert runs on the CPU."""

    name = "cpu"
    title = "CPU"
    summary = "Runs every missing expert on the CPU; weights never cross the link."

    def miss(self, tokens: int) -> Action:
        return Action.CPU
