"""Policies by name, one per file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.errors import unknown_name
from engine.policies.base import Policy
from engine.policies.cpu import Cpu
from engine.policies.fiddler import Fiddler
from engine.policies.layers import Layers
from engine.policies.lru import Lru
from engine.policies.stream import Stream

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {policy.name: policy for policy in (Fiddler, Stream, Lru, Cpu, Layers)}
)


def resolve_policy(value: str | type[Policy]) -> type[Policy]:
    """A policy class from its name, or itself; raises UnknownNameError with the valid names."""
    if isinstance(value, type):
        return value
    if value not in POLICIES:
        raise unknown_name("policy", value, POLICIES)
    return POLICIES[value]


__all__ = ["POLICIES", "Cpu", "Fiddler", "Layers", "Lru", "Policy", "Stream", "resolve_policy"]
