"""The planner protocol: which experts a number of places is given to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.policies import Policy
from engine.profile import Profile

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """What a planner may look at."""

    profile: Profile
    costs: CostModel
    policy: type[Policy]
    """Who will decide about the experts that are not pinned."""


Planner = Callable[[Known, int], Ints]
"""``(what is known, room in experts) -> flat indices to pin``; more room pins all of less."""

Rule = Callable[[Ints, int], Ints]
"""A planner by popularity alone: ``(counts (layers, experts), room) -> flat indices``."""
