from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from engine.errors import UnknownNameError
from engine.events import Action, Lane
from engine.residency import Memory, Place
from fiddler_viz import theme as t


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("kinds", [t.SEGMENTS, t.ACTIONS, t.PLACES, t.MEMORY])
def test_kinds_differ_in_colour_and_in_letter(kinds: dict[object, t.Kind]) -> None:
    for one, other in combinations(kinds.values(), 2):
        assert one.color != other.color
        assert one.letter != other.letter
        assert one.label != other.label


def test_every_kind_of_the_engine_has_a_look() -> None:
    assert set(t.ACTIONS) == set(Action)
    assert set(t.PLACES) == set(Place)
    assert set(t.LANES) == set(Lane)
    assert set(t.MEMORY) == set(Memory.__annotations__) - {"budget"}


def test_bars_of_actions_differ_in_pattern() -> None:
    """Resident is solid; what did not find its expert on the device is hatched."""
    assert len({kind.pattern for kind in t.ACTIONS.values()}) == len(Action)
    assert len({kind.marker for kind in t.ACTIONS.values()}) == len(Action)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_can_be_read(name: str) -> None:
    look = t.theme(name)
    for background in (look.paper, look.panel):
        assert contrast(look.text, background) >= 7
        assert contrast(look.muted, background) >= 4.5


def test_auto_can_be_read_on_white_and_on_dark() -> None:
    for background in (t.theme("light").paper, t.theme("dark").paper):
        assert contrast(t.theme("auto").text, background) >= 3.9


def test_light_colours_stand_for_themselves() -> None:
    """The page turns dark by replacing them, so nothing else may have one of them."""
    light, dark = vars(t.theme("light")), vars(t.theme("dark"))
    colors = [value for value in light.values() if value.startswith("#")]
    assert len(set(colors)) == len(colors)
    kinds = (t.SEGMENTS, t.ACTIONS, t.PLACES, t.MEMORY)
    assert not {kind.color for group in kinds for kind in group.values()} & set(colors)
    assert not set(colors) & set(dark.values())


def test_theme_is_a_name_or_a_theme() -> None:
    assert t.theme(t.theme("dark")) is t.theme("dark")
    with pytest.raises(UnknownNameError, match="light, dark, auto"):
        t.theme("drak")
    wrong: list[Any] = [[], {}, None, np.array([1, 2])]
    for value in wrong:
        with pytest.raises(UnknownNameError, match="light, dark, auto"):
            t.theme(value)


def test_shades_are_cividis_and_their_ink_can_be_read() -> None:
    from plotly.colors import sequential

    shades = [t.shade(i / 9) for i in range(10)]
    assert [shade for shade, _ in shades] == sequential.Cividis
    assert all(contrast(shade, ink) >= 4.2 for shade, ink in shades)
    assert t.shade(-1) == t.shade(0) and t.shade(2) == t.shade(1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ques", "ques"),
        (" be", " be"),
        ("\n", "↵"),
        (" \n", " ↵"),
        ("  ", "␣␣"),
        (" ", "␣"),
        ("", ""),
        ("a\tb", "a⇥b"),
        ("\x00\u202e", "\N{REPLACEMENT CHARACTER}" * 2),
        ("x" * 30, "x" * 23 + "…"),
    ],
)
def test_tokens_are_shown_in_one_line(text: str, shown: str) -> None:
    assert t.show_token(text) == shown


def test_safe_leaves_no_markup_and_no_mathematics() -> None:
    assert not re.search(r"[<>\"'$]|&(?!\w+;|#)", t.safe("<b>\"'$x$ & &lt;"))


def test_numbers() -> None:
    assert [t.percent(x) for x in (0, 0.004, 0.0996, 0.25, 1, float("nan"))] == [
        "0%",
        "0.4%",
        "10%",
        "25%",
        "100%",
        "-",
    ]
    assert [t.rate(x) for x in (2.9, 12.34, 345.6, float("nan"))] == [
        "2.90 tok/s",
        "12.3 tok/s",
        "346 tok/s",
        "-",
    ]
    assert (t.count(1, "token"), t.count(1234, "token")) == ("1 token", "1,234 tokens")
