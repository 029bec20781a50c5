"""Amounts of memory, percentages and times: read strictly, written to three digits."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.units import format_bytes, format_ns, parse_bytes, parse_percent


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("24GB", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5 TB", 1_500_000_000_000),
        (" .5 KiB ", 512),
        ("1.GB", 10**9),
        ("7B", 7),
        ("0GB", 0),
        ("9007199254740993B", 2**53 + 1),  # exact beyond a float's 53 bits
        (0, 0),
        (24_000_000_000, 24_000_000_000),
        (24e9, 24_000_000_000),
        (np.int64(12), 12),
    ],
)
def test_parse_bytes(value: Any, expected: int) -> None:
    parsed = parse_bytes(value)
    assert (parsed, type(parsed)) == (expected, int)


@pytest.mark.parametrize(
    "value",
    ["24 GiB of", "", "-3GB", "x", "24", "24G", "GB", "1e9B", "1,5GB", "40%", "٣GB",
     "9" * 40 + "GB", True, -1, 2**63, 1.5, math.nan, math.inf, None, [1], np.bool_(True)],
)  # fmt: skip
def test_parse_bytes_refuses(value: Any) -> None:
    with pytest.raises(InputError, match=r"^cache: expected .*\"24GiB\".*; got .* Write a number"):
        parse_bytes(value, name="cache")


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        parse_bytes("x" * 100_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [("40%", 0.4), ("0%", 0.0), ("100 %", 1.0), (" 12.5% ", 0.125), ("24GB", None), (40, None)],
)
def test_parse_percent(value: object, expected: float | None) -> None:
    assert parse_percent(value) == expected


@pytest.mark.parametrize("value", ["140%", "-5%", "%", "x%", "40%%", "100.01%", "nan%"])
def test_parse_percent_refuses(value: str) -> None:
    with pytest.raises(InputError, match='expected a percentage from "0%" to "100%"'):
        parse_percent(value)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (999_999, "1.00 MB"),
        (352_321_536, "352 MB"),
        (24 * 10**9, "24.0 GB"),
        (9_996_000_000, "10.0 GB"),
        (99_960_000_000, "100 GB"),
        (-24 * 10**9, "-24.0 GB"),
        (10**19, "10000 PB"),
    ],
)
def test_format_bytes(n: int, expected: str) -> None:
    assert format_bytes(n) == expected


@pytest.mark.parametrize(
    ("ns", "expected"),
    [(0, "0 ns"), (850, "850 ns"), (1500, "1.50 µs"), (7_100_000, "7.10 ms"), (10**9, "1.00 s"),
     (0.25, "0.25 ns"), (61e9, "61.0 s"), (math.nan, "nan ns"), (math.inf, "inf ns")],
)  # fmt: skip
def test_format_ns(ns: float, expected: str) -> None:
    assert format_ns(ns) == expected


@given(st.integers(0, 10**17))
def test_what_is_written_reads_back_within_half_a_percent(n: int) -> None:
    written = format_bytes(n)
    if not written.endswith("PB"):
        assert abs(parse_bytes(written) - n) <= 0.005 * n
