"""The tokens of a run: what each cost, and how many of its experts were on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Action, StepKind
from engine.lineage import best_path, searched
from engine.trace import Trace

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """One element per token, in the order of the trace's tokens table."""

    text: tuple[str, ...]
    """Raw; ``#id`` where the trace has no texts."""
    step: Ints
    """-1 where the token was sampled but never processed."""
    sequence: Ints
    beam: Ints
    position: Ints
    """-1 where it is padding."""
    generated: NDArray[np.bool_]
    ns: NDArray[np.float64]
    """Its share of its step's time; NaN where it was never processed."""
    hit_rate: NDArray[np.float64]
    """Share of its expert calls that ran resident; NaN where it had none."""

    def __len__(self) -> int:
        return len(self.text)


def token_table(trace: Trace) -> Tokens:
    """What each token cost, and how many of its experts were on the device."""
    tokens, steps = trace.tokens, trace.steps
    step = tokens["step"]
    processed = step >= 0
    ns = np.full(len(step), np.nan)
    generated = ~processed
    if len(trace.step_rows):
        share = (steps["end_ns"] - steps["start_ns"]) / np.maximum(steps["tokens"], 1)
        ns[processed] = share[step[processed]]
        generated[processed] = steps["kind"][step[processed]] == StepKind.DECODE
    return Tokens(
        text=trace.texts or tuple(f"#{i}" for i in tokens["id"].tolist()),
        step=step,
        sequence=tokens["sequence"],
        beam=tokens["beam"],
        position=tokens["position"],
        generated=generated,
        ns=ns,
        hit_rate=_hit_rates(trace),
    )


def readings(trace: Trace) -> tuple[Ints, ...]:
    """Rows of the tokens table of each text, in the order in which they read, padding left out.

    A batch has one text for each prompt, or for each sampled answer; of a beam search it is the
    best answer's, or the leading beam's while it runs.
    """
    tokens = trace.tokens
    real = tokens["position"] >= 0
    if not (tokens["sequence"].any() or tokens["beam"].any()):
        return (np.flatnonzero(real),)
    beams = set(searched(tokens).tolist())
    pairs = np.unique(np.stack([tokens["sequence"], tokens["beam"]])[:, real], axis=1).T.tolist()
    found: list[Ints] = []
    for sequence, beam in pairs:
        if sequence not in beams:
            mine = (tokens["sequence"] == sequence) & (tokens["beam"] == beam)
            found.append(np.flatnonzero(mine & real))
        elif beam == 0:
            found.append(best_path(tokens, sequence))
    return tuple(found)


def _hit_rates(trace: Trace) -> NDArray[np.float64]:
    routing, called, experts = trace.routing, trace.happened.calls, trace.model.experts
    hits = np.full(len(trace.token_rows), np.nan)
    if not len(called.step) or not len(routing):
        return hits
    layers = trace.model.layers
    made = (called.step * layers + called.layer) * experts + called.expert
    order = np.argsort(made, kind="stable")
    made = made[order]
    resident = (called.action == Action.RESIDENT)[order]
    at = routing.step.astype(np.int64) * layers + routing.layer
    wanted = (at[:, None] * experts + routing.experts).ravel()
    found = np.searchsorted(made, wanted).clip(max=len(made) - 1)
    known = made[found] == wanted  # a stopped step may have routed without running
    token = np.repeat(routing.token, routing.experts.shape[1])[known]
    calls = np.bincount(token, minlength=len(hits))
    hit = np.bincount(token, resident[found][known], minlength=len(hits))
    np.divide(hit, calls, out=hits, where=calls > 0)
    return hits
