"""Routing: which experts the router chose for each token, row by row."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from engine.decision import Batch, Ragged
from engine.events import locked


@dataclass(frozen=True)
class Routing:
    """Which experts each token went to, one row per (step, layer, token), in the order run.

    Its columns cannot be written to.
    """

    step: NDArray[np.int32]
    layer: NDArray[np.int32]
    token: NDArray[np.int32]
    """Row of the ``tokens`` table."""
    experts: NDArray[np.int16]
    """Shape ``(rows, top_k)``: the router's choices, in the order the model gave them."""
    weights: NDArray[np.float32]
    """Shape ``(rows, top_k)``: the weight of each choice."""
    predicted: NDArray[np.int16] | None = None
    """Shape ``(rows, top_k)``: what the next layer was predicted to choose, -1: nothing was; None
    where nothing was predicted at all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            if column is not None:
                object.__setattr__(self, field.name, locked(column))

    def __len__(self) -> int:
        return len(self.step)

    @classmethod
    def none(cls, top_k: int) -> Routing:
        """No rows."""
        number = np.zeros(0, dtype=np.int32)
        experts = np.zeros((0, top_k), dtype=np.int16)
        return cls(number, number, number, experts, np.zeros((0, top_k), dtype=np.float32))

    def flat(self, experts: int) -> NDArray[np.int64]:
        """Of every choice ``layer * experts + expert``, row by row; ``experts`` per layer."""
        return (self.layer.astype(np.int64)[:, None] * experts + self.experts).ravel()

    def where(self, wanted: NDArray[np.bool_] | slice) -> Routing:
        """Only the rows for which ``wanted`` is true, or a slice of them (no copy)."""
        return Routing(
            step=self.step[wanted],
            layer=self.layer[wanted],
            token=self.token[wanted],
            experts=self.experts[wanted],
            weights=self.weights[wanted],
            predicted=None if self.predicted is None else self.predicted[wanted],
        )

    def and_then(self, other: Routing) -> Routing:
        """These rows, then those of ``other``."""
        some = self.predicted is not None or other.predicted is not None
        return Routing(
            step=np.concatenate((self.step, other.step)),
            layer=np.concatenate((self.layer, other.layer)),
            token=np.concatenate((self.token, other.token)),
            experts=np.concatenate((self.experts, other.experts)),
            weights=np.concatenate((self.weights, other.weights)),
            predicted=np.concatenate((self.foreseen(), other.foreseen())) if some else None,
        )

    def foreseen(self) -> NDArray[np.int16]:
        """``predicted``, all -1 where nothing was."""
        if self.predicted is not None:
            return self.predicted
        return np.full(self.experts.shape, -1, dtype=np.int16)

    def batch(self, grid: tuple[int, int], tokens: NDArray[np.int64]) -> Batch:
        """Active experts of every layer of every step: what a policy is asked.

        ``grid`` is ``(layers, experts)``; ``tokens`` holds, for each step, the tokens in it.
        """
        layers, experts = grid
        key = self.step.astype(np.int64) * layers + self.layer
        begins = np.diff(key, prepend=-1) != 0
        pairs = (np.cumsum(begins) - 1)[:, None] * experts + self.experts.astype(np.int64)
        order = np.argsort(pairs, axis=None, kind="stable")
        ordered = pairs.ravel()[order]
        at = np.flatnonzero(np.diff(ordered, prepend=-1))
        active = ordered[at]
        rank = np.empty_like(order)  # of each choice: its entry
        rank[order] = np.repeat(np.arange(len(at)), np.diff(at, append=len(order)))
        step = self.step[begins].astype(np.int64)
        return Batch(
            columns=experts,
            step=step,
            layer=self.layer[begins].astype(np.int64),
            tokens=tokens[step],
            segment=active // experts,
            expert=active % experts,
            count=np.diff(at, append=len(order)),
            # added up in the routing's order, one by one: exactly what the engine adds up
            weight=np.bincount(rank, weights=self.weights.ravel(), minlength=len(at)).astype(
                np.float64
            ),
            predicted=None if self.predicted is None else self._predictions(begins, experts),
        )

    def _predictions(self, begins: NDArray[np.bool_], experts: int) -> Ragged:
        """Per segment: the experts predicted for the next layer, of all its tokens."""
        segment = np.cumsum(begins) - 1
        foreseen = self.foreseen().astype(np.int64)  # (rows, top_k)
        found = np.unique((segment[:, None] * experts + foreseen)[foreseen >= 0])
        return Ragged.of_segments(found // experts, found % experts, int(begins.sum()))
