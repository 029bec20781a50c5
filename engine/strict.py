"""Dicts from files to the arguments of a frozen dataclass, strictly: keys, types and ranges."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from engine.errors import InputError, unknown_name

_MAX_FILE_BYTES = 2**20

TOLD = "two numbers, how many are done and how many there are in all"
"""What every ``progress=`` is called with."""


def check_keys(what: str, data: object, expected: Iterable[str]) -> dict[str, Any]:
    """`data` as a dict with exactly the `expected` keys; `what` names it in the InputError."""
    if not isinstance(data, Mapping):
        raise InputError(f"{what}: expected a mapping of names, got {type(data).__name__}.")
    found = {str(key): value for key, value in cast("Mapping[Any, Any]", data).items()}
    names = list(expected)
    missing = [name for name in names if name not in found]
    unknown = [name for name in found if name not in names]
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown[:8])}"] if unknown else []
        raise InputError(f"{what}: {'; '.join(parts)}. Expected keys: {', '.join(names)}.")
    return found


def plain(value: Any) -> Any:
    """A scalar of numpy's, also as an array without dimensions, as Python's own; else as it is."""
    scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return cast("Any", value).item() if scalar else cast("Any", value)


def whole(what: str, value: object, *, least: int) -> int:
    """A whole number that a caller gave, also one of numpy's, as Python's own int.

    Raises InputError as :func:`check_int`, which takes Python's only: what files hold.
    """
    number = plain(value)
    check_int(what, number, least=least)
    return number


def numbered(what: str, value: object, many: int) -> int:
    """The number of one of so many things of a model, numpy's too, as Python's own int.

    Raises InputError for anything else; none counts from the end.
    """
    number = plain(value)
    if type(number) is not int or not 0 <= number < many:
        shown = reprlib.repr(number)
        raise InputError(f"{what} {shown}: expected 0 to {many - 1} in this model.")
    return number


def check_int(what: str, value: object, *, least: int) -> None:
    """Raise InputError unless `value` is an int (no bool) of at least `least`, in 64 bits."""
    if type(value) is not int or value < least:
        raise InputError(
            f"{what}: expected a whole number of at least {least}, got {reprlib.repr(value)}."
        )
    if value >= 2**63:
        raise InputError(
            f"{what}: expected a whole number that fits in 64 bits, got {reprlib.repr(value)}."
        )


def check_number(what: str, value: object, *, zero: bool = False) -> None:
    """Raise InputError unless `value` is a number above 0 (`zero`: or 0) and below 1e30."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number < 1e30 or (number == 0 and not zero):
        wanted = "a number of at least 0" if zero else "a number above 0"
        raise InputError(f"{what}: expected {wanted} (and below 1e30), got {reprlib.repr(value)}.")


def check_text(what: str, value: object) -> None:
    """Raise InputError unless `value` is a string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what}: expected a text that is not empty, got {reprlib.repr(value)}.")


def check_flag(what: str, value: object) -> bool:
    """`value`, True or False, also numpy's; raises InputError for anything else."""
    flag = plain(value)
    if not isinstance(flag, bool):
        raise InputError(f"{what}: expected True or False, got {reprlib.repr(value)}.")
    return flag


def check_name(kind: str, name: object, valid: Iterable[str]) -> None:
    """Raise UnknownNameError unless `name` is one of the `valid` names of a `kind`."""
    names = list(valid)
    if not isinstance(name, str) or name not in names:
        raise unknown_name(kind, name, names)


def check_call(what: str, value: object, given: str) -> None:
    """Raise InputError unless `value` is None or can be called with what `given` says."""
    if value is not None and not callable(value):
        raise InputError(
            f"{what}: expected a function of {given}, got {reprlib.repr(value)}; leave it out for "
            "none"
        )


def check_changes(what: str, value: object, names: Iterable[str]) -> dict[str, Any]:
    """`value`, None or what is changed by name, as a dict; `names` are those there are.

    Raises InputError for anything else, UnknownNameError for another name.
    """
    if value is None:
        return {}
    known = list(names)
    if not isinstance(value, Mapping):
        raise InputError(
            f"{what}: expected what is changed, by name, such as {{{known[0]!r}: ...}} (names: "
            f"{', '.join(known)}), got {reprlib.repr(value)}"
        )
    found = dict(cast("Mapping[Any, Any]", value))
    for name in found:
        if name not in known:
            raise unknown_name(f"change in {what}", name, known)
    return found


def check_ascending(what: str, values: object, below: int) -> tuple[int, ...]:
    """A list of different whole numbers from 0, ascending, all `below` a bound; as a tuple."""
    if not isinstance(values, list) or not all(
        type(value) is int and 0 <= value < below for value in cast("list[Any]", values)
    ):
        raise InputError(f"{what} must be a list of experts from 0 to {below - 1}")
    found = tuple(cast("list[int]", values))
    if any(a >= b for a, b in pairwise(found)):
        raise InputError(f"{what}: experts must ascend")
    return found


def several(what: str, value: Any) -> list[Any]:
    """One thing, or several, as a list; texts and paths are one thing.

    Raises InputError where `value` holds none.
    """
    value = plain(value)
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        return [value]
    if found := list(cast("Iterable[Any]", value)):
        return found
    raise InputError(
        f"{what}: expected one or more to compare, got none; leave it out for the default"
    )


def read_json(what: str, path: str | Path) -> object:
    """The content of a small JSON file (at most 1 MiB).

    Raises InputError, which names `what` and the path, where there is no such file or it is not
    JSON, or ``path`` is no path.
    """
    if not isinstance(path, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{what}: expected the path of a file, got {type(path).__name__}.")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise InputError(f"{what}: {path} is larger than 1 MiB; is it the right file?")
        return json.loads(content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{what}: cannot read {path}: {reason}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: {path} is not a JSON file: {error}.") from error
