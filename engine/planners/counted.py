"""Planners that look at nothing but how many tokens each expert got."""

from __future__ import annotations

import numpy as np

from engine.planners.base import Ints, Known, Planner, Rule


def counted(rule: Rule) -> Planner:
    """A rule on counts as a planner."""

    def plan(known: Known, room: int) -> Ints:
        return rule(known.profile.array, room)

    return plan


def by_popularity(counts: Ints, room: int) -> Ints:
    """The experts with the most tokens; ties go to the earlier layer, then the lower expert."""
    order: Ints = np.argsort(-counts.ravel(), kind="stable")
    return order[:room]


def by_layers(counts: Ints, room: int) -> Ints:
    """Whole layers from the last backwards, as llama.cpp's ``--n-cpu-moe`` leaves them."""
    layers, experts = counts.shape
    whole = min(room // experts, layers)
    return np.arange((layers - whole) * experts, layers * experts, dtype=np.int64)


def evenly(counts: Ints, room: int) -> Ints:
    """The same number in each layer, its most popular: KTransformers' ``uniform``.

    What does not divide goes to the layers where the next expert has the most tokens.
    """
    layers, experts = counts.shape
    ranked = np.argsort(-counts, axis=1, kind="stable")  # (layers, experts), by rank
    flat = (np.arange(layers, dtype=np.int64)[:, None] * experts + ranked).T  # (rank, layer)
    tokens = counts.ravel()[flat]
    order: Ints = np.take_along_axis(flat, np.argsort(-tokens, axis=1, kind="stable"), axis=1)
    return order.ravel()[:room]


def at_random(counts: Ints, room: int) -> Ints:
    """Any experts, always the same ones (seed 0): the yardstick for the others."""
    return np.random.default_rng(0).permutation(counts.size)[:room]
