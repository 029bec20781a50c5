"""What the page's script needs to show any token's experts without a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.critical_path import on_path
from engine.events import Why, Work
from engine.history import BECOMES
from engine.trace import Trace
from fiddler_viz.figures.heatmap import FEW_CELLS
from fiddler_viz.frames import describe_selection, places, segments
from fiddler_viz.page.encode import packed
from fiddler_viz.theme import safe

LIMIT_TOKENS = 2000
"""Tokens that can be clicked: 2,000 of a model of 48 layers, top-8, are 3 MB."""
LIMIT_SEGMENTS = 60_000
"""Segments kept for the timelines of single steps: 1.1 MB."""


def linked_tokens(trace: Trace) -> dict[str, Any]:
    """Routing of each token with the action of each choice, and all changes of residency.

    Arrays are base64 of little-endian bytes. ``expert``, ``weight`` and ``action`` have shape
    ``(tokens, layers, top_k)``; experts are int16, -1 where a token did not come; weights are
    256ths. ``change`` is ``expert index * 4 + place``, ordered by ``change_step``.
    """
    layers, experts = trace.model.grid
    n = min(int((trace.tokens["step"] >= 0).sum()), LIMIT_TOKENS)
    routing = trace.routing
    kept = routing.token < n
    shape = (n, layers, trace.model.top_k)
    expert = np.full(shape, -1, "<i2")
    weight, action = np.zeros(shape, "u1"), np.full(shape, 255, "u1")
    at = routing.token[kept], routing.layer[kept]
    expert[at] = routing.experts[kept]
    weight[at] = np.rint(routing.weights[kept].clip(0, 1) * 255)
    action[at] = _actions(trace)[kept]

    moves = trace.moves
    becomes = np.full(len(Why), -1)
    becomes[list(BECOMES)] = list(BECOMES.values())
    place = becomes[moves["why"]]
    changed = place >= 0
    flat = moves["layer"] * experts + moves["expert"]
    step = trace.tokens["step"][:n]
    captions = [describe_selection(trace, token=i, step=s) for i, s in enumerate(step.tolist())]
    return {
        "tokens": n,
        "layers": layers,
        "experts": experts,
        "top_k": trace.model.top_k,
        "few": layers * experts <= FEW_CELLS,
        "expert": packed(expert, "<i2"),
        "weight": packed(weight, "u1"),
        "action": packed(action, "u1"),
        "step": step.tolist(),
        "caption": [safe(caption) for caption in captions],
        "place": packed(places(trace, -1), "u1"),
        "change": packed((flat * 4 + place)[changed], "<i4"),
        "change_step": packed(moves["step"][changed], "<i4"),
    }


def linked_work(trace: Trace) -> dict[str, Any]:
    """Every segment, step by step, for the timeline of one step; empty where they are too many.

    ``work_until``: for each step the number of segments up to its end. Times are float32 seconds
    since the step's start, exact to some 10 ns.
    """
    found, steps = segments(trace.work, on_path(trace, trace.work)), trace.steps
    order = np.argsort(found.step, kind="stable")
    if len(found) > LIMIT_SEGMENTS:
        order = order[:0]
    step = found.step[order]
    since = found.start_ns[order] - steps["start_ns"][step]
    length = found.end_ns[order] - found.start_ns[order]
    arrays = {
        "work_start": since * 1e-9,
        "work_length": length * 1e-9,
        "work_kind": found.kind[order],
        "work_lane": found.lane[order],
        "work_layer": found.layer[order],
        "work_expert": found.expert[order],
        "work_critical": found.critical[order],
    }
    types = dict(zip(arrays, ("<f4", "<f4", "u1", "u1", "<i2", "<i2", "u1"), strict=True))
    number = np.arange(len(trace.step_rows))
    return {
        **{name: packed(values, types[name]) for name, values in arrays.items()},
        "work_until": np.searchsorted(step, number, side="right").tolist(),
        "step_range": np.stack([steps["start_ns"], steps["end_ns"]], axis=1).tolist(),
    }


def _actions(trace: Trace) -> np.ndarray:
    """The action that each of a token's choices ran with, 255 where it did not run."""
    work, (layers, experts) = trace.work, trace.model.grid
    ran = np.flatnonzero(work["kind"] == Work.EXPERT)
    key = (work["step"][ran] * layers + work["layer"][ran]) * experts + work["expert"][ran]
    order = np.argsort(key, kind="stable")
    routing = trace.routing
    at = routing.step.astype(np.int64) * layers + routing.layer
    wanted = at[:, None] * experts + routing.experts
    if not len(ran):
        return np.full(wanted.shape, 255)
    found = np.searchsorted(key[order], wanted).clip(max=len(ran) - 1)
    return np.where(key[order][found] == wanted, work["action"][ran][order][found], 255)
