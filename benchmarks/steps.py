"""Traces of other steps made of a trace's tokens: prompts in one go, beams side by side, parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.events import STEPS, TOKENS, Clock, StepKind
from engine.routing import Routing
from engine.trace import Start, Trace


def regrouped(source: Trace, sizes: Sequence[int], sequences: int = 1, first: int = 0) -> Trace:
    """The source's tokens from ``first`` on, in steps of so many tokens; routing alone, no times.

    A step of more tokens than ``sequences`` is a prefill of one prompt, which all sequences share.
    Sequences are fed with tokens that follow each other in the source.
    """
    total = sum(sizes)
    routing = source.routing
    token = routing.token.astype(np.int64) - first
    wanted = (token >= 0) & (token < total)
    assert wanted.sum() == total * source.model.layers, "the source has too few tokens"
    rows, token = routing.where(wanted), token[wanted]
    step = np.repeat(np.arange(len(sizes)), sizes)[token]
    order = np.lexsort((token, rows.layer, step))
    made = Routing(
        step=step[order].astype(np.int32),
        layer=rows.layer[order],
        token=token[order].astype(np.int32),
        experts=rows.experts[order],
        weights=rows.weights[order],
        predicted=None if rows.predicted is None else rows.predicted[order],
    )
    kinds = [StepKind.PREFILL if size > sequences else StepKind.DECODE for size in sizes]
    many = np.array([1 if kind == StepKind.PREFILL else sequences for kind in kinds])
    each = np.cumsum([size // count for size, count in zip(sizes, many.tolist(), strict=True)])
    columns = {
        "step": np.arange(len(sizes)),
        "kind": np.array(kinds),
        "tokens": np.array(sizes),
        "sequences": many,
        "context": each * many,
        "token": np.cumsum(sizes) - np.array(sizes),
        "complete": np.ones(len(sizes), dtype=np.int64),
        "clock": np.full(len(sizes), int(Clock.MODELLED)),
    }
    steps = np.zeros((len(sizes), len(STEPS.names or ())), dtype=np.int64)
    for at, name in enumerate(STEPS.names or ()):
        steps[:, at] = columns.get(name, 0)
    tokens = source.token_rows[first : first + total].copy()
    tokens[:, (TOKENS.names or ()).index("step")] = np.repeat(np.arange(len(sizes)), sizes)
    if "parent" in (TOKENS.names or ()):
        tokens[:, (TOKENS.names or ()).index("parent")] = -1
    return replace(
        source,
        routing=made,
        step_rows=steps,
        token_rows=tokens,
        texts=(),
        plan_list=((0, source.plan),),
        start=Start(),
    )
