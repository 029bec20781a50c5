"""Numbers that callers give: Python's and numpy's whole ones, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError, UnknownNameError
from engine.strict import TOLD, check_call, check_changes, whole


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array([3])[0]])
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
