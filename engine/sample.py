"""A sample of routing: which experts some thousand tokens of a text went to, packed small."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.strict import check_int, check_keys, check_text

SAMPLE_TOKENS = 2048
"""Tokens kept at most."""
_MOST_BYTES = 2**27
"""Of a sample unpacked, at most."""


@dataclass(frozen=True, repr=False)
class Sample:
    """The experts that tokens went to, in the order of the text. Hashable and comparable."""

    tokens: int
    layers: int
    top_k: int
    experts: int
    """Per layer."""
    starts: tuple[int, ...]
    """Tokens at which another piece of text begins; the first is 0."""
    packed: bytes = field(hash=False)
    """Compressed: low bytes, then high bytes, of the choices by layer, rank and token."""

    def __repr__(self) -> str:
        return (
            f"Sample({self.tokens} tokens in {len(self.starts)} pieces of text, top {self.top_k} "
            f"of {self.layers} x {self.experts})"
        )

    @classmethod
    def of(
        cls, choices: NDArray[np.integer[Any]], experts: int, starts: Iterable[int] = (0,)
    ) -> Self:
        """From choices, shape ``(tokens, layers, top_k)``: the last ``SAMPLE_TOKENS`` of them.

        A token's choices are sorted by expert.
        """
        dropped = max(len(choices) - SAMPLE_TOKENS, 0)
        kept = np.sort(choices[dropped:], axis=2)
        tokens, layers, top_k = kept.shape
        begins = sorted({0, *(start - dropped for start in starts if start > dropped)})
        planes = kept.transpose(1, 2, 0).astype("<i2").tobytes()  # (layers, top_k, tokens)
        split = np.frombuffer(planes, dtype=np.uint8).reshape(-1, 2).T.tobytes()
        return cls(tokens, layers, top_k, experts, tuple(begins), zlib.compress(split, 9))

    @cached_property
    def choices(self) -> NDArray[np.int16]:
        """Experts of each token, ascending; shape ``(tokens, layers, top_k)``. Not to be changed.

        Raises InputError where the packed bytes are not what the other fields say.
        """
        size = 2 * self.tokens * self.layers * self.top_k
        reader = zlib.decompressobj()
        try:
            split = reader.decompress(self.packed, size + 1)
        except zlib.error as error:
            raise InputError(f"not a sample of routing: {error}") from error
        if len(split) != size or reader.unconsumed_tail or not reader.eof or reader.unused_data:
            raise InputError(
                f"not a sample of routing: expected {size} bytes for {self.tokens} tokens, "
                f"{self.layers} layers and {self.top_k} choices, got something else"
            )
        values = np.frombuffer(split, dtype=np.uint8).reshape(2, -1).T.tobytes()
        planes = np.frombuffer(values, dtype="<i2").reshape(self.layers, self.top_k, self.tokens)
        made = np.ascontiguousarray(planes.transpose(2, 0, 1)).astype(np.int16)
        outside = made.min(initial=0) < 0 or made.max(initial=0) >= self.experts
        if outside or (np.diff(made, axis=2) <= 0).any():
            raise InputError(
                f"not a sample of routing: each token's choices must be {self.top_k} different "
                f"experts from 0 to {self.experts - 1}, ascending"
            )
        made.setflags(write=False)
        return made

    def pieces(self, tokens: int) -> NDArray[np.int64]:
        """Of each token the number of its piece, pieces cut to so many tokens at most.

        Numbers ascend from 0; shape ``(tokens,)``.
        """
        at = np.arange(self.tokens)
        first = np.array(self.starts)[np.searchsorted(self.starts, at, side="right") - 1]
        begins = (at - first) % tokens == 0
        return np.cumsum(begins) - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tokens": self.tokens,
            "top_k": self.top_k,
            "starts": list(self.starts),
            "packed": base64.b64encode(self.packed).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, values: object, grid: tuple[int, int]) -> Self:
        """Read back :meth:`to_dict`, of a model with this grid; raises InputError if unsound."""
        given: Mapping[str, Any] = check_keys(
            "sample of routing", values, ("tokens", "top_k", "starts", "packed")
        )
        for name in ("tokens", "top_k"):
            check_int(f"sample of routing, {name}", given[name], least=1)
        check_text("sample of routing, packed", given["packed"])
        layers, experts = grid
        tokens, top_k, starts = given["tokens"], given["top_k"], given["starts"]
        if 2 * tokens * layers * top_k > _MOST_BYTES:
            raise InputError(f"not a sample of routing: {tokens} tokens are more than it may hold")
        begins = _starts(starts, tokens)
        try:
            packed = base64.b64decode(given["packed"], validate=True)
        except ValueError as error:
            raise InputError(f"not a sample of routing: {error}") from error
        made = cls(tokens, layers, top_k, experts, begins, packed)
        _ = made.choices  # checked now, while the file is at hand
        return made


def _starts(values: object, tokens: int) -> tuple[int, ...]:
    found = cast("list[Any]", values) if isinstance(values, list) else []
    sound = all(type(value) is int and value < tokens for value in found)
    if not sound or found[:1] != [0] or any(a >= b for a, b in pairwise(found)):
        raise InputError(
            "not a sample of routing: starts must be a list of tokens, ascending from 0"
        )
    return tuple(found)
