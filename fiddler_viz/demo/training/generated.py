"""The two domains that are generated: sums and JSON records."""

from __future__ import annotations

import json
import random

_FIRST = (
    "Ada", "Ben", "Clara", "David", "Elena", "Felix", "Grace", "Hugo",
    "Irene", "Jonas", "Kira", "Leo", "Maria", "Nils", "Olga", "Pablo",
)  # fmt: skip
_LAST = (
    "Adler", "Brandt", "Costa", "Duarte", "Evans", "Fischer", "Garcia", "Hansen",
    "Ivanov", "Jensen", "Keller", "Lopez", "Moreau", "Novak", "Olsen", "Park",
)  # fmt: skip
_CITIES = {
    "Berlin": "Germany", "Bogota": "Colombia", "Cairo": "Egypt", "Geneva": "Switzerland",
    "Kyoto": "Japan", "Lima": "Peru", "Lisbon": "Portugal", "Madrid": "Spain",
    "Milan": "Italy", "Oslo": "Norway", "Paris": "France", "Seoul": "Korea",
}  # fmt: skip
_HELD_OUT_EVERY = 20


def is_held_out(left: int, right: int) -> bool:
    """Whether no training or validation text ever shows this sum, in either order (about 5%)."""
    low, high = sorted((left, right))
    return (low * 37 + high * 61) % _HELD_OUT_EVERY == 0


def sums(size_bytes: int, seed: int) -> str:
    """At least `size_bytes` of additions such as ``23+45=68``, one a line, operands 0 to 99.

    Three lines in ten add two single digits, from which the units column is learnt soonest; the
    rest draw both operands uniformly from 0 to 99.
    Held-out pairs (`is_held_out`) with two digits each never occur.
    """
    rng = random.Random(seed)
    lines: list[str] = []
    size = 0
    while size < size_bytes:
        top = 9 if rng.random() < 0.3 else 99
        left, right = rng.randint(0, top), rng.randint(0, top)
        if left > 9 and right > 9 and is_held_out(left, right):
            continue
        line = f"{left}+{right}={left + right}\n"
        lines.append(line)
        size += len(line)
    return "".join(lines)


def records(size_bytes: int, seed: int) -> str:
    """At least `size_bytes` of JSON records, one a line: ids count up, a city fixes its country."""
    rng = random.Random(seed)
    lines: list[str] = []
    size, identifier = 0, 1000
    while size < size_bytes:
        identifier = identifier + 1 if identifier < 9999 else 1000
        city = rng.choice(list(_CITIES))
        record = {
            "id": identifier,
            "name": f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
            "city": city,
            "country": _CITIES[city],
            "age": rng.randint(20, 79),
            "active": rng.random() < 0.8,
        }
        line = json.dumps(record) + "\n"
        lines.append(line)
        size += len(line)
    return "".join(lines)
