"""What a run asks of its experts: how many of a layer at once, by how many tokens each, and how.

One request needs few experts of a layer in a step, each for one token; a long prompt or a batch
needs nearly all of them, each for many. What copying an expert costs is then shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.crossover import crossover
from engine.decision import Ints
from engine.errors import InputError
from engine.events import Action, StepKind, Work
from engine.lineage import searched
from engine.summary import interval
from engine.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

BINS = ("1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128", "129-256", "257+")
"""Tokens that an expert serves in one call, in powers of two."""


def bin_of(tokens: Ints) -> Ints:
    """The number of the bin that token counts (at least 1) fall in."""
    bins = np.ceil(np.log2(np.maximum(tokens, 1))).astype(np.int64)
    return np.minimum(bins, len(BINS) - 1)


@dataclass(frozen=True)
class Phase:
    """All prefill steps of a run, or all decode steps. ``nan`` where there is nothing to divide."""

    kind: StepKind
    steps: int
    tokens: int
    """Processed by these steps, padding included."""
    experts: int
    """Of a layer."""
    active: Ints
    """Experts that served a token, one element for each layer of each step."""
    pairs: int
    """Tokens served, counted once for each expert that served them."""
    bytes: int
    """Over the link, both directions, activations included."""
    tokens_per_s: float
    """As in :class:`engine.summary.Summary`: of the answers, or of the prompts."""
    tokens_per_s_low: float
    tokens_per_s_high: float

    @property
    def union(self) -> float:
        """Share of a layer's experts that a step needs, 0..1: the mean over layers and steps."""
        return float(self.active.mean()) / self.experts if len(self.active) else np.nan

    @property
    def served(self) -> float:
        """Tokens that an active expert serves, on average."""
        return self.pairs / int(self.active.sum()) if self.active.any() else np.nan

    @property
    def bytes_per_token(self) -> float:
        """Over the link, per token processed."""
        return self.bytes / self.tokens if self.tokens else np.nan

    def quantiles(self, *shares: float) -> tuple[float, ...]:
        """Of the share of a layer's experts that a step needs: 0.5 is the median."""
        if not len(self.active):
            return (np.nan,) * len(shares)
        return tuple((np.quantile(self.active, shares) / self.experts).tolist())


@dataclass(frozen=True)
class Scenario:
    """One way to use a model, by one run."""

    name: str
    words: str
    """What ran: ``8 prompts, 92 tokens; 23 decode steps``."""
    phases: tuple[Phase, ...]
    """Those that have steps, prefill first."""
    calls: Ints
    """Expert calls by tokens served and action, ``(bins, actions)``."""
    break_even: int | None
    """Tokens from which on copying an expert beats the CPU under the run's last plan; None: never,
    or there is nothing to copy to."""
    trace: Trace

    def phase(self, kind: StepKind) -> Phase | None:
        """The steps of a kind, if there are any."""
        return next((phase for phase in self.phases if phase.kind == kind), None)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of all expert calls, by action; ``nan`` without any."""
        total = int(self.calls.sum())
        if not total:
            return (np.nan,) * len(Action)
        return tuple((self.calls.sum(axis=0) / total).tolist())

    @property
    def served(self) -> float:
        """Tokens that an active expert serves, on average over all steps."""
        calls = sum(int(phase.active.sum()) for phase in self.phases)
        return sum(phase.pairs for phase in self.phases) / calls if calls else np.nan


@dataclass(frozen=True)
class Scenarios:
    """Several ways to use a model, side by side."""

    each: tuple[Scenario, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row for the prefill and one for the decode steps of each run."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for scenario in self.each:
            shares = dict(
                zip((action.name.lower() for action in Action), scenario.shares, strict=True)
            )
            for phase in scenario.phases:
                low, middle, high = phase.quantiles(0.1, 0.5, 0.9)
                rows.append(
                    {
                        "scenario": scenario.name,
                        "steps": phase.kind.name.lower(),
                        "count": phase.steps,
                        "tokens_per_step": phase.tokens / phase.steps,
                        "union_mean": phase.union,
                        "union_p10": low,
                        "union_p50": middle,
                        "union_p90": high,
                        "tokens_per_expert": phase.served,
                        "bytes_per_token": phase.bytes_per_token,
                        "tokens_per_s": phase.tokens_per_s,
                        "tokens_per_s_low": phase.tokens_per_s_low,
                        "tokens_per_s_high": phase.tokens_per_s_high,
                        **{f"run_{name}_share": share for name, share in shares.items()},
                        "clock": scenario.trace.clock.name.lower(),
                    }
                )
        return pd.DataFrame(rows)


def scenarios(traces: Mapping[str, Trace]) -> Scenarios:
    """Runs by name, side by side. Reads all rows of work; a replay's are made for that.

    Raises InputError where there are none, or where their models have different grids.
    """
    if not traces:
        raise InputError('scenarios: expected one or more runs by name, such as {"one": run}.')
    grids = {trace.model.grid for trace in traces.values()}
    if len(grids) > 1:
        raise InputError(
            f"scenarios: expected runs of models with one grid, got {sorted(grids)} "
            "(layers, experts): shares of a layer's experts would not compare."
        )
    return Scenarios(tuple(demand(trace, name) for name, trace in traces.items()))


def demand(trace: Trace, name: str = "the run") -> Scenario:
    """What one run asks of its experts."""
    work = trace.work
    ran = work["kind"] == Work.EXPERT
    step, action, tokens = (work[of][ran] for of in ("step", "action", "tokens"))
    calls = np.zeros((len(BINS), len(Action)), dtype=np.int64)
    np.add.at(calls, (bin_of(tokens), action), 1)
    at = step * trace.model.layers + work["layer"][ran]
    active = np.bincount(at, minlength=len(trace.step_rows) * trace.model.layers)
    served = np.bincount(step, tokens, minlength=len(trace.step_rows)).astype(np.int64)
    phases = (
        _phase(trace, kind, active.reshape(-1, trace.model.layers), served) for kind in StepKind
    )
    plan = trace.plan
    nothing = trace.on_host or not plan.costs.overlap
    return Scenario(
        name=name,
        words=_words(trace),
        phases=tuple(phase for phase in phases if phase.steps),
        calls=calls,
        break_even=None if nothing else crossover(plan.costs).break_even,
        trace=trace,
    )


def _phase(trace: Trace, kind: StepKind, active: Ints, served: Ints) -> Phase:
    """``active`` is ``(steps, layers)``, ``served`` ``(steps,)``: token-expert pairs."""
    mine = trace.steps["kind"] == kind
    moves, summary = trace.moves, trace.summary
    crossed = (moves["lane"] >= 0) & mine[moves["step"]] if len(mine) else moves["lane"] >= 0
    experts = active[mine].ravel()
    decode = kind == StepKind.DECODE
    speed = summary.tokens_per_s if decode else summary.prefill_tokens_per_s
    low, high = interval(trace, speed)
    return Phase(
        kind=kind,
        steps=int(mine.sum()),
        tokens=int(trace.steps["tokens"][mine].sum()),
        experts=trace.model.experts,
        active=experts[experts > 0],  # a step that was cut short has layers that never ran
        pairs=int(served[mine].sum()),
        bytes=int(moves["bytes"][crossed].sum()),
        tokens_per_s=speed,
        tokens_per_s_low=low,
        tokens_per_s_high=high,
    )


def _words(trace: Trace) -> str:
    """What ran, in words."""
    if not len(trace.step_rows):
        return "nothing recorded yet"
    tokens, steps, summary = trace.tokens, trace.steps, trace.summary
    prompts = int(tokens["sequence"].max(initial=0)) + 1
    rows = int(tokens["beam"][tokens["step"] >= 0].max(initial=0)) + 1
    words = f"{prompts} prompts" if prompts > 1 else "1 prompt"
    words += f", {summary.prompt_tokens:,} tokens"
    if rows > 1:
        words += f", {rows} {'beams' if len(searched(tokens)) else 'answers'}"
    chunks = int((steps["kind"] == StepKind.PREFILL).sum())
    if chunks > 1:
        words += f", in {chunks} chunks"
    decode = int((steps["kind"] == StepKind.DECODE).sum())
    return f"{words}; {decode:,} decode step{'' if decode == 1 else 's'}"
