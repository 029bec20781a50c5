"""The plan that is shown, in the status line: what it holds, what runs under it, what is asked."""

from __future__ import annotations

from engine.units import format_bytes
from fiddler_viz.views.session import Session

NOTHING_YET = "Nothing has run yet: press Run."
UNFORESEEN = "Policy {} goes by predicted experts, which the last run does not hold: press Run."


def plan_words(session: Session) -> str:
    """The plan in force, in a sentence, and what is shown."""
    view = session.view
    plan = view.plan
    if view.trace.on_host:
        other = f"What is predicted is for {plan.own_machine[1]}, which this run did not use."
        more = NOTHING_YET if session.base is None else other
        return f"Everything runs on the CPU, from host memory. {more}"
    total = plan.grid[0] * plan.grid[1]
    slots = f" and {plan.cache_slots} cache slots" if plan.cache_slots else ""
    budget = format_bytes(plan.gpu_memory)
    if plan.beyond_card:
        budget += f", {plan.beyond_card},"
    edits = f", {plan.by_hand}{',' if slots else ''}" if plan.by_hand else ""
    words = f"{budget} hold {len(plan.pinned)} of {total} experts{edits}{slots}."
    if session.example:
        return f"{words} Shown: the bundled run under this plan. Press Run for one of your own."
    if session.base is None and not view.live:
        return f"{words} {NOTHING_YET}"
    if session.unforeseen and not view.live:
        return f"{words} {UNFORESEEN.format(plan.policy)}"
    return words + (" Shown: the last run again, under this plan." if view.what_if else "")


def asked_words(session: Session) -> str:
    """Whether the plan shown is in force, or what is in its place; a sentence or two."""
    words = f" Plan {session.shows} is shown." if session.kept is not None else ""
    machine = session.view.plan.basis
    if machine is not None and machine.hardware.changed:
        words += " A question about other hardware: modelled, never measured."
    if not session.drives and session.engine is not None and session.asks:
        return f"{words} Only predicted: this engine measures what its own machine does."
    if session.drives and not session.at_once and session.asks:
        held = format_bytes(session.in_force.gpu_memory)
        return f"{words} Only asked: the engine keeps its plan ({held}) until Apply."
    return words
