"""Held out: how good is a placement that was chosen on one text, judged on another?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.placement import change_plan
from engine.planners import at_random, by_popularity
from engine.profile import Profile, text_of
from engine.strict import check_name, several
from engine.trace import Trace
from engine.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = ("10%", "25%", "50%", "75%")
"""Judged where no budget is asked for."""

PLACEMENTS = ("profile", "random", "oracle")


@dataclass(frozen=True)
class Budget:
    """Hits of the placements that one budget has room for."""

    gpu_memory: int
    """Budget in bytes."""
    pinned: int
    """Experts pinned, in every placement the same number."""
    hits: dict[str, NDArray[np.int64]]
    """Of each placement, expert calls that found the expert pinned, shape ``(layers,)``."""


@dataclass(frozen=True, repr=False)
class HeldOut:
    """Hit rates of a profile's placement on a text that it was not measured on.

    ``profile`` pins the experts with the most tokens in the profile, ``random`` what the planner
    of that name pins (any set of so many hits ``pinned / experts`` of the calls on average:
    ``expected``), ``oracle`` the experts with the most calls in the judged trace itself: no
    placement of that size hits more. A call is one expert of one layer of one step, as
    :attr:`engine.summary.Summary.hit_rate` counts.
    """

    profile: Profile
    """What the placement was chosen by."""
    model: str
    """Name of the model of the judged trace."""
    tokens: int
    """Tokens of the judged trace."""
    text: str
    """What text that was, in words."""
    experts: int
    """In the whole model."""
    calls: NDArray[np.int64]
    """Of the judged trace, shape ``(layers,)``."""
    budgets: tuple[Budget, ...]

    def to_pandas(self, by: Literal["budget", "layer"] = "budget") -> pd.DataFrame:
        """Hit rates, one row per budget, or per budget and layer.

        Columns: ``gpu_memory_gb``, ``pinned``, (``layer``, its ``calls``,) ``profile``,
        ``random``, ``expected`` and ``oracle``. Of a whole budget also ``gain``: how far the
        profile comes from the expected hit rate (0) to the oracle's (1); NaN where these are
        equal. Placements are of the whole model: in one layer the oracle may hit less.
        """
        import pandas as pd

        check_name("way to group", by, ("budget", "layer"))
        rows: list[dict[str, Any]] = []
        for budget in self.budgets:
            head = {"gpu_memory_gb": budget.gpu_memory / 1e9, "pinned": budget.pinned}
            if by == "layer":
                for layer, calls in enumerate(self.calls.tolist()):
                    rates = self._rates(budget, slice(layer, layer + 1))
                    rows.append(head | {"layer": layer, "calls": calls} | rates)
                continue
            rates = self._rates(budget, slice(None))
            room = rates["oracle"] - rates["expected"]
            gain = (rates["profile"] - rates["expected"]) / room if room else float("nan")
            rows.append(head | rates | {"gain": gain})
        return pd.DataFrame(rows)

    def _rates(self, budget: Budget, layers: slice) -> dict[str, float]:
        calls = int(self.calls[layers].sum())
        rates = {
            name: int(budget.hits[name][layers].sum()) / calls if calls else float("nan")
            for name in PLACEMENTS
        }
        return {
            "profile": rates["profile"],
            "random": rates["random"],
            "expected": budget.pinned / self.experts,  # of every layer alike, on average
            "oracle": rates["oracle"],
        }

    def __repr__(self) -> str:
        told: list[str] = []
        for budget in self.budgets:
            rates = self._rates(budget, slice(None))
            told.append(
                f"with {format_bytes(budget.gpu_memory)} ({budget.pinned} of {self.experts} "
                f"experts pinned) it hits {rates['profile']:.1%} of the calls, random "
                f"{rates['random']:.1%} (expected {rates['expected']:.1%}), the oracle "
                f"{rates['oracle']:.1%}"
            )
        return (
            f"Held out: popularity from {self.profile.tokens} tokens of {self.profile.source}, "
            f"judged on {self.tokens} tokens of {self.text} through {self.model}: "
            f"{'; '.join(told)}."
        )


def heldout(
    trace: Trace,
    profile: Profile | Trace | None = None,
    *,
    gpu_memory: Sequence[int | str] | int | str | None = None,
) -> HeldOut:
    """Judge a profile's placement on a trace of another text, beside chance and the best possible.

    Args:
        trace: of the text to judge on; its last plan says what else is in the budget.
        profile: or a trace of another text to count it on; None: the one that ``trace`` was
            planned with. One with the very counts of ``trace`` is refused; that the texts have
            nothing else in common is up to the caller.
        gpu_memory: budgets; None: 10, 25, 50 and 75% of the way to everything resident.

    Raises:
        InputError: a profile of another grid, or of the judged trace itself (also read from its
            file, or counted on it); no budget, or no calls.
        BudgetError: a budget below the smallest that works.
    """
    if profile is None:
        profile = trace.plan.profile
    elif isinstance(profile, Trace):
        profile = Profile.from_trace(profile)
    if profile.grid != trace.model.grid:
        raise InputError(
            f"heldout: the profile is for {profile.grid[0]} layers x {profile.grid[1]} experts, "
            f"the judged trace has {trace.model.grid[0]} x {trace.model.grid[1]}"
        )
    batch, (layers, experts) = trace.batch, trace.model.grid
    flat = batch.layer[batch.segment] * experts + batch.expert
    if not len(flat):
        raise InputError(f"heldout: expected a trace of a text to judge on, got {trace!r}")
    tokens = np.bincount(trace.unpadded.flat(experts), minlength=layers * experts)
    if np.array_equal(tokens, profile.array.ravel()):
        raise InputError(
            "heldout: expected a profile of another text, got one that counts what the judged run "
            "itself did: give the run of another prompt, or leave the profile out for the one that "
            "the run was planned with"
        )
    calls = np.bincount(flat, minlength=layers * experts).reshape(layers, experts)
    asked = several("heldout, gpu_memory", BUDGETS if gpu_memory is None else gpu_memory)
    budgets: list[Budget] = []
    for value in asked:
        plan = change_plan(
            trace.plan,
            model=trace.model,
            gpu_memory=value,
            policy="fiddler",
            cache_slots=0,
            reset_pins=True,  # judged is what a planner chose
        )
        pinned = {
            "profile": by_popularity(profile.array, plan.room),
            "random": at_random(calls, plan.room),
            "oracle": by_popularity(calls, plan.room),
        }
        hits: dict[str, NDArray[np.int64]] = {}
        for name, chosen in pinned.items():
            held = np.zeros(layers * experts, dtype=np.bool_)
            held[chosen] = True
            hits[name] = np.where(held.reshape(layers, experts), calls, 0).sum(axis=1)
        budgets.append(Budget(plan.gpu_memory, plan.room, hits))
    return HeldOut(
        profile=profile,
        model=trace.model.name,
        tokens=len(np.unique(trace.unpadded.token)),
        text=text_of(trace),
        experts=layers * experts,
        calls=calls.sum(axis=1),
        budgets=tuple(budgets),
    )
