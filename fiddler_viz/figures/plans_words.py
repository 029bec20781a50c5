"""Two plans in words and rows: figures with their units, the difference and the ratio."""

from __future__ import annotations

import math

from engine.comparison import Comparison, Figure, unlike
from engine.events import Clock
from engine.units import format_bytes
from fiddler_viz.theme import percent, rate

CLOCKS = {Clock.MODELLED: "modelled", Clock.MEASURED: "measured"}


def rows_of(found: Comparison) -> tuple[list[str], list[str], list[str], list[str]]:
    """Names of the figures; A's, B's, and what lies between, all in words; raw text."""
    figures = found.figures
    return (
        [figure.name for figure in figures],
        [_value(figure, figure.a, figure.a_low, figure.a_high) for figure in figures],
        [_value(figure, figure.b, figure.b_low, figure.b_high) for figure in figures],
        [_between(figure) for figure in figures],
    )


def _value(figure: Figure, value: float, low: float, high: float) -> str:
    told = _plain(figure, value)
    if math.isfinite(low) and low < high:
        return f"{told}, {rate(low).split()[0]} to {rate(high).split()[0]}"
    return told


def _plain(figure: Figure, value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if figure.unit == "tokens/s":
        return rate(value)
    if figure.unit == "bytes":
        return format_bytes(round(value))
    return percent(value) if figure.unit == "share" else f"{value:,.0f}"


def _between(figure: Figure) -> str:
    difference = figure.difference
    if not math.isfinite(difference):
        return "-"
    sign = "−" if difference < 0 else "+"
    if _plain(figure, abs(difference)) == _plain(figure, 0.0):
        sign = "±"  # nothing that could be seen in these digits
    if figure.unit == "share":  # of a share: points, not percents of it
        return f"{sign}{100 * abs(difference):.3g} points"
    told = f"{sign}{_plain(figure, abs(difference))}"
    return f"{told} (×{times(figure.ratio)})" if math.isfinite(figure.ratio) else told


def times(ratio: float) -> str:
    """A ratio with three digits: ``0.596``, ``23,200``."""
    return f"{float(f'{ratio:.3g}'):,.7f}".rstrip("0").rstrip(".")


def differing(found: Comparison) -> str:
    """What the two plans differ in, and how sure the speeds are; raw text."""
    changes = unlike(found.a, found.b)
    words = "; ".join(f"{name} {a} in A, {b} in B" for name, (a, b) in changes.items())
    said = f"{words}." if words else "A and B are the same plan."
    a, b = CLOCKS[found.a.clock], CLOCKS[found.b.clock]
    clocks = f" Both {a}." if a == b else f" A {a}, B {b}."
    speed = found["speed"]
    unsure = " Their intervals meet: which is faster is not certain." if speed.overlap else ""
    return said + clocks + (unsure if speed.a != speed.b else "")


def describe_plans(found: Comparison) -> str:
    """The comparison in a few plain sentences; raw text."""
    names, a, b, between = rows_of(found)
    rows = zip(names, a, b, between, strict=True)
    told = "; ".join(f"{name}: {one} against {two}, {gap}" for name, one, two, gap in rows)
    return f"{differing(found)} {told[:1].upper()}{told[1:]}."
