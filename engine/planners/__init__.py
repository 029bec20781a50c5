"""Planners by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.planners.base import Known, Planner
from engine.planners.counted import at_random, by_layers, by_popularity, counted, evenly
from engine.planners.makespan import by_makespan
from engine.strict import check_name

PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {
        "popularity": counted(by_popularity),
        "makespan": by_makespan,
        "layers": counted(by_layers),
        "uniform": counted(evenly),
        "random": counted(at_random),
    }
)


def check_planner(name: object) -> None:
    """Raise UnknownNameError unless ``name`` is that of a planner, or None (the policy's own)."""
    if name is not None:
        check_name("planner", name, PLANNERS)


__all__ = [
    "PLANNERS",
    "Known",
    "Planner",
    "at_random",
    "by_layers",
    "by_makespan",
    "by_popularity",
    "check_planner",
    "evenly",
]
