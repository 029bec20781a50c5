"""Which token each row of a batch goes on from, so that every text can be read back.

A batch has ``per_prompt`` rows for each prompt, one prompt after the other: its beams, or its
sampled answers. Beam search moves rows about between steps; transformers says how.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.events import TOKENS, Rows

Ints = NDArray[np.int64]
_FIELDS = TOKENS.names or ()
_SEQUENCE, _BEAM, _POSITION, _ID, _PARENT = (
    _FIELDS.index(name) for name in ("sequence", "beam", "position", "id", "parent")
)


@dataclass(frozen=True)
class _State:
    """What is known of each row of the batch; all shape ``(rows,)``."""

    last: Ints
    """Row of the tokens table of its newest token, -1 before the first."""
    processed: Ints
    """Generated tokens that steps have processed."""
    ended: NDArray[np.bool_]
    """Whether its text is complete: what it computes from now on is padding."""

    @classmethod
    def new(cls, rows: int) -> _State:
        none = np.zeros(rows, dtype=np.int64)
        return cls(none - 1, none, none > 0)


class Lineage:
    """Follows the rows of one run's batch through its steps; makes their rows of the tokens table.

    Args:
        prompt_tokens: width of the prompt, left padding included; later columns are generated.
        per_prompt: rows of the batch for each prompt.
        ends: ids that end a text when they are generated (none in beam search: beams that run
            have not ended).
        padding: an id that also tells that a text ended before it, where others than ``ends``
            may end one.
    """

    def __init__(
        self,
        prompt_tokens: int = 0,
        per_prompt: int = 1,
        ends: Iterable[int] = (),
        padding: int | None = None,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.per_prompt = per_prompt
        self._ends = tuple(ends)
        self._padding = padding if self._ends else None
        self._filler = (*self._ends, padding) if self._ends and padding is not None else self._ends
        self._state = _State.new(0)
        self._next: tuple[_State, int, int, bool] | None = None
        self._count = 0
        self._tails: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"Lineage({len(self._state.last)} rows, {self.per_prompt} per prompt)"

    def block(self, ids: Ints | None, shape: tuple[int, int], past: int, mask: Ints | None) -> Rows:
        """Rows of the tokens table for a forward pass of ``shape`` ``(rows, length)``.

        ``ids`` has that shape (None: embeddings came instead), ``mask`` ``(rows, past + length)``
        is 0 on padding. The column ``step`` is left at 0. Nothing changes before :meth:`commit`.
        """
        rows, length = shape
        state = self._state if past and len(self._state.last) == rows else _State.new(rows)
        columns = np.arange(past, past + length)
        real = np.ones(shape, dtype=bool) if mask is None else mask[:, past:] > 0  # (rows, length)
        if mask is None:
            positions = np.broadcast_to(columns, shape)
        else:
            positions = mask.cumsum(axis=1)[:, past:] - 1
        generated = columns >= self.prompt_tokens if self.prompt_tokens else columns < 0
        ended = state.ended
        if self._filler and ids is not None:
            closing = np.isin(ids, self._filler) & generated
            over = np.logical_or.accumulate(np.c_[ended, closing], axis=1)
            real, ended = real & ~over[:, 1:], over[:, -1]
        number = self._count + np.arange(rows * length).reshape(shape)
        newest = np.maximum.accumulate(np.c_[state.last, np.where(real, number, -1)], axis=1)
        made = np.zeros((rows * length, len(_FIELDS)), dtype=np.int64)
        sequence, beam = self._places(rows)
        made[:, _SEQUENCE], made[:, _BEAM] = np.repeat(sequence, length), np.repeat(beam, length)
        made[:, _POSITION] = np.where(real, positions, -1).ravel()
        made[:, _ID] = -1 if ids is None else ids.ravel()
        made[:, _PARENT] = np.where(real, newest[:, :-1], -1).ravel()
        processed = state.processed + (real & generated).sum(axis=1)
        after = _State(newest[:, -1], processed, ended)
        self._next = after, rows * length, length, past + length >= self.prompt_tokens
        return made

    def commit(self) -> None:
        """The tokens of the newest :meth:`block` were written down. Later calls do nothing."""
        if self._next is None:
            return
        self._state, count, length, whole = self._next
        self._next = None
        if whole:
            self._tails.append((self._count, length))
        self._count += count

    def reorder(self, chosen: Ints) -> None:
        """Row i of the batch goes on from what was row ``chosen[i]``, as beam search decides."""
        state = self._state
        self._state = replace(
            state,
            last=state.last[chosen],
            processed=state.processed[chosen],
            ended=state.ended[chosen],
        )

    def unprocessed(self, table: Rows, tokens: Iterable[Iterable[int]]) -> Rows:
        """Rows (``step`` -1) for the last token of each row of the batch, which no step processed.

        ``tokens`` are those that each row generated, in the batch's order; ``table`` is the tokens
        table so far.
        """
        sequence, beam = self._places(len(self._state.last))
        found: list[tuple[int, ...]] = []
        batch = zip(tokens, self._state.last, self._state.processed, strict=False)
        for row, (ids, last, processed) in enumerate(batch):
            for token in list(ids)[processed : processed + 1]:
                if token != self._padding or token in self._ends:
                    place = int(sequence[row]), int(beam[row])
                    found.append((-1, *place, int(table[last, _POSITION]) + 1, token, int(last)))
        return np.array(found, dtype=np.int64).reshape(-1, len(_FIELDS))

    def answers(self, table: Rows, tokens: list[list[int]], beams: list[list[int]]) -> Rows:
        """Rows (``step`` -1) for the last token of each answer of a beam search, the best first.

        ``beams`` has, for each token of each answer, the row of the batch that it was chosen from;
        ``beam`` of these rows is the rank of the answer among its prompt's.
        """
        prompts = max(len(self._state.last) // self.per_prompt, 1)
        found: list[tuple[int, ...]] = []
        for number, (ids, chosen) in enumerate(zip(tokens, beams, strict=True)):
            sequence, rank = divmod(number, len(tokens) // prompts)
            first, length = self._tails[len(ids) - 1]
            last = first + (chosen[len(ids) - 1] + 1) * length - 1
            found.append((-1, sequence, rank, int(table[last, _POSITION]) + 1, ids[-1], last))
        return np.array(found, dtype=np.int64).reshape(-1, len(_FIELDS))

    def so_far(self, table: Rows) -> list[list[int]]:
        """Generated tokens that each row of the batch now goes on from, as far as processed."""
        parents, ids = table[:, _PARENT], table[:, _ID]
        pairs = zip(self._state.last.tolist(), self._state.processed.tolist(), strict=True)
        return [ids[path(parents, last)][-many:].tolist() if many else [] for last, many in pairs]

    def _places(self, rows: int) -> tuple[Ints, Ints]:
        """Of each row of the batch: its prompt, and its number among that prompt's rows."""
        per_prompt = self.per_prompt if rows % self.per_prompt == 0 else 1
        sequence, beam = np.divmod(np.arange(rows), per_prompt)
        return sequence, beam


def path(parents: Ints, row: int) -> Ints:
    """Rows that led to ``row``, from the first of its text on, itself included."""
    rows: list[int] = []
    while row >= 0:
        rows.append(row)
        before = int(parents[row])
        row = before if before < row else -1  # so that it ends, whatever the column holds
    return np.array(rows[::-1], dtype=np.int64)


def searched(tokens: dict[str, Ints]) -> Ints:
    """Sequences (of a tokens table) that beam search ran: several tokens follow the same one."""
    if not tokens["beam"].any():
        return np.zeros(0, dtype=np.int64)
    follows = tokens["parent"] >= 0
    _, at, many = np.unique(tokens["parent"][follows], return_inverse=True, return_counts=True)
    return np.unique(tokens["sequence"][follows][many[at] > 1])


def best_path(tokens: dict[str, Ints], sequence: int) -> Ints:
    """Rows of the first answer to a prompt: of the best beam, where beams were searched."""
    real = (tokens["sequence"] == sequence) & (tokens["beam"] == 0) & (tokens["position"] >= 0)
    rows = np.flatnonzero(real)
    return path(tokens["parent"], int(rows[-1])) if len(rows) else rows
