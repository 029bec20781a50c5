"""Lineage: every text can be read back from the tokens table, whatever became of its row."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.events import TOKENS, Rows, columns
from engine.lineage import Lineage, best_path, path, searched

Ints = NDArray[np.int64]
END, PAD = 3, 4


class Slow:
    """The same, one token at a time: each row of the batch is a list of rows of the table."""

    def __init__(self, rows: int, prompt_tokens: int, per_prompt: int, ends: bool) -> None:
        self.texts: list[list[int]] = [[] for _ in range(rows)]
        self.done = [False] * rows
        self.table: list[list[int]] = []
        self.prompt_tokens, self.per_prompt, self.ends = prompt_tokens, per_prompt, ends

    def block(self, step: int, ids: Ints, past: int, mask: Ints) -> None:
        for row, length in np.ndindex(ids.shape):
            column, token, text = past + length, int(ids[row, length]), self.texts[row]
            if self.ends and column >= self.prompt_tokens and token in (END, PAD):
                self.done[row] = True
            sequence, beam = divmod(row, self.per_prompt)
            position, parent = -1, -1
            if mask[row, column] and not self.done[row]:
                position, parent = len(text), text[-1] if text else -1
                text.append(len(self.table))
            self.table.append([step, sequence, beam, position, token, parent])

    def reorder(self, chosen: list[int]) -> None:
        self.texts = [list(self.texts[row]) for row in chosen]
        self.done = [self.done[row] for row in chosen]


def run(seed: int) -> tuple[Lineage, Slow, Rows, int]:
    """A batch with padding, a prompt in chunks, ends, beams that change places."""
    rng = random.Random(seed)
    per_prompt, prompts, width = rng.choice((1, 1, 2, 4)), rng.choice((1, 2, 3)), rng.randint(1, 7)
    rows, ends = prompts * per_prompt, rng.random() < 0.5
    gaps = np.repeat([rng.randrange(width) for _ in range(prompts)], per_prompt)
    lineage = Lineage(width, per_prompt, (END,) if ends else (), PAD)
    slow = Slow(rows, width, per_prompt, ends)
    blocks: list[Rows] = []
    column = step = 0
    while column < width + 6:
        length = min(rng.randint(1, 4), width - column) if column < width else 1
        ids = np.array([[rng.randrange(9) for _ in range(length)] for _ in range(rows)])
        mask = (np.arange(column + length) >= gaps[:, None]).astype(np.int64)
        seen = None if not gaps.any() and rng.random() < 0.5 else mask
        lineage.block(ids[::-1].copy(), (rows, length), column, seen)  # never written down
        blocks.append(lineage.block(ids, (rows, length), column, seen))
        blocks[-1][:, 0] = step
        lineage.commit()
        lineage.commit()
        slow.block(step, ids, column, mask)
        column, step = column + length, step + 1
        if column >= width and per_prompt > 1:
            chosen = [
                rng.randrange(per_prompt) + row // per_prompt * per_prompt for row in range(rows)
            ]
            lineage.reorder(np.array(chosen))
            slow.reorder(chosen)
    return lineage, slow, np.concatenate(blocks), width


@pytest.mark.parametrize("seed", range(60))
def test_against_a_slow_one(seed: int) -> None:
    lineage, slow, table, width = run(seed)
    assert table.tolist() == slow.table
    parents = table[:, 5]
    generated = lineage.so_far(table)
    for text, answer in zip(slow.texts, generated, strict=True):
        assert path(parents, text[-1] if text else -1).tolist() == text
        rows = [row for row in text if row >= first_generated(table, lineage, width)]
        assert answer == table[rows, 4].tolist()


def first_generated(table: Rows, lineage: Lineage, width: int) -> int:
    """Rows of the prompt: as many columns of each row of the batch."""
    return len(np.unique(table[:, 1:3], axis=0)) * width


def ran(lineage: Lineage, *blocks: list[list[int]], **masks: Any) -> Rows:
    """These ids through a lineage."""
    made: list[Rows] = []
    past = 0
    for step, block in enumerate(blocks):
        ids = np.array(block)
        mask = masks.get(f"mask{step}")
        made.append(lineage.block(ids, ids.shape, past, None if mask is None else np.array(mask)))
        made[-1][:, 0] = step
        lineage.commit()
        past += ids.shape[1]
    return np.concatenate(made) if made else np.zeros((0, 6), np.int64)


def test_a_text_that_ended_leaves_padding() -> None:
    """Its end is its last token, and was never processed as one; the other text goes on."""
    lineage = Lineage(2, 1, (END,))
    table = ran(lineage, [[1, 1], [2, 2]], [[5], [6]], [[5], [END]], [[5], [END]])
    assert table[4:, 3].tolist() == [2, 2, 3, -1, 4, -1]
    assert table[4:, 5].tolist() == [1, 3, 4, -1, 6, -1]
    last = lineage.unprocessed(table, [[5, 5, 5, 7], [6, END, END, END]])
    assert last.tolist() == [[-1, 0, 0, 5, 7, 8], [-1, 1, 0, 3, END, 5]]


def test_an_end_in_the_prompt_ends_nothing() -> None:
    lineage = Lineage(3, 1, (END,))
    table = ran(lineage, [[END, 1, END]], [[5]])
    assert table[:, 3].tolist() == [0, 1, 2, 3]


def test_padding_that_tells_of_another_end() -> None:
    """A stop string ended it: transformers fills its row up, which nobody generated."""
    lineage = Lineage(1, 1, (END,), PAD)
    table = ran(lineage, [[1], [2]], [[5], [6]], [[5], [PAD]])
    assert table[:, 3].tolist() == [0, 0, 1, 1, 2, -1]
    last = lineage.unprocessed(table, [[5, 5, 7], [6, PAD, PAD]])
    assert last.tolist() == [[-1, 0, 0, 3, 7, 4]]


def test_stopped_before_or_right_after_the_prompt() -> None:
    lineage = Lineage(2)
    assert lineage.unprocessed(np.zeros((0, 6), np.int64), [[7]]).shape == (0, 6)
    table = ran(lineage, [[1, 1]])
    assert lineage.unprocessed(table, [[]]).shape == (0, 6)
    assert lineage.unprocessed(table, [[7]]).tolist() == [[-1, 0, 0, 2, 7, 1]]


def test_sequences_of_a_batch_end_each_at_its_own_position() -> None:
    lineage = Lineage(2)
    masks = {"mask0": [[1, 1], [0, 1]], "mask1": [[1, 1, 1], [0, 1, 1]]}
    table = ran(lineage, [[1, 1], [0, 1]], [[5], [6]], **masks)
    assert table[:, 3].tolist() == [0, 1, -1, 0, 2, 1]
    last = lineage.unprocessed(table, [[5, 8], [6, 9]])
    assert last.tolist() == [[-1, 0, 0, 3, 8, 4], [-1, 1, 0, 2, 9, 5]]


def test_answers_of_a_beam_search() -> None:
    """Two beams; the second answer ended a step before the first."""
    lineage = Lineage(1, 2)
    table = ran(lineage, [[1], [1]])
    lineage.reorder(np.array([0, 0]))
    more = lineage.block(np.array([[5], [6]]), (2, 1), 1, None)
    more[:, 0] = 1
    lineage.commit()
    table = np.concatenate([table, more])
    assert table[2:, 5].tolist() == [0, 0]
    last = lineage.answers(table, [[6, 7], [END]], [[0, 1], [0]])
    assert last.tolist() == [[-1, 0, 0, 2, 7, 3], [-1, 0, 1, 1, END, 0]]
    whole = columns(np.concatenate([table, last]), TOKENS)
    assert searched(whole).tolist() == [0]
    assert whole["id"][best_path(whole, 0)].tolist() == [1, 6, 7]
    assert searched(columns(table[:2], TOKENS)).tolist() == []
    assert best_path(whole, 1).tolist() == []


def test_sampled_answers_are_no_beam_search() -> None:
    table = columns(ran(Lineage(1, 2), [[1], [1]], [[5], [6]], [[7], [8]]), TOKENS)
    assert table["beam"].tolist() == [0, 1] * 3
    assert searched(table).tolist() == []


def test_another_batch_starts_over() -> None:
    """The model was called with other rows: nothing is made up about what they follow."""
    lineage = Lineage(1)
    ran(lineage, [[1], [2]])
    assert lineage.block(np.array([[5]]), (1, 1), 1, None)[:, 5].tolist() == [-1]
    assert lineage.block(None, (2, 1), 0, None)[:, 4:].tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize("parents", [[0, 1, 2], [1, 2, 0], [2**62, 5, 9], [-(2**62), 0, 2]])
def test_a_path_ends_whatever_the_column_holds(parents: list[int]) -> None:
    assert len(path(np.array(parents), 2)) <= 3
