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
        if shape == (1, 1) and past and mask is None and ids is not None:
            return self._one(int(ids[0, 0]), past)
        rows, length = shape
        state = self._state if past and len(self._state.last) == rows else _State.new(rows)
        columns = np.arange(past, past + length)
        generated = columns >= (self.prompt_tokens or past + length)
        if mask is None:
            real, positions = np.ones(shape, dtype=bool), columns
        else:
            real, positions = mask[:, past:] > 0, mask.cumsum(axis=1)[:, past:] - 1
        ended = state.ended
        if self._filler and ids is not None and generated[-1]:
            over = np.zeros(shape, dtype=bool)
            for end in self._filler:
                over |= ids == end
            over = np.logical_or.accumulate(over & generated, axis=1) | ended[:, None]
            real, ended = real & ~over, over[:, -1]
        number = np.arange(self._count, self._count + rows * length).reshape(shape)
        seen = np.where(real, number, -1)  # (rows, length)
        newest = np.empty((rows, length + 1), dtype=np.int64)
        newest[:, 0] = state.last
        np.maximum.accumulate(seen, axis=1, out=newest[:, 1:])
        np.maximum(newest[:, 1:], state.last[:, None], out=newest[:, 1:])
        made = np.zeros((*shape, len(_FIELDS)), dtype=np.int64)
        sequence, beam = self._places(rows)
        made[..., _SEQUENCE], made[..., _BEAM] = sequence[:, None], beam[:, None]
        made[..., _POSITION] = np.where(real, positions, -1)
        made[..., _ID] = -1 if ids is None else ids
        made[..., _PARENT] = np.where(real, newest[:, :-1], -1)
        processed = state.processed + (real & generated).sum(axis=1)
        after = _State(newest[:, -1], processed, ended)
        self._next = after, rows * length, length, past + length >= self.prompt_tokens
        return made.reshape(-1, len(_FIELDS))

    def _one(self, token: int, past: int) -> Rows:
        """:meth:`block` for one token of one text: nearly every decode step, so it has to be cheap.

        The tests run all through both.
        """
        state = self._state if len(self._state.last) == 1 else _State.new(1)
        generated = past >= self.prompt_tokens > 0
        if state.ended[0] or (generated and token in self._filler):
            place, state = (-1, token, -1), replace(state, ended=np.ones(1, dtype=bool))
        else:
            place = (past, token, int(state.last[0]))
            last = np.array([self._count], dtype=np.int64)
            state = _State(last, state.processed + generated, state.ended)
        self._next = state, 1, 1, past + 1 >= self.prompt_tokens
        return np.array([(0, 0, 0, *place)], dtype=np.int64)

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
