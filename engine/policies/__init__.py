"""Policies by name, one per file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.errors import InputError
from engine.policies.base import Policy
from engine.policies.belady import Belady
from engine.policies.checking import check_words
from engine.policies.cpu import Cpu
from engine.policies.dynamic import Dynamic
from engine.policies.fiddler import Fiddler
from engine.policies.fiddler_released import FiddlerReleased
from engine.policies.hybrimoe import HybriMoe
from engine.policies.layers import Layers
from engine.policies.lfu import Lfu
from engine.policies.lrfu import Lrfu
from engine.policies.lru import Lru
from engine.policies.lru_layer import LruLayer
from engine.policies.makespan import Makespan
from engine.policies.matching import Matching
from engine.policies.prefetch import Prefetch
from engine.policies.qstar import QStar
from engine.policies.stream import Stream
from engine.policies.stream_all import StreamAll
from engine.strict import check_name, plain

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Fiddler,
            Makespan,
            Stream,
            Lru,
            Cpu,
            Layers,
            Lfu,
            Lrfu,
            LruLayer,
            QStar,
            HybriMoe,
            Dynamic,
            Prefetch,
            Matching,
            StreamAll,
            FiddlerReleased,
            Belady,
        )
    }
)
"""In the order in which they are offered: ours, then other systems', then bounds."""

LIVE: Mapping[str, type[Policy]] = MappingProxyType(
    {name: policy for name, policy in POLICIES.items() if policy.live}
)
"""Those that an engine can run under; the others need a finished trace."""


def resolve_policy(value: str | type[Policy]) -> type[Policy]:
    """A policy class from its name, or itself; raises UnknownNameError with the valid names.

    Raises InputError for a class that is no policy, or lacks a name of its own.
    """
    value = plain(value)
    if isinstance(value, str):
        check_name("policy", value, POLICIES)
        return POLICIES[value]
    if any(value is policy for policy in POLICIES.values()):
        return value
    of_ours = isinstance(value, type) and issubclass(value, Policy)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not of_ours or not all(hasattr(value, word) for word in ("name", "title", "summary")):
        raise InputError(
            "policy: expected a name or a subclass of engine.policies.Policy with name, title and "
            f"summary, got {value!r}"
        )
    check_words(value, POLICIES)
    if (value.miss, value.choose, value.decide) == (Policy.miss, Policy.choose, Policy.decide):
        raise InputError(
            f"policy {value.name!r} does not say where a missing expert runs: give "
            f"{value.__name__} a method miss(self, tokens), or choose(self, request, missing)"
        )
    return value


__all__ = [
    "LIVE",
    "POLICIES",
    "Belady",
    "Cpu",
    "Dynamic",
    "Fiddler",
    "FiddlerReleased",
    "HybriMoe",
    "Layers",
    "Lfu",
    "Lrfu",
    "Lru",
    "LruLayer",
    "Makespan",
    "Matching",
    "Policy",
    "Prefetch",
    "QStar",
    "Stream",
    "StreamAll",
    "resolve_policy",
]
