"""A popularity profile: how many tokens each expert got on some text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.destination import writing
from engine.errors import InputError
from engine.sample import Sample
from engine.strict import several, whole

Ints = NDArray[np.int64]


class Recorded(Protocol):
    """What a profile can be counted on: a trace (which is in a row below this one)."""

    @property
    def model(self) -> Any: ...
    @property
    def unpadded(self) -> Any: ...
    @property
    def token_rows(self) -> Any: ...
    @cached_property
    def tokens(self) -> Mapping[str, NDArray[np.int64]]: ...
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
    sample: Sample | None = None
    """Where tokens of that text went, one by one; None where only the counts are known."""

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

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: all but the memo."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def memo(self) -> dict[Hashable, Any]:
        """What planners worked out from this profile, by what else they looked at."""
        return {}

    @classmethod
    def of(
        cls, counts: NDArray[np.int64], tokens: int, source: str, sample: Sample | None = None
    ) -> Self:
        """A profile from an array of counts, shape ``(layers, experts)``."""
        return cls(tuple(tuple(row) for row in counts.tolist()), tokens, source, sample)

    @classmethod
    def from_choices(
        cls,
        choices: NDArray[np.integer[Any]],
        experts: int,
        source: str,
        starts: Iterable[int] = (0,),
    ) -> Self:
        """Counted on choices, shape ``(tokens, layers, top_k)``, which become its sample.

        ``starts``: tokens at which another piece of text begins. Without tokens, or where one
        names an expert twice, there is no sample.
        """
        tokens, layers, _ = choices.shape
        flat: Ints = np.arange(layers, dtype=np.int64)[:, None] * experts + choices
        counts = np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)
        sample = _sample(choices, experts, starts)
        return cls.of(counts.astype(np.int64), tokens, source, sample)

    @classmethod
    def from_trace(cls, trace: Recorded, source: str | None = None) -> Self:
        """Counted on a :class:`~engine.trace.Trace`: tokens that went to each expert, prompts too;
        the padding of a batch does not count.

        ``source`` says in words what text it was; None: its prompt, as far as the trace knows it.
        Its sample holds the tokens that went through every layer, sequence by sequence. Raises
        InputError for what is no trace.
        """
        if not hasattr(trace, "unpadded"):
            raise InputError(
                f"profile: expected a Trace, got {type(trace).__name__}; of a run give run.trace, "
                "of a file Trace.load(path)"
            )
        layers, experts = trace.model.grid
        routing = trace.unpadded
        flat = routing.flat(experts)
        counts = np.bincount(flat, minlength=layers * experts).reshape(layers, experts)
        source = text_of(trace) if source is None else source
        choices = np.full((len(trace.token_rows), layers, routing.experts.shape[1]), -1, np.int16)
        choices[routing.token, routing.layer] = routing.experts
        sequence, position = trace.tokens["sequence"], trace.tokens["position"]
        order = np.argsort(sequence, kind="stable")
        whole: NDArray[np.bool_] = np.all(choices >= 0, axis=(1, 2))
        order = order[whole[order]]
        onward = np.diff(position[order], prepend=-2) == 1
        onward &= np.diff(sequence[order], prepend=-1) == 0
        sample = _sample(choices[order], experts, np.flatnonzero(~onward).tolist())
        return cls.of(counts.astype(np.int64), len(np.unique(routing.token)), source, sample)

    @classmethod
    def uniform(cls, grid: tuple[int, int]) -> Self:
        """No knowledge: every expert counts the same. ``grid``: layers, experts.

        Raises InputError for what is no grid.
        """
        found = several("profile, grid", grid)
        if len(found) != 2:
            raise InputError(f"profile, grid: expected (layers, experts), got {grid!r}")
        grid = tuple(whole("profile, grid", number, least=1) for number in found)  # pyright: ignore[reportAssignmentType]
        return cls.of(np.ones(grid, dtype=np.int64), 0, "nothing (uniform)")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {
            "counts": [list(row) for row in self.counts],
            "tokens": self.tokens,
            "source": self.source,
        }
        return values if self.sample is None else values | {"sample": self.sample.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where that is not possible."""
        try:
            values = dict(values)
            rows = tuple(tuple(row) for row in values["counts"])
            made = cls(rows, values["tokens"], str(values["source"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a profile: {error!r}; expected counts, tokens and source"
            ) from error
        if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
            raise InputError("not a profile: counts must be rows of equal length, not empty")
        for count in (made.tokens, *(count for row in rows for count in row)):
            if type(count) is not int or not 0 <= count < 2**63:
                raise InputError(f"not a profile: expected whole numbers from 0, got {count!r}")
        if values.get("sample") is None:  # profiles of earlier versions have none
            return made
        return replace(made, sample=Sample.from_dict(values["sample"], made.grid))

    def save(self, path: str | Path) -> Path:
        """Write as JSON and return the path; makes its folder.

        Raises InputError where it cannot be written.
        """
        with writing(path) as path:
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


def _sample(
    choices: NDArray[np.integer[Any]], experts: int, starts: Iterable[int]
) -> Sample | None:
    """The sample of choices ``(tokens, layers, top_k)``; None where there can be none.

    Who goes by a sample takes a token's choices for different experts. Those of a router that
    looks them up in a table need not be.
    """
    ascending = np.sort(choices, axis=2)
    if not len(choices) or (np.diff(ascending, axis=2) == 0).any():
        return None
    return Sample.of(ascending, experts, starts)


def text_of(trace: Recorded) -> str:
    """What text a trace is of, in words: its prompt, as far as the trace knows it."""
    prompt = trace.meta.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "a recorded run"
    return f"a run that began {textwrap.shorten(prompt, 60, placeholder=' ...')!r}"
