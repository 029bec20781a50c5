"""A trace in a dozen figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import Action, Clock, Lane, StepKind
from engine.lineage import best_path, searched
from engine.spec import UNCALIBRATED
from engine.trace import Trace
from engine.units import format_bytes, format_ns

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Summary:
    """Speed, hits, bytes and lane times of one trace. ``nan`` where there is nothing to divide."""

    clock: str
    """``measured`` or ``modelled``."""
    steps: int
    prompt_tokens: int
    """Tokens processed by prefill steps, all prompts together; padding and the copies that beams
    or several answers process do not count."""
    generated_tokens: int
    """Tokens that decode steps processed for an answer: one for each sequence and step, until the
    sequence ends; from then on it is padding, which does not count. Of a beam search the best
    answer's count (the leading beam's while it runs): the other beams are what it costs. So an
    answer of n tokens counts n - 1, for its last is never processed."""
    prefill_ns: int
    decode_ns: int
    tokens_per_s: float
    """Decode tokens per second."""
    tokens_per_s_low: float
    tokens_per_s_high: float
    """Stated interval of a modelled speed; both equal the speed where it is measured."""
    prefill_tokens_per_s: float
    hit_rate: float
    """Share of expert calls that found the expert resident."""
    calls: dict[str, int]
    """Expert calls by action: ``resident``, ``stream``, ``cpu``."""
    h2d_bytes: int
    d2h_bytes: int
    """Activations; of steps of several tokens a modelled bound (:mod:`engine.timeline`)."""
    bytes_per_token: float
    """Bytes over the link in both directions, activations included, per token processed."""
    busy: dict[str, float]
    """Share of the whole time that each lane was busy."""
    uncalibrated: bool = False
    """True where times are modelled with what was measured, but on another machine."""

    @property
    def cpu_share(self) -> float:
        """Share of expert calls that ran on the CPU; ``nan`` where there is none."""
        return _ratio(self.calls["cpu"], sum(self.calls.values()))

    def __str__(self) -> str:
        calls = ", ".join(f"{count} {name}" for name, count in self.calls.items())
        busy = ", ".join(f"{lane} {share:.0%}" for lane, share in self.busy.items())
        interval = ""
        if self.tokens_per_s_low < self.tokens_per_s_high:
            interval = f" ({self.tokens_per_s_low:.3g} to {self.tokens_per_s_high:.3g})"
        clock = f"{self.clock} clock{f', {UNCALIBRATED}' if self.uncalibrated else ''}"
        return "\n".join(
            (
                f"decode      {self.tokens_per_s:.3g} tokens/s{interval}, {clock}",
                f"prefill     {self.prompt_tokens} tokens in {format_ns(self.prefill_ns)}",
                f"hit rate    {self.hit_rate:.1%}",
                f"experts     {calls}",
                f"link        {format_bytes(self.h2d_bytes)} to the device, "
                f"{format_bytes(self.d2h_bytes)} back",
                f"lanes busy  {busy}",
            )
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it: the text, not the fields."""
        printer.text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or a frame."""
        return asdict(self)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def generated(tokens: dict[str, Ints], steps: Flags) -> int:
    """Tokens for an answer that ``steps`` (True or False for each) processed.

    What every speed counts: :attr:`Summary.generated_tokens` says which tokens these are.
    """
    mine = (tokens["position"] >= 0) & np.append(steps, False)[tokens["step"]]
    many = searched(tokens)
    beams = sum(int(mine[best_path(tokens, sequence)].sum()) for sequence in many.tolist())
    return beams + int((mine & ~np.isin(tokens["sequence"], many)).sum())


def _prompt(tokens: dict[str, Ints], steps: Flags) -> int:
    """Tokens of prompts that ``steps`` processed, each once."""
    mine = (tokens["position"] >= 0) & (tokens["beam"] == 0)
    return int((mine & np.append(steps, False)[tokens["step"]]).sum())


def interval(trace: Trace, speed: float) -> tuple[float, float]:
    """The stated interval of a modelled speed; a measured one is what it is, twice."""
    error = trace.plan.costs.relative_error if trace.clock == Clock.MODELLED else 0.0
    return speed / (1 + error), speed / (1 - error) if error < 1 else math.inf


def summarize(trace: Trace) -> Summary:
    """Count a trace's rows. Steps that were cut short count as work, not as speed."""
    steps = trace.steps
    whole = steps["complete"] == 1
    decode = whole & (steps["kind"] == StepKind.DECODE)
    prefill = whole & (steps["kind"] == StepKind.PREFILL)
    length = steps["end_ns"] - steps["start_ns"]
    decode_ns, prefill_ns = int(length[decode].sum()), int(length[prefill].sum())
    answered, prompt = generated(trace.tokens, decode), _prompt(trace.tokens, prefill)
    speed = _ratio(answered * 1e9, decode_ns)
    low, high = interval(trace, speed)
    totals = trace.happened.totals
    calls = np.array(totals.calls)
    h2d, d2h = totals.bytes[Lane.H2D], totals.bytes[Lane.D2H]
    return Summary(
        clock=trace.clock.name.lower(),
        steps=len(trace.step_rows),
        prompt_tokens=prompt,
        generated_tokens=answered,
        prefill_ns=prefill_ns,
        decode_ns=decode_ns,
        tokens_per_s=speed,
        tokens_per_s_low=low,
        tokens_per_s_high=high,
        prefill_tokens_per_s=_ratio(prompt * 1e9, prefill_ns),
        hit_rate=_ratio(int(calls[Action.RESIDENT]), int(calls.sum())),
        calls={action.name.lower(): int(calls[action]) for action in Action},
        h2d_bytes=h2d,
        d2h_bytes=d2h,
        bytes_per_token=_ratio(h2d + d2h, int(steps["tokens"].sum())),
        busy={lane.name.lower(): _ratio(totals.busy_ns[lane], trace.duration_ns) for lane in Lane},
        uncalibrated=trace.clock == Clock.MODELLED and trace.plan.uncalibrated,
    )
