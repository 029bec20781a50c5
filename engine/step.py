"""What a forward pass is about to process, read off its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.errors import FiddlerError
from engine.events import TOKENS, Rows, StepKind, empty
from engine.lineage import Lineage

Texts = Callable[[list[int]], list[str]]
"""Token ids -> the text of each."""


@dataclass(frozen=True)
class StepInput:
    """What a forward pass is about to process."""

    kind: StepKind
    tokens: int
    """Tokens in all sequences, padding included: it is computed too."""
    sequences: int
    context: int
    """KV positions read, summed over sequences."""
    rows: Rows
    """Rows of the tokens table, without their step."""
    texts: Sequence[str]


def step_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], texts: Texts, lineage: Lineage | None
) -> StepInput:
    """Read a forward pass's size, positions and tokens off its arguments.

    Without ``lineage`` (nothing is recorded) it has no rows and no texts.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    embeds = kwargs.get("inputs_embeds")
    if ids is None and embeds is None:
        raise FiddlerError("the model was called without input_ids or inputs_embeds")
    sequences, length = (ids if ids is not None else embeds).shape[:2]
    cache = kwargs.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    mask = kwargs.get("attention_mask")
    if torch.is_tensor(mask) and mask.ndim == 2 and mask.shape[1] == past + length:
        mask = mask.cpu().numpy().astype(np.int64)  # (sequences, past + length)
    else:
        mask = None
    rows, shown = empty(TOKENS), list[str]()
    if lineage is not None:
        known = None if ids is None else ids.cpu().numpy()  # (sequences, length)
        rows = lineage.block(known, (sequences, length), past, mask)
        shown = texts([] if known is None else known.ravel().tolist())
    decode = length == 1 and past >= max(lineage.prompt_tokens if lineage else 0, 1)
    return StepInput(
        kind=StepKind.DECODE if decode else StepKind.PREFILL,
        tokens=sequences * length,
        sequences=sequences,
        context=sequences * (past + length) if mask is None else int(mask.sum()),
        rows=rows,
        texts=shown,
    )
