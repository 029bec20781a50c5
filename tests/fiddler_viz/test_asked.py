"""What a reader asks for: the latest of each kind, in the order of actions."""

from __future__ import annotations

from fiddler_viz.views.asked import Asked


def test_the_latest_change_of_each_kind_is_taken_at_once() -> None:
    asked = Asked()
    assert not asked and asked.next() is None and repr(asked) == "Asked(nothing)"
    for budget in ("24GB", "30GB"):
        asked.change("gpu_memory", budget)
    asked.change("policy", "lru")
    assert asked and repr(asked) == "Asked(gpu_memory, policy)"
    assert asked.next() == {"gpu_memory": "30GB", "policy": "lru"}
    assert not asked and asked.next() is None


def test_an_action_comes_after_what_was_asked_before_it_and_before_what_comes() -> None:
    asked = Asked()
    asked.do("keep")
    asked.change("gpu_memory", "24GB")
    asked.do("apply")
    asked.change("cache_slots", 4)
    assert asked.names == {"gpu_memory", "cache_slots"}
    taken = [asked.next() for _ in range(5)]
    assert taken == ["keep", {"gpu_memory": "24GB"}, "apply", {"cache_slots": 4}, None]


def test_a_change_drops_what_it_brings_along() -> None:
    asked = Asked()
    asked.change("cache_slots", 4)
    asked.change("policy", "lru")
    assert asked.next() == {"policy": "lru"}
    asked.edit(pin=[1])
    asked.change("reset_pins", True)
    assert asked.next() == {"reset_pins": True}


def test_pins_by_hand_add_up_and_toggle_with_what_was_asked() -> None:
    asked = Asked()
    asked.edit(pin=[1, 2])
    asked.edit(unpin=[2])
    asked.toggle([1, 3], pinned=[3])  # 1 will be, 3 is
    assert asked.next() == {"by_hand": {1: False, 2: False, 3: False}}
    asked.toggle([1, 3], pinned=[3])
    assert asked.next() == {"by_hand": {1: True, 3: True}}
