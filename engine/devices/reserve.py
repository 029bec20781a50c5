"""What a process takes of a card beside what a plan counts, and whether the plan was kept.

A plan counts dense weights, KV cache, workspace and expert slots. A card also holds what no tensor
is in: the CUDA context with its kernels (outside of torch's allocator), libraries' workspaces, and
the parts of the allocator's blocks that are not used. A budget is the process's real peak, so that
much is taken off it first, as part of the plan's workspace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.devices.runtime import DeviceMemory, Runtime
from engine.strict import whole
from engine.units import format_bytes

CONTEXT_BYTES = 640 << 20
"""Assumed of a context where it cannot be measured, for others use the card too."""
MOST_CONTEXT_BYTES = 2 << 30
CALL_BYTES = 256 << 20
"""What one call of experts may take for its rows; longer ones are cut (see stream_executor)."""
LIBRARY_BYTES = 160 << 20
"""Assumed of matrix libraries' workspaces and of blocks not used to the end, until measured."""
SPARE_BYTES = 32 << 20
"""Left for what differs from run to run, where the rest was measured."""
TOLERANCE_BYTES = 64 << 20
"""So near to the planned peak the measured one has to be."""


@dataclass(frozen=True)
class Reserve:
    """Bytes of a budget that no plan may give away."""

    outside_bytes: int
    """Outside of torch's allocator: the context."""
    inside_bytes: int
    """Inside: calls of experts, libraries, parts of blocks."""
    how: str
    """``measured``, ``assumed`` or ``asked for``."""

    def __str__(self) -> str:
        return (
            f"{format_bytes(self.n_bytes)} of the budget are reserved ({self.how}): "
            f"{format_bytes(self.outside_bytes)} for the CUDA context, "
            f"{format_bytes(self.inside_bytes)} for calls, libraries and fragmentation"
        )

    @property
    def n_bytes(self) -> int:
        """All of it."""
        return self.outside_bytes + self.inside_bytes

    @classmethod
    def of(cls, runtime: Runtime, asked_bytes: int | None = None) -> Reserve:
        """Of a card that this process has just opened; ``asked_bytes``: inside of the allocator.

        What is used of the card and not by our allocator is the context, unless it is so much that
        others must be using it.
        """
        if asked_bytes is not None:
            asked_bytes = whole("reserve_bytes", asked_bytes, least=0)
        outside = outside_bytes(runtime.memory())
        measured = 0 < outside <= MOST_CONTEXT_BYTES
        inside = CALL_BYTES + LIBRARY_BYTES if asked_bytes is None else asked_bytes
        context = f"context {'measured' if measured else 'assumed'}"
        how = "assumed" if asked_bytes is None else "asked for"
        return cls(outside if measured else CONTEXT_BYTES, inside, f"{context}, the rest {how}")

    def measured(self, inside_bytes: int, outside_now: int) -> Reserve:
        """With what was measured inside of the allocator, in place of what was assumed.

        ``outside_now``: what is used of the card outside of it, after a step has run: code is
        loaded when it is first used, and pinned memory has tables of its own.
        """
        how = self.how.split(",")[0]
        more = outside_now if outside_now <= MOST_CONTEXT_BYTES else 0  # else others use the card
        return Reserve(max(self.outside_bytes, more), inside_bytes, how=f"{how}, the rest measured")


def outside_bytes(memory: DeviceMemory) -> int:
    """What is used of a card, but not by this process's allocator."""
    return max(memory.total - memory.free - memory.reserved, 0)


@dataclass(frozen=True)
class Peak:
    """What was planned, and what it came to."""

    planned_bytes: int
    measured_bytes: int

    def __str__(self) -> str:
        return (
            f"planned peak {format_bytes(self.planned_bytes)}, measured "
            f"{format_bytes(self.measured_bytes)}: {'kept' if self.kept else 'EXCEEDED'}, "
            f"{'within' if self.near else 'not within'} {format_bytes(TOLERANCE_BYTES)}"
        )

    @classmethod
    def of(
        cls, runtime: Runtime, reserve: Reserve, planned_bytes: int, before_bytes: int = 0
    ) -> Peak:
        """Of a card since the last :meth:`Runtime.reset_peak`; ``before_bytes``: what the allocator
        held before any of what was planned."""
        held = runtime.memory().peak_reserved - before_bytes
        return cls(planned_bytes, held + reserve.outside_bytes)

    @property
    def kept(self) -> bool:
        """Whether no more was used than planned."""
        return self.measured_bytes <= self.planned_bytes

    @property
    def near(self) -> bool:
        """Whether plan and measurement are within :data:`TOLERANCE_BYTES` of each other."""
        return abs(self.measured_bytes - self.planned_bytes) <= TOLERANCE_BYTES

    @property
    def off_percent(self) -> float:
        """How far the measured peak is from the planned one."""
        return (
            100 * (self.measured_bytes / self.planned_bytes - 1) if self.planned_bytes else math.nan
        )
