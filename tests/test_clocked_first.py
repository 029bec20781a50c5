"""Which process gets which tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clocked_first import ClockedFirst

TESTS = [
    *(f"tests/browser/test_page.py::test_{at}" for at in range(4)),
    *(f"tests/engine/test_one.py::test_{at}" for at in range(5)),
    *(f"tests/engine/test_pace.py::test_{at}[{size}]" for at in range(2) for size in (1, 2)),
    *(f"tests/engine/test_two.py::test_{at}" for at in range(5)),
]
CLOCKED = [at for at, name in enumerate(TESTS) if "browser" in name or "pace" in name]


class Node:
    """A process as a scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway = self
        self.id, self.shutting_down = name, False
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduled(tests: list[str]) -> tuple[Any, Node, Node]:
    config = pytest.Config.fromdictargs({"tx": ["2*popen"], "loadscopereorder": False}, [])
    one, two = Node("one"), Node("two")
    scheduler: Any = ClockedFirst(config, None, {"test_pace"})
    for node in (one, two):
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    return scheduler, one, two


def test_what_races_a_clock_runs_first_and_alone() -> None:
    scheduler, one, two = scheduled(TESTS)
    assert one.given == CLOCKED and two.given == []
    for done in CLOCKED[:-3]:
        scheduler.mark_test_complete(one, done)
    assert two.given == [], "nothing beside it"
    scheduler.mark_test_complete(one, CLOCKED[-3])  # near its end: both are given the rest
    assert sorted(one.given + two.given) == list(range(len(TESTS)))
    assert one.given and two.given
    for node in (one, two):
        for done in node.given[:-1]:
            if done not in CLOCKED[:-2]:
                scheduler.mark_test_complete(node, done)
    assert scheduler.tests_finished and one.shutting_down and two.shutting_down


@pytest.mark.parametrize("chosen", ["one or two", "pace"])
def test_where_only_one_kind_was_asked_for(chosen: str) -> None:
    tests = [name for name in TESTS if any(part in name for part in chosen.split(" or "))]
    scheduler, one, two = scheduled(tests)
    assert sorted(one.given + two.given) == list(range(len(tests)))
    assert bool(two.given) == (chosen != "pace")
    assert scheduler.has_pending
