"""What an edit of the placement by hand did, in one sentence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engine.plan import Plan
from engine.summary import Summary
from fiddler_viz.theme import count, rate

MOST = 3
"""Experts named one by one; more are counted."""


def edited(before: Plan, after: Plan) -> bool:
    """Whether a plan came of another one by edits of its placement, and of nothing else."""
    names = ("by_hand", "pinned", "cache_slots")
    same = replace(before, **{name: getattr(after, name) for name in names}) == after
    return same and before.by_hand != after.by_hand


def edit_words(before: Plan, after: Plan, was: Summary | None, now: Summary | None) -> str:
    """``Pinned (17, 3) instead of (4, 6): 2.90 -> 2.95 tok/s predicted.``"""
    hand, old = after.by_hand, before.by_hand
    if not hand:
        words = "The placement is the planner's again"
    else:
        more, fewer = set(hand.pinned) - set(old.pinned), set(hand.unpinned) - set(old.unpinned)
        parts: list[str] = []
        if more:
            out = set(before.pinned) - set(after.pinned) - fewer
            instead = f" instead of {_named(out, after)}" if out else ""
            there = ""
            if more <= set(before.pinned):
                there = " (it was there)" if len(more) == 1 else " (they were there)"
            parts.append(f"pinned {_named(more, after)}{there}{instead}")
        if fewer:
            into = set(after.pinned) - set(before.pinned) - more
            comes = f", {_named(into, after)} in" if into else ""
            was_out = " (not there before)" if fewer.isdisjoint(before.pinned) else ""
            parts.append(f"unpinned {_named(fewer, after)}{was_out}{comes}")
        words = " and ".join(parts) or f"{hand}"
        words = words[0].upper() + words[1:]
    if before.cache_slots != after.cache_slots:
        words += f", {count(after.cache_slots, 'cache slot')} left"
    if was is None or now is None:
        return f"{words}."
    old_speed, new_speed = rate(was.tokens_per_s), rate(now.tokens_per_s)
    if old_speed == new_speed:
        return f"{words}: {new_speed} predicted, as before."
    return f"{words}: {old_speed.split()[0]} → {new_speed} predicted."


def _named(experts: Collection[int], plan: Plan) -> str:
    """``(4, 6)``, ``all of layer 4``, or how many."""
    columns = plan.grid[1]
    layers = {flat // columns for flat in experts}
    if len(experts) == columns > 1 and len(layers) == 1:
        return f"all of layer {layers.pop()}"
    if len(experts) > MOST:
        return count(len(experts), "expert")
    return ", ".join(f"({flat // columns}, {flat % columns})" for flat in sorted(experts))
