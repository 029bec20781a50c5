"""What is pinned and unpinned by hand: how experts are named, and what comes back from a file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engine.by_hand import ByHand, named
from engine.errors import InputError

GRID = (3, 4)


@pytest.mark.parametrize(
    ("value", "flats"),
    [
        (None, []),
        ((1, 2), [6]),
        ([(1, 2)], [6]),
        (((1, 2), (0, 0)), [6, 0]),
        ([(1, 2), (2, 3)], [6, 11]),
        (1, [4, 5, 6, 7]),
        ((1, None), [4, 5, 6, 7]),
        ([0, (2, 1)], [0, 1, 2, 3, 9]),
        ((np.int64(1), np.int16(2)), [6]),
        ([], []),
        ({(0, 1)}, [1]),
    ],
)
def test_experts_are_named(value: Any, flats: list[int]) -> None:
    assert named("pin", value, GRID) == flats


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((3, 0), "pin: layer 3: expected 0 to 2"),
        (-1, "pin: layer -1: expected 0 to 2"),
        ((0, 4), "pin: expert 4 of layer 0: expected 0 to 3"),
        ((0, 1, 2), "expected an expert as"),
        ([[0, 1]], "expected an expert as"),
        ("17", "expected an expert as"),
        ([True], "expected an expert as"),
        ((0, "1"), "expected an expert as"),
        (1.0, "expected an expert as"),
        ({0: 1}, "expected an expert as"),
        (np.array("17"), "expected an expert as"),
    ],
)
def test_what_names_no_expert(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named("pin", value, GRID)


def test_the_latest_word_on_an_expert_holds() -> None:
    made = ByHand().changed(GRID, [(0, 1), 2], (1, 1))
    assert made == ByHand((1, 8, 9, 10, 11), (5,))
    assert str(made) == "5 pinned and 1 unpinned by hand"
    made = made.changed(GRID, (1, 1), (2, None))
    assert made == ByHand((1, 5), (8, 9, 10, 11))
    assert made.changed(GRID, None, None) == made
    again = ByHand().changed(GRID, **made.arguments(GRID))
    assert again == made
    with pytest.raises(InputError, match=r"expert 1 of layer 0 is both in pin= and in unpin="):
        made.changed(GRID, (0, 1), 0)


def test_in_words() -> None:
    assert str(ByHand()) == "" and not ByHand()
    assert str(ByHand((1, 2))) == "2 pinned by hand"
    assert str(ByHand((), (3,))) == "1 unpinned by hand"


def test_round_trip() -> None:
    made = ByHand((1, 5), (8,))
    assert ByHand.from_dict(json.loads(json.dumps(made.to_dict())), GRID) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pinned": [1]}, "by hand: missing unpinned"),
        ({"pinned": [1], "unpinned": [1]}, "both pinned and unpinned"),
        (
            {"pinned": [12], "unpinned": []},
            "by hand, pinned must be a list of experts from 0 to 11",
        ),
        ({"pinned": [], "unpinned": [2, 1]}, "by hand, unpinned: experts must ascend"),
        ({"pinned": "1", "unpinned": []}, "must be a list"),
        ({"pinned": [True], "unpinned": []}, "must be a list"),
        ([], "expected a mapping"),
    ],
)
def test_unsound_edits_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ByHand.from_dict(values, GRID)
