"""Numbers with units, read and written: bytes, percentages, nanoseconds.

Decimal units are powers of 1000 ("24GB" = 24e9 bytes), binary ones powers of 1024 ("24GiB").
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from operator import index

from engine.errors import InputError

_SCALES: dict[str, int] = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_NUMBER = r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"
_BYTES = re.compile(rf"\s*{_NUMBER}\s*([kmgt]i?b|b)\s*", re.IGNORECASE)
_PERCENT = re.compile(rf"\s*{_NUMBER}\s*%\s*")
_LARGEST_BYTES = 2**63 - 1


def parse_bytes(value: int | str, *, name: str = "gpu_memory") -> int:
    """Bytes from an amount of memory: `"24GB"` = 24e9, `"24GiB"` = 24 x 2^30, an int = bytes.

    Units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB, in any case; a fraction of a byte is
    rounded. A whole float (`24e9`) counts as an int. `name` is the argument named in the error.

    Raises InputError for anything else, for a negative amount and for one of 2^63 bytes or more.
    """
    amount = _bytes_of(value)
    if amount is None or not 0 <= amount <= _LARGEST_BYTES:
        raise InputError(
            f'{name}: expected an amount of memory such as "24GB" (24e9 bytes), "24GiB" '
            f'(24 x 2^30 bytes), "512MB" or a whole number of bytes from 0; got {_shown(value)}. '
            "Write a number and a unit out of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB."
        )
    return amount


def _bytes_of(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None  # nan and inf are not integers
    if isinstance(value, str):
        match = _BYTES.fullmatch(value)
        if match is None:
            return None
        return int((Decimal(match[1]) * _SCALES[match[2].lower()]).to_integral_value())
    try:
        return index(value)  # pyright: ignore[reportArgumentType]  # int, or numpy's integers
    except TypeError:
        return None


def parse_percent(value: object, *, name: str = "gpu_memory") -> float | None:
    """The fraction of a percentage: `"40%"` -> 0.4; None where `value` holds no percent sign.

    Raises InputError where it holds one but is not a percentage from 0% to 100%.
    """
    if not isinstance(value, str) or "%" not in value:
        return None
    match = _PERCENT.fullmatch(value)
    if match is None or Decimal(match[1]) > 100:
        raise InputError(
            f'{name}: expected a percentage from "0%" to "100%"; got {_shown(value)}. '
            'Write a number and a percent sign, such as "40%".'
        )
    return float(Decimal(match[1]) / 100)


def format_bytes(n: int) -> str:
    """`n` bytes in decimal units to three digits: 24e9 -> "24.0 GB", 352321536 -> "352 MB"."""
    return _format(n, ("B", "KB", "MB", "GB", "TB", "PB"))


def format_ns(ns: int | float) -> str:
    """`ns` nanoseconds to three digits in the unit that fits: 7100000 -> "7.10 ms"."""
    return _format(ns, ("ns", "µs", "ms", "s"))


def _format(value: int | float, units: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return f"{value} {units[0]}"
    sign, size = ("-", -value) if value < 0 else ("", value)
    if size == int(size) and size < 1000:
        return f"{sign}{int(size)} {units[0]}"
    scaled, unit = float(size), units[0]
    for larger in units[1:]:
        if float(f"{scaled:.3g}") < 1000:  # as printed: 999.9 is 1000
            break
        scaled, unit = scaled / 1000, larger
    rounded = float(f"{scaled:.3g}") if scaled < 1000 else scaled
    digits = 0 if rounded >= 100 else 1 if rounded >= 10 else 2
    return f"{sign}{rounded:.{digits}f} {unit}"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
