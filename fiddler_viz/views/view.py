"""What an explorer shows of a run under a plan; and the same, up to a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.plan import Plan
from engine.spec import ModelSpec
from engine.summary import Summary
from engine.trace import Trace


@dataclass(frozen=True)
class View:
    """What there is to draw."""

    trace: Trace
    plan: Plan
    predicted: Summary | None = None
    """What the plan would give, modelled on the last run's routing."""
    run: Summary | None = None
    """What the run gave."""
    what_if: bool = False
    """Whether ``trace`` is a replay under another plan instead of what ran."""
    live: bool = False
    """Whether ``trace`` is still growing."""

    @property
    def model(self) -> ModelSpec:
        """What the plan costs."""
        return self.trace.model if self.plan.basis is None else self.plan.basis.model


class Cuts:
    """Views as they were at the end of a step. Those made last are kept: asked again, the same
    traces are given, so that what was worked out of them still holds."""

    def __init__(self) -> None:
        self._parts: list[tuple[Trace, int, Trace]] = []
        """A trace, a step, and what came of it."""

    def __repr__(self) -> str:
        return f"Cuts({len(self._parts)} kept)"

    def forget(self) -> None:
        """Nothing is cut any more."""
        self._parts = []

    def of(self, view: View, base: Trace | None, step: int) -> View:
        """A view up to the end of ``step``; ``base``: what ran, cut alike where it is told of.

        One that grows is left as it is.
        """
        if view.live:
            return view
        trace = self._part(view.trace, step)
        if not view.what_if:
            return replace(view, trace=trace, run=None if view.run is None else trace.summary)
        run = None if base is None or view.run is None else self._part(base, step).summary
        return replace(view, trace=trace, predicted=trace.summary, run=run)

    def _part(self, trace: Trace, step: int) -> Trace:
        for whole, at, part in self._parts:
            if whole is trace and at == step:
                return part
        part = trace.until(step)
        self._parts = [(trace, step, part), *self._parts[:2]]  # of what ran, of A and of B
        return part
