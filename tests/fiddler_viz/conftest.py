"""Explorers that end with the test that opened them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fiddler_viz.explorer import Explorer


@pytest.fixture
def opened() -> Iterator[Callable[..., Explorer]]:
    """``opened(source, ...)`` opens an explorer."""
    explorers: list[Explorer] = []

    def make(*args: Any, **options: Any) -> Explorer:
        explorers.append(Explorer(*args, **options))
        return explorers[-1]

    yield make
    for explorer in explorers:
        explorer.close()
