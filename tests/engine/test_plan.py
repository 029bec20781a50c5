"""Plans: what they add up to, and that only whole and sound ones come back from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.by_hand import ByHand
from engine.errors import InputError
from engine.plan import Plan
from engine.policies import POLICIES
from tests.engine.builders import LEAST, toy_plan


def plain(plan: Plan) -> dict[str, Any]:
    """As it stands in a file."""
    return json.loads(json.dumps(plan.to_dict()))


@pytest.mark.parametrize("policy", POLICIES)
def test_round_trip(policy: str) -> None:
    plan = toy_plan(7, 2, policy)
    assert Plan.from_dict(plain(plan)) == plan
    assert hash(Plan.from_dict(plain(plan))) == hash(plan)


def test_round_trip_with_edits_by_hand() -> None:
    plan = replace(toy_plan(7, 2), by_hand=ByHand((1, 2), (11,)))
    assert Plan.from_dict(plain(plan)) == plan
    assert "5 of 12 experts pinned (2 pinned and 1 unpinned by hand), 2 cache" in repr(plan)
    assert plan.most_slots == 5
    assert "by_hand" not in plain(toy_plan(7, 2)), "as files without edits always were"


@pytest.mark.parametrize(
    ("by_hand", "message"),
    [
        ({"pinned": [11], "unpinned": []}, "what is pinned is not what was pinned by hand"),
        ({"pinned": [], "unpinned": [0]}, "what is pinned is not what was pinned by hand"),
        ({"pinned": [1, 0], "unpinned": []}, "must ascend"),
        (None, "expected a mapping"),
    ],
)
def test_edits_that_the_placement_denies_are_refused(by_hand: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_dict(plain(toy_plan(7, 2)) | {"by_hand": by_hand})


def test_figures() -> None:
    plan = toy_plan(7, 2)
    assert (plan.minimum_bytes, plan.full_bytes) == (LEAST, LEAST + 12_000)
    assert (plan.room, len(plan.pinned)) == (7, 5)
    assert plan.pinned_grid.sum() == 5
    ledger = plan.residency()
    assert (ledger.budget_bytes, ledger.cache_slots) == (LEAST + 7000, 2)
    assert (ledger.reserved_bytes, ledger.pinned_count) == (LEAST, 0)
    assert repr(plan) == (
        "Plan(14.4 KB on toy-machine: 5 of 12 experts pinned, 2 cache slots, policy 'fiddler')"
    )


def test_a_budget_beyond_the_card_says_so() -> None:
    plan = toy_plan(7, 2)
    assert (plan.card_bytes, plan.beyond_card) == (24 * 10**9, "")
    assert replace(plan, card_bytes=plan.gpu_memory).beyond_card == "", "all of it is not beyond"
    beyond = replace(plan, card_bytes=plan.gpu_memory - 400)
    assert beyond.beyond_card == "more than the card's 14.0 KB"
    assert repr(beyond).startswith("Plan(14.4 KB, more than the card's 14.0 KB, on toy-machine: 5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [3, 5]}, "its profile's is"),
        ({"grid": [10**12, 10**12]}, "its profile's is"),
        ({"grid": 12}, "grid"),
        ({"gpu_memory": "7KB"}, "gpu_memory: expected a whole number"),
        ({"gpu_memory": -1}, "gpu_memory: expected a whole number of at least 0"),
        ({"gpu_memory": 0}, "do not fit"),
        ({"gpu_memory": LEAST - 1, "pinned": [], "cache_slots": 0}, "do not fit"),
        ({"gpu_memory": 10**30}, "64 bits"),
        ({"dense_bytes": 10**30}, "64 bits"),
        ({"expert_bytes": 0}, "expert_bytes: expected a whole number of at least 1"),
        ({"cache_slots": 3}, "5 experts pinned and 3 cache slots do not fit in 14.4 KB"),
        ({"cache_slots": True}, "cache_slots"),
        ({"pinned": [0, 1, 2, 3, 4, 5]}, "6 experts pinned and 2 cache slots do not fit"),
        ({"pinned": [0, 12]}, "from 0 to 11"),
        ({"pinned": [-1]}, "from 0 to 11"),
        ({"pinned": [1.0]}, "from 0 to 11"),
        ({"pinned": [1, 1]}, "must ascend"),
        ({"pinned": [2, 1]}, "must ascend"),
        ({"pinned": None}, "must be a list"),
        ({"pinned": {"0": 1}}, "must be a list"),
        ({"policy": ""}, "policy: expected a text"),
        ({"hardware": 7}, "hardware: expected a text"),
        ({"hardware_title": None}, "hardware_title: expected a text"),
        ({"card_bytes": -1}, "card_bytes: expected a whole number of at least 0"),
        ({"colour": "red"}, "unknown colour"),
        ({"costs": {}}, "cost model: missing gpu"),
        ({"profile": 3}, "not a profile"),
    ],
)
def test_unsound_plans_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_dict(plain(toy_plan(7, 2)) | change)


@pytest.mark.parametrize("name", sorted(plain(toy_plan(1))))
def test_a_missing_field_is_named(name: str) -> None:
    values = plain(toy_plan(1))
    del values[name]
    with pytest.raises(InputError, match=f"missing {name}"):
        Plan.from_dict(values)


def test_what_is_no_dict() -> None:
    for values in ([], None, 3, "plan"):
        with pytest.raises(InputError, match="expected a mapping"):
            Plan.from_dict(values)  # type: ignore[arg-type]


def test_a_policy_of_another_s_making_can_be_read() -> None:
    """A trace of a user's policy opens without it; only replaying it under that name fails."""
    assert Plan.from_dict(plain(toy_plan(3)) | {"policy": "their-own"}).policy == "their-own"
