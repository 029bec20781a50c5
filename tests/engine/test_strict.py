"""Numbers that callers give: Python's and numpy's whole ones, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.strict import whole


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
