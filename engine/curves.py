"""Curves: the hit rate of every cache size at once, for several policies, from routing alone."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError, unknown_name
from engine.events import StepKind
from engine.frequency import frequency_hits
from engine.stacks import Requests, lru_hits, opt_hits, static_hits
from engine.strict import TOLD, check_call, check_number, plain, several
from engine.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
SIMULATED_SIZES = 33
"""Sizes at which a policy is simulated, where nothing else is asked for."""


@dataclass(frozen=True)
class Curve:
    """Hits of one policy by the number of experts it may keep."""

    policy: str
    slots: Ints
    """Experts kept besides the pinned ones, ascending."""
    hits: NDArray[np.float64]
    """Expert calls that found the expert on the device; not whole only where it is a mean."""
    calls: int
    """All expert calls."""

    def __repr__(self) -> str:
        return f"Curve({self.policy}: {len(self.slots)} sizes, {self.calls} calls)"

    @property
    def hit_rate(self) -> NDArray[np.float64]:
        """``hits`` as a share of all calls; ``nan`` where there are none."""
        return self.hits / self.calls if self.calls else np.full(len(self.hits), np.nan)


@dataclass(frozen=True)
class Curves:
    """Hit rates by cache size, of several policies on one run's routing."""

    curves: Mapping[str, Curve]
    """By the policy's name, see :data:`HIT_POLICIES`."""
    experts: int
    """In the model: as many slots, less the pinned ones, and nothing is ever missing again."""
    pinned: int
    """Experts pinned: always hits, and never in a slot."""
    calls: int
    """Expert calls: a layer of a step calls each of its active experts once."""
    pinned_calls: int
    """Of these, calls to pinned experts."""
    cliff: int
    """Slots that one decode step fills: layers x top-k for one sequence, less what is pinned (the
    median of all decode steps). With fewer an LRU forgets an expert before it is used again."""

    def __repr__(self) -> str:
        return (
            f"Curves({', '.join(self.curves)}: {self.calls} calls of {self.experts} experts, "
            f"{self.pinned} pinned, one token's set {self.cliff})"
        )

    def __getitem__(self, policy: str) -> Curve:
        if policy not in self.curves:
            raise unknown_name("policy", policy, self.curves)
        return self.curves[policy]

    def to_pandas(self) -> pd.DataFrame:
        """One row per policy and size: ``policy``, ``slots``, ``on_device``, ``hit_rate``."""
        import pandas as pd

        frames = [
            pd.DataFrame(
                {
                    "policy": name,
                    "slots": curve.slots,
                    "on_device": curve.slots + self.pinned,
                    "hit_rate": curve.hit_rate,
                }
            )
            for name, curve in self.curves.items()
        ]
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class _Asked:
    """What a policy's curve is made of."""

    requests: Requests
    """Without the pinned experts."""
    free: Ints
    """Flat indices of the experts that are not pinned."""
    popularity: Ints
    """Per free expert: tokens in the plan's profile."""
    sizes: Ints
    """To be simulated."""
    half_life: float


def _static(asked: _Asked, worth: Ints) -> Ints:
    """Hits of the ``worth``-iest free experts, for every number of them; ties as the planner's."""
    return static_hits(asked.requests, asked.free[np.argsort(-worth, kind="stable")])


def _oracle(asked: _Asked) -> Ints:
    calls = np.bincount(asked.requests.flat, minlength=asked.requests.experts)
    return _static(asked, calls[asked.free])


def _random(asked: _Asked) -> NDArray[np.float64]:
    free = len(asked.free)
    return len(asked.requests) * np.arange(free + 1) / max(free, 1)


HIT_POLICIES: Mapping[str, Callable[[_Asked], Ints | NDArray[np.float64]]] = MappingProxyType(
    {
        "opt": lambda asked: opt_hits(asked.requests),
        "lru": lambda asked: lru_hits(asked.requests),
        "static": lambda asked: _static(asked, asked.popularity),
        "oracle": _oracle,
        "random": _random,
        "belady": lambda asked: opt_hits(asked.requests, preloaded=False),
        "lfu": lambda asked: frequency_hits(asked.requests, asked.sizes),
        "lrfu": lambda asked: frequency_hits(asked.requests, asked.sizes, asked.half_life),
    }
)
"""What a curve can be drawn of. ``opt``: nobody without prefetching can have more, whatever was on
the device at the start; ``belady``: the same from an empty cache; ``lru``, ``lfu``, ``lrfu``:
caches, from empty; ``static``: the plan's most popular experts, fixed; ``oracle``: the most called
ones of this very run, fixed; ``random``: the mean of all fixed choices."""
SIMULATED = frozenset({"lfu", "lrfu"})
"""Policies that are simulated size by size; the others hold every size."""


def hit_curves(
    trace: Trace,
    policies: Iterable[str] | str = tuple(HIT_POLICIES),
    *,
    pinned: Iterable[int] = (),
    sizes: Iterable[int] | None = None,
    half_life: float = 32.0,
    progress: Callable[[int, int], object] | None = None,
) -> Curves:
    """Hit rate for every cache size at once, from a run's routing alone.

    Args:
        trace: any; its plan only lends its profile to ``static``.
        policies: names in :data:`HIT_POLICIES`, or one.
        pinned: flat indices of experts that are always there; the caches see the rest.
        sizes: slots at which ``lfu`` and ``lrfu``, which are not monotone, are simulated; None: 33
            from none to all. The other curves hold every size.
        half_life: steps in which a use loses half its worth to ``lrfu``.
        progress: called after each policy, with how many are done and of how many; what it raises
            ends it.

    Raises:
        UnknownNameError, InputError: a policy, expert, size or half-life that cannot be.
    """
    check_call("progress", progress, TOLD)
    names = several("policies", policies)
    for name in names:
        if not isinstance(name, str) or name not in HIT_POLICIES:
            raise unknown_name("policy", name, HIT_POLICIES)
    total = trace.model.experts_total
    fixed = np.zeros(total, dtype=np.bool_)
    fixed[within("pinned", pinned, total - 1)] = True
    free = np.flatnonzero(~fixed)
    if sizes is None:
        wanted = np.unique(np.linspace(0, len(free), SIMULATED_SIZES).round().astype(np.int64))
    else:
        wanted = np.unique(within("sizes", sizes, len(free)))
    half_life = plain(half_life)
    check_number("hit_curves, half_life", half_life, zero=False)
    requests = Requests.of(trace.batch, total, fixed)
    pinned_calls = len(trace.batch.flat) - len(requests)
    asked = _Asked(requests, free, trace.plan.profile.array.ravel()[free], wanted, half_life)
    every = np.arange(len(free) + 1)
    found: dict[str, Curve] = {}
    for name in names:
        slots = wanted if name in SIMULATED else every
        hits = HIT_POLICIES[name](asked)[: len(slots)]  # more slots than experts hold no more
        whole = np.asarray(hits, dtype=np.float64) + pinned_calls
        found[name] = Curve(name, slots, whole, len(trace.batch.flat))
        if progress is not None:
            progress(len(found), len(names))
    return Curves(
        found,
        total,
        int(fixed.sum()),
        len(trace.batch.flat),
        pinned_calls,
        _step_set(trace, requests),
    )


def _step_set(trace: Trace, requests: Requests) -> int:
    """Experts that one decode step asks for: the median; of any step where there is no decode."""
    steps = trace.steps
    step = np.repeat(requests.step, np.diff(requests.first))
    asked = np.bincount(step, minlength=len(steps["step"]))
    decode = (steps["kind"] == StepKind.DECODE) & (steps["complete"] == 1)
    chosen = asked[decode] if decode.any() else asked
    return int(np.median(chosen)) if len(chosen) else 0


def within(name: str, values: Iterable[int], most: int) -> list[int]:
    """Whole numbers from 0 to ``most``; raises InputError for others."""
    values = plain(values)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        given = cast("object", values)
        raise InputError(
            f"{name}: expected several whole numbers from 0 to {most}, got {reprlib.repr(given)}; "
            f"write {name}=[{given if type(given) is int else 0}] for one"
        )
    found = [plain(value) for value in values]
    for value in found:
        if type(value) is not int or not 0 <= value <= most:
            raise InputError(
                f"{name}: expected whole numbers from 0 to {most}, got {reprlib.repr(value)}"
            )
    return found
