"""Two plans side by side on the same routing: a figure each, the difference and the ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.errors import InputError
from engine.trace import Trace
from engine.units import format_bytes


@dataclass(frozen=True)
class Figure:
    """One number of both plans. ``nan`` where there is none."""

    name: str
    unit: str
    """``tokens/s``, ``bytes``, ``experts`` or ``share`` (of 0..1)."""
    a: float
    b: float
    a_low: float = math.nan
    a_high: float = math.nan
    """Stated interval; ``nan`` where there is none."""
    b_low: float = math.nan
    b_high: float = math.nan

    @property
    def difference(self) -> float:
        """``b - a``."""
        return self.b - self.a

    @property
    def ratio(self) -> float:
        """``b / a``; ``nan`` where ``a`` is 0."""
        return self.b / self.a if self.a else math.nan

    @property
    def overlap(self) -> bool:
        """Whether both have intervals that meet: then which is more is not certain.

        Each interval is of one plan alone. What two plans on one machine have in common, the
        errors of the same cost tables, moves both the same way: their ratio is surer than either
        speed, but how much is not known, so nothing is claimed.
        """
        return self.a_low <= self.b_high and self.b_low <= self.a_high


@dataclass(frozen=True)
class Comparison:
    """What two plans make of the same routing, each on the clock of its trace."""

    a: Trace
    b: Trace
    figures: tuple[Figure, ...]

    def __getitem__(self, name: str) -> Figure:
        """A figure by name; KeyError where there is none."""
        found = {figure.name: figure for figure in self.figures}
        return found[name]


def compare_plans(a: Trace, b: Trace) -> Comparison:
    """Put the figures of two runs or replays of one routing beside each other.

    Speed, hit rate, bytes over the link per token, the CPU's share of expert calls, and experts
    pinned. Raises InputError for traces that are not of the same steps.
    """
    if a.model.grid != b.model.grid or len(a.step_rows) != len(b.step_rows):
        raise InputError(
            f"two plans are compared on the same routing, got {a!r} and {b!r}: replay one run twice"
        )
    one, two = a.summary, b.summary
    figures = (
        Figure(
            "speed",
            "tokens/s",
            one.tokens_per_s,
            two.tokens_per_s,
            one.tokens_per_s_low,
            one.tokens_per_s_high,
            two.tokens_per_s_low,
            two.tokens_per_s_high,
        ),
        Figure("hit rate", "share", one.hit_rate, two.hit_rate),
        Figure("over the link, per token", "bytes", one.bytes_per_token, two.bytes_per_token),
        Figure("calls on the CPU", "share", one.cpu_share, two.cpu_share),
        Figure("pinned", "experts", len(a.plan.pinned), len(b.plan.pinned)),
    )
    return Comparison(a, b, figures)


def unlike(a: Trace, b: Trace) -> dict[str, tuple[str, str]]:
    """What differs between the plans of two traces, by name, in words: ``GPU memory``, ..."""

    def told(trace: Trace) -> dict[str, str]:
        plan = trace.plan
        return {
            "GPU memory": format_bytes(plan.gpu_memory),
            "cache": f"{plan.cache_slots} experts",
            "policy": plan.policy,
            "planner": plan.planner,
            "by hand": str(plan.by_hand).removesuffix(" by hand") or "nothing",
            "hardware": plan.hardware,
            "costed as": trace.model.name,
        }

    first, second = told(a), told(b)
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}
