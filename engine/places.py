"""Who gets the room that a budget leaves: cache slots, and the experts that are pinned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.errors import BudgetError, InputError
from engine.plan import Plan
from engine.planners import PLANNERS, Known
from engine.strict import check_name, plain
from engine.units import format_bytes


def with_room(plan: Plan, cache_slots: int | None) -> Plan:
    """The plan with what its budget has room for; ``cache_slots`` None: as many as usual.

    Raises BudgetError where what is pinned by hand does not fit, InputError for more slots than
    there is room for and for a planner that there is not.
    """
    by_hand, most = len(plan.by_hand.pinned), plan.most_slots
    if most < 0:
        least = plan.minimum_bytes + by_hand * plan.expert_bytes
        raise BudgetError(
            f"{by_hand} pinned by hand do not fit: {format_bytes(plan.gpu_memory)} have room for "
            f"{plan.room}; unpin {-most} (reset_pins=True: all of them), or give at least {least} "
            f"bytes ({format_bytes(least)})",
            minimum_bytes=least,
        )
    if cache_slots is None:
        cache_slots = usual_slots(plan)
    cache_slots = plain(cache_slots)
    if type(cache_slots) is not int or not 0 <= cache_slots <= most:
        beside = f" beside the {by_hand} pinned by hand" if by_hand else ""
        raise InputError(
            f"cache_slots: expected a whole number of experts from 0 to {most} (what fits in "
            f"{format_bytes(plan.gpu_memory)}{beside}), got {cache_slots!r}"
        )
    check_name("planner", plan.planner, PLANNERS)
    return replace(plan, pinned=_pinned(plan, plan.room - cache_slots), cache_slots=cache_slots)


def _pinned(plan: Plan, places: int) -> tuple[int, ...]:
    """Who gets the places: first what is pinned by hand, then what the planner says.

    A planner with more room pins all that it pins with less, so that its order need not be known:
    it is given the most room with which what it says, without the experts it is not asked about,
    still fits.
    """
    known = Known(plan.profile, plan.costs, plan.policy_class)
    planner, hand = PLANNERS[plan.planner], plan.by_hand
    if not hand:
        return tuple(sorted(planner(known, places).tolist()))
    free = np.ones(plan.grid[0] * plan.grid[1], dtype=np.bool_)
    free[[*hand.pinned, *hand.unpinned]] = False
    places -= len(hand.pinned)
    room, above = places, len(free) + 1  # fits, and fits not or is too much to ask for
    chosen = planner(known, room)
    while above - room > 1:
        middle = (room + above) // 2
        more = planner(known, middle)
        if free[more].sum() <= places:
            room, chosen = middle, more
        else:
            above = middle
    return tuple(sorted((*hand.pinned, *chosen[free[chosen]].tolist())))


def usual_slots(plan: Plan) -> int:
    """Cache slots where nobody says how many."""
    return min(int(plan.room * plan.policy_class.slot_share), plan.most_slots)
