"""A popularity profile: how many tokens each expert got on some text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError


class Recorded(Protocol):
    """What a profile can be counted on: a trace (which is in a row below this one)."""

    @property
    def model(self) -> Any: ...
    @property
    def routing(self) -> Any: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Profile:
    """Counted choices of the router, measured on a named text; what planners rank experts by."""

    counts: tuple[tuple[int, ...], ...]
    """Tokens routed to each expert, ``layers`` rows of ``experts``."""
    tokens: int
    """Tokens counted."""
    source: str
    """What text it was measured on, in words."""

    def __repr__(self) -> str:
        layers, experts = self.grid
        return f"Profile({layers} x {experts}, {self.tokens} tokens of {self.source})"

    @property
    def grid(self) -> tuple[int, int]:
        """MoE layers, experts per layer."""
        return len(self.counts), len(self.counts[0]) if self.counts else 0

    @property
    def array(self) -> NDArray[np.int64]:
        """Counts, shape ``(layers, experts)``."""
        return np.array(self.counts, dtype=np.int64).reshape(self.grid)

    @classmethod
    def of(cls, counts: NDArray[np.int64], tokens: int, source: str) -> Self:
        """A profile from an array of counts, shape ``(layers, experts)``."""
        return cls(tuple(tuple(row) for row in counts.tolist()), tokens, source)

    @classmethod
    def from_trace(cls, trace: Recorded, source: str | None = None) -> Self:
        """Counted on a :class:`~engine.trace.Trace`: tokens that went to each expert, prompts too.

        ``source`` says in words what text it was; None: its prompt, as far as the trace knows it.
        """
        layers, experts = trace.model.grid
        flat = trace.routing.flat(experts)
        counts = np.bincount(flat, minlength=layers * experts).reshape(layers, experts)
        tokens = len(np.unique(trace.routing.token))
        if source is None:
            prompt = trace.meta.get("prompt")
            source = "a recorded run"
            if isinstance(prompt, str) and prompt.strip():
                source = f"a run that began {textwrap.shorten(prompt, 60, placeholder=' ...')!r}"
        return cls.of(counts.astype(np.int64), tokens, source)

    @classmethod
    def uniform(cls, grid: tuple[int, int]) -> Self:
        """No knowledge: every expert counts the same."""
        return cls.of(np.ones(grid, dtype=np.int64), 0, "nothing (uniform)")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "counts": [list(row) for row in self.counts],
            "tokens": self.tokens,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where that is not possible."""
        try:
            rows = tuple(tuple(row) for row in values["counts"])
            made = cls(rows, values["tokens"], str(values["source"]))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"not a profile: {error!r}; expected counts, tokens and source"
            ) from error
        if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
            raise InputError("not a profile: counts must be rows of equal length, not empty")
        for count in (made.tokens, *(count for row in rows for count in row)):
            if type(count) is not int or not 0 <= count < 2**63:
                raise InputError(f"not a profile: expected whole numbers from 0, got {count!r}")
        return made

    def save(self, path: str | Path) -> Path:
        """Write as JSON and return the path."""
        path = Path(path)
        path.write_text(json.dumps(self.to_dict()) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; raises InputError where that is not what ``path`` is."""
        if not isinstance(path, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                "profile: expected a Profile or the path of a file that Profile.save() wrote, got "
                f"{type(path).__name__}"
            )
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"cannot read the profile {path}: {error}") from error
