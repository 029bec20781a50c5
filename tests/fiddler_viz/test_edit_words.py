from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from engine.placement import change_plan
from engine.plan import Plan
from engine.synthetic import synthetic_trace
from fiddler_viz.views.edit_words import edit_words


@pytest.fixture(scope="module")
def plan() -> Plan:
    """All of the last layers pinned: what an edit does is known."""
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=1, prompt_tokens=1)
    return change_plan(trace.plan, model=trace.model, planner="popularity")


def edited(plan: Plan, **options: Any) -> Plan:
    from engine.spec import ModelSpec

    return change_plan(plan, model=ModelSpec.preset("mixtral-8x7b"), **options)


def first(plan: Plan, *, pinned: bool) -> int:
    return next(flat for flat in range(256) if (flat in plan.pinned) is pinned)


def named(flat: int) -> str:
    return f"({flat // 8}, {flat % 8})"


def test_a_pin_says_who_had_to_go(plan: Plan) -> None:
    new = first(plan, pinned=False)
    after = edited(plan, pin=divmod(new, 8))
    (gone,) = set(plan.pinned) - set(after.pinned)
    was, now = SimpleNamespace(tokens_per_s=2.9), SimpleNamespace(tokens_per_s=2.953)
    assert edit_words(plan, after, was, now) == (  # type: ignore[arg-type]
        f"Pinned {named(new)} instead of {named(gone)}: 2.90 → 2.95 tok/s predicted."
    )
    assert edit_words(plan, after, now, now).endswith(": 2.95 tok/s predicted, as before.")  # type: ignore[arg-type]
    assert edit_words(plan, after, None, None).endswith(f"instead of {named(gone)}.")


def test_an_unpin_says_who_comes(plan: Plan) -> None:
    old = first(plan, pinned=True)
    after = edited(plan, unpin=divmod(old, 8))
    (came,) = set(after.pinned) - set(plan.pinned)
    assert edit_words(plan, after, None, None) == f"Unpinned {named(old)}, {named(came)} in."


def test_what_changes_nothing_says_so(plan: Plan) -> None:
    there, not_there = first(plan, pinned=True), first(plan, pinned=False)
    words = edit_words(plan, edited(plan, pin=divmod(there, 8)), None, None)
    assert words == f"Pinned {named(there)} (it was there)."
    words = edit_words(plan, edited(plan, unpin=divmod(not_there, 8)), None, None)
    assert words == f"Unpinned {named(not_there)} (not there before)."


def test_many_are_counted(plan: Plan) -> None:
    words = edit_words(plan, edited(plan, pin=[(0, n) for n in range(5)]), None, None)
    assert words.startswith("Pinned 5 experts")
    words = edit_words(plan, edited(plan, pin=3), None, None)
    assert words.startswith("Pinned all of layer 3")


def test_a_cache_that_gave_way_and_a_reset(plan: Plan) -> None:
    lru = edited(plan, policy="lru")
    after = edited(lru, pin=(3, 3))
    words = edit_words(lru, after, None, None)
    assert words == f"Pinned (3, 3), {lru.cache_slots - 1} cache slots left."
    words = edit_words(after, lru, None, None)
    assert words == f"The placement is the planner's again, {lru.cache_slots} cache slots left."
    both = edited(plan, pin=(3, 3), unpin=divmod(plan.pinned[0], 8))
    assert " and unpinned (" in edit_words(plan, both, None, None)
    assert edit_words(both, replace(both), None, None) == "1 pinned and 1 unpinned by hand."
