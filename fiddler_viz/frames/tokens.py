"""The tokens of a run: what each cost, and how many of its experts were on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.events import Action, StepKind
from engine.lineage import best_path, searched
from engine.routing import Routing
from engine.trace import Trace

Ints = NDArray[np.int64]
LIMIT_TOKENS = 600
"""Tokens shown of a longer text where no range is asked for: the last ones."""


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


def token_table(trace: Trace, rated: Ints | None = None) -> Tokens:
    """What each token cost, and how many of its experts were on the device.

    ``rated``: rows whose hit rate is asked for, all others get NaN: of a long run finding out who
    ran where takes longest. None: all.
    """
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
        hit_rate=hit_rates(trace, _choices_of(trace, rated)),
    )


def _choices_of(trace: Trace, rows: Ints | None) -> Routing:
    """The routing of these rows of the tokens table."""
    if rows is None or len(rows) == len(trace.token_rows):
        return trace.routing
    wanted = np.zeros(len(trace.token_rows), np.bool_)
    wanted[rows] = True
    return trace.routing.where(wanted[trace.routing.token])


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


def excerpt(texts: tuple[Ints, ...], chosen: range) -> tuple[Ints, ...]:
    """The part of each text that is in a range counted over all of them; as many as before."""
    parts, at = list[Ints](), 0
    for rows in texts:
        parts.append(rows[max(chosen.start - at, 0) : max(chosen.stop - at, 0)])
        at += len(rows)
    return tuple(parts)


def priced(trace: Trace, rated: Ints | None = None) -> Tokens:
    """The trace's tokens; one whose step was cut short has no price, it would look cheap.

    ``rated``: as in :func:`token_table`.
    """
    tokens, complete = token_table(trace, rated), trace.steps["complete"] == 1
    whole = (tokens.step >= 0) & np.append(complete, False)[tokens.step]
    return replace(tokens, ns=np.where(whole, tokens.ns, np.nan))


def actions_of(trace: Trace, routing: Routing) -> Ints:
    """The action that each choice in rows of routing ran with, ``(rows, top_k)``; -1: it did not.

    A stopped step may have routed without running.
    """
    none = np.full(routing.experts.shape, -1, dtype=np.int64)
    if not len(routing):  # as of a run under way: its calls, which are many, need no look
        return none
    called, layers, experts = trace.happened.calls, trace.model.layers, trace.model.experts
    if not len(called.step):
        return none
    made = (called.step * layers + called.layer) * experts + called.expert
    order = np.argsort(made, kind="stable")
    made = made[order]
    at = routing.step.astype(np.int64) * layers + routing.layer
    wanted = at[:, None] * experts + routing.experts
    found = np.searchsorted(made, wanted).clip(max=len(made) - 1)
    return np.where(made[found] == wanted, called.action[order][found], -1)


def hit_rates(trace: Trace, routing: Routing) -> NDArray[np.float64]:
    """Per token: the share of its choices in rows of routing that ran resident; NaN without any."""
    action = actions_of(trace, routing).ravel()
    token = np.repeat(routing.token, routing.experts.shape[1])
    hits = np.full(len(trace.token_rows), np.nan)
    calls = np.bincount(token, action >= 0, minlength=len(hits))
    hit = np.bincount(token, action == Action.RESIDENT, minlength=len(hits))
    np.divide(hit, calls, out=hits, where=calls > 0)
    return hits
