"""What a run would have cost at every budget, under several policies: one replay for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.bounds import Reuse, bound
from engine.policies import POLICIES, Policy, resolve_policy
from engine.replay import playable, replay
from engine.strict import TOLD, check_call, several
from engine.trace import Trace
from engine.units import parse_bytes, parse_percent

if TYPE_CHECKING:
    import pandas as pd

TENTHS = tuple(f"{share}%" for share in range(0, 101, 10))


@dataclass(frozen=True)
class BudgetPoint:
    """One policy under one budget: its replay in figures, on the modelled clock."""

    policy: str
    gpu_memory: int
    """Budget in bytes."""
    pinned: int
    cache_slots: int
    tokens_per_s: float
    """Decode."""
    tokens_per_s_low: float
    tokens_per_s_high: float
    """Its stated interval, see :class:`engine.summary.Summary`."""
    bound_tokens_per_s: float
    """What no policy can exceed under this budget (:mod:`engine.bounds`)."""
    prefill_tokens_per_s: float
    hit_rate: float
    bytes_per_token: float
    """Over the link, both ways."""
    lane_ns: Mapping[str, int]
    """How long each lane was busy."""


@dataclass(frozen=True)
class BudgetCurve:
    """What a run would have cost at every budget, under several policies."""

    points: tuple[BudgetPoint, ...]
    """Policy by policy, budgets as given."""

    def __repr__(self) -> str:
        names = dict.fromkeys(point.policy for point in self.points)
        return f"BudgetCurve({len(self.points)} replays of {', '.join(names)})"

    def to_pandas(self) -> pd.DataFrame:
        """One row per policy and budget; lanes as columns ``gpu_ns``, ``cpu_ns``, ..."""
        import pandas as pd

        rows = [
            {
                **{name: value for name, value in vars(point).items() if name != "lane_ns"},
                **{f"{lane}_ns": busy for lane, busy in point.lane_ns.items()},
            }
            for point in self.points
        ]
        return pd.DataFrame(rows)


def budget_curve(
    trace: Trace,
    policies: Iterable[str | type[Policy]] | str | type[Policy] | None = None,
    budgets: Iterable[int | str] | int | str = TENTHS,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> BudgetCurve:
    """Replay a run under every policy and budget, with the policy's own planner and slots.

    All policies and budgets of a large model (58 x 256, 300 steps) take most of a minute, for many
    decide layer by layer: give fewer, or ``progress``.

    What was pinned by hand is left out: small budgets would have no room for it.

    ``policies``: names, or one; None: all that can replay this run. ``budgets`` are ``gpu_memory``
    arguments (``"24GB"``, ``"40%"``, bytes), or one. ``progress`` is called after each replay, with
    how many are done and of how many; what it raises ends it. Raises InputError for what
    is none, before anything is replayed, and what :func:`engine.replay.replay` raises.
    """
    check_call("progress", progress, TOLD)
    asked, points = several("budgets", budgets), list[BudgetPoint]()
    for budget in asked:
        if budget is not None and parse_percent(budget) is None:
            parse_bytes(budget)
    given = None if policies is None else several("policies", policies)
    chosen = None if given is None else [resolve_policy(policy) for policy in given]
    bounds, reuse = dict[int, float](), Reuse()
    if chosen is None:
        chosen = [POLICIES[name] for name in playable(trace)]
    for policy in chosen:
        for budget in asked:
            what_if = replay(trace, gpu_memory=budget, policy=policy, reset_pins=True).trace
            plan, summary, length = what_if.plan, what_if.summary, what_if.duration_ns
            if plan.gpu_memory not in bounds:  # of all policies the same
                bounds[plan.gpu_memory] = bound(what_if, plan, reuse=reuse).tokens_per_s
            points.append(
                BudgetPoint(
                    policy.name,
                    plan.gpu_memory,
                    len(plan.pinned),
                    plan.cache_slots,
                    summary.tokens_per_s,
                    summary.tokens_per_s_low,
                    summary.tokens_per_s_high,
                    bounds[plan.gpu_memory],
                    summary.prefill_tokens_per_s,
                    summary.hit_rate,
                    summary.bytes_per_token,
                    {
                        lane: round(share * length) if length else 0
                        for lane, share in summary.busy.items()
                    },
                )
            )
            if progress is not None:
                progress(len(points), len(chosen) * len(asked))
    return BudgetCurve(tuple(points))
