"""Popularity profiles: counts by expert, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.profile import Profile

COUNTS = np.array([[5, 0, 2], [1, 3, 3]], dtype=np.int64)
PROFILE = Profile.of(COUNTS, 7, "two lines of a play")


def test_what_it_holds() -> None:
    assert PROFILE.grid == (2, 3)
    assert PROFILE.counts == ((5, 0, 2), (1, 3, 3))
    np.testing.assert_array_equal(PROFILE.array, COUNTS)
    assert PROFILE.array.dtype == np.int64
    assert repr(PROFILE) == "Profile(2 x 3, 7 tokens of two lines of a play)"
    assert hash(PROFILE) == hash(Profile.of(COUNTS.copy(), 7, "two lines of a play"))


def test_uniform_knows_nothing() -> None:
    profile = Profile.uniform((2, 4))
    assert profile.array.tolist() == [[1] * 4] * 2
    assert (profile.tokens, profile.grid) == (0, (2, 4))


def test_round_trips(tmp_path: Path) -> None:
    assert Profile.from_dict(PROFILE.to_dict()) == PROFILE
    path = tmp_path / "profile.json"
    assert PROFILE.save(path) == path == PROFILE.save(str(path))
    assert Profile.load(path) == Profile.load(str(path)) == PROFILE


@pytest.mark.parametrize(
    "change",
    [
        {"counts": []},
        {"counts": [[]]},
        {"counts": [[], []]},
        {"counts": [[1, 2], [3]]},
        {"counts": [[1, -2]]},
        {"counts": [[1, 2.5]]},
        {"counts": [[1, True]]},
        {"counts": [[1, None]]},
        {"counts": [["1"]]},
        {"counts": [[float("inf")]]},
        {"counts": [[2**63]]},
        {"counts": [1, 2]},
        {"counts": 3},
        {"counts": None},
        {"counts": "12"},
        {"tokens": -1},
        {"tokens": "many"},
        {"tokens": None},
        {"tokens": 1.0},
    ],
)
def test_unsound_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not a profile"):
        Profile.from_dict(PROFILE.to_dict() | change)


@pytest.mark.parametrize("name", ["counts", "tokens", "source"])
def test_missing_values(name: str) -> None:
    values = PROFILE.to_dict()
    del values[name]
    with pytest.raises(InputError, match=f"not a profile.*{name}"):
        Profile.from_dict(values)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"counts": 1}', b"[" * 100_000],
)
def test_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the profile .*profile\.json"):
        Profile.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the profile"):
        Profile.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot read the profile"):
        Profile.load(tmp_path)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    profile = Profile.uniform((2, 3))
    path = profile.save(str(tmp_path / "new" / "profile.json"))
    assert Profile.load(path) == profile
    for bad in (tmp_path, "x" * 5000, 3, None):
        with pytest.raises(InputError):
            profile.save(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", ["x", 0, (0, 4), (2, 4.5), (2, 3, 4), None])
def test_grids_that_are_none(grid: object) -> None:
    with pytest.raises(InputError, match="profile, grid"):
        Profile.uniform(grid)  # type: ignore[arg-type]


@pytest.mark.parametrize("trace", [3, "run.safetensors", None])
def test_only_a_trace_can_be_counted(trace: object) -> None:
    with pytest.raises(InputError, match="expected a Trace, got"):
        Profile.from_trace(trace)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [np.array([1, 2]), [1], 3, "x"])
def test_what_is_no_mapping_is_no_profile(values: object) -> None:
    with pytest.raises(InputError, match="not a profile"):
        Profile.from_dict(values)  # type: ignore[arg-type]
