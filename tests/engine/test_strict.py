"""Numbers that callers give: Python's and numpy's whole ones, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError, UnknownNameError
from engine.strict import (
    TOLD,
    check_call,
    check_changes,
    check_flag,
    check_name,
    numbered,
    read_json,
    several,
    whole,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array([3])[0], np.array(3)])
def test_whole_numbers_come_as_python_s_own(value: Any) -> None:
    found = whole("slots", value, least=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "value", [2, np.int64(2), True, np.True_, 3.0, np.float64(3), "3", None, [3], np.array([3])]
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="slots: expected a whole number of at least 3, got"):
        whole("slots", value, least=3)


def test_what_does_not_fit_is_refused() -> None:
    for value in (2**63, np.uint64(2**64 - 1)):
        with pytest.raises(InputError, match="slots: expected a whole number that fits in 64 bits"):
            whole("slots", value, least=0)


def test_one_of_so_many() -> None:
    for value in (2, np.int64(2), np.array(2)):
        found = numbered("layer", value, 3)
        assert found == 2 and type(found) is int
    wrong: list[Any] = [3, -1, True, 1.0, "1", None, [1], np.array([1, 2]), 2**70]
    for value in wrong:
        with pytest.raises(InputError, match=r"layer .*: expected 0 to 2 in this model"):
            numbered("layer", value, 3)


def test_true_or_false() -> None:
    assert check_flag("record", True) is True and check_flag("record", np.False_) is False
    wrong: list[Any] = ["no", 1, None, float("nan"), [], np.array([True, False])]
    for value in wrong:
        with pytest.raises(InputError, match="record: expected True or False, got"):
            check_flag("record", value)


def test_names_are_texts() -> None:
    check_name("show", "hits", ("hits", "time"))
    wrong: list[Any] = [
        "hit",
        b"hits",
        3,
        None,
        [],
        {},
        np.array([1, 2]),
        np.array(["hits", "time"]),
    ]
    for value in wrong:
        with pytest.raises(UnknownNameError, match=r"unknown show .* Valid names: hits, time"):
            check_name("show", value, ("hits", "time"))


def test_one_or_several() -> None:
    for one in ("24GB", 3, np.array("24GB"), np.array(3), np.int64(3)):
        (found,) = several("budgets", one)
        assert type(found) in (str, int)
    assert several("budgets", np.array([1, 2])) == several("budgets", range(1, 3)) == [1, 2]
    with pytest.raises(InputError, match="budgets: expected one or more"):
        several("budgets", np.zeros(0))


@pytest.mark.parametrize("path", ["a" * 5000, "a/" * 3000, "x\0y", b"x", None])
def test_paths_that_no_system_has(path: Any) -> None:
    with pytest.raises(InputError, match=r"^spec: "):
        read_json("spec", path)


def test_what_is_called_must_be_callable() -> None:
    check_call("progress", None, TOLD)
    check_call("progress", print, TOLD)
    with pytest.raises(
        InputError, match=r"progress: expected a function of two numbers, .* got 3;"
    ):
        check_call("progress", 3, TOLD)


def test_changes_by_name() -> None:
    names = ("gpu_memory", "policy")
    assert check_changes("a", None, names) == {}
    assert check_changes("a", {"policy": "lru"}, names) == {"policy": "lru"}
    for value in (3, "lru", [("policy", "lru")]):
        with pytest.raises(InputError, match=r"a: expected what is changed, by name, .* policy\)"):
            check_changes("a", value, names)
    with pytest.raises(
        UnknownNameError, match=r"unknown change in a 'polcy'\. Did you mean 'policy'"
    ):
        check_changes("a", {"polcy": "lru"}, names)
