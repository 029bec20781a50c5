"""Prompts: whatever a user hands over, as token ids."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InputError

Message = Mapping[str, Any]
"""One turn of a conversation: ``role`` and ``content``."""

PromptLike = (
    str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | Sequence[Message] | Tensor
)
"""Text, several texts (a batch), token ids, several lists of them (or ``(sequences, tokens)``), or
the messages of a chat."""


def encode(prompt: PromptLike, tokenizer: Any | None, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both ``(sequences, tokens)``; a batch is padded on the left.

    What a tokenizer returned may be padded on either side. Raises InputError for an empty prompt,
    ids outside the vocabulary, text without tokenizer, messages without chat template, or a mask
    that is none.
    """
    if isinstance(prompt, Mapping):  # what a tokenizer returns
        if "input_ids" not in prompt:
            raise InputError("prompt: a mapping needs input_ids, as a tokenizer returns them")
        ids, mask = prompt["input_ids"], prompt.get("attention_mask")
        return encode(ids if mask is None else _unmasked(ids, mask), tokenizer, vocabulary)
    if hasattr(prompt, "__array__") and not isinstance(prompt, Tensor):
        prompt = _of_array(np.asarray(prompt))
    if isinstance(prompt, Tensor):
        if prompt.ndim > 2 or prompt.dtype == torch.bool:
            raise InputError(
                f"prompt: expected token ids (tokens,) or (sequences, tokens), got a tensor "
                f"{tuple(prompt.shape)} of {prompt.dtype}"
            )
        if prompt.numel():
            prompt = prompt.reshape(-1, prompt.shape[-1] if prompt.ndim else 1)
        return _checked(prompt, vocabulary)
    if not isinstance(prompt, str | list | tuple):
        raise InputError(
            "prompt: expected text, a list of texts, token ids or chat messages, got "
            f"{type(prompt).__name__}"
        )
    items = [prompt] if isinstance(prompt, str) else list(prompt)
    for item in items:
        if isinstance(item, str):
            _check_encodable(item)
    blank = [i for i, item in enumerate(items, 1) if isinstance(item, str) and not item.strip()]
    if not items or blank:
        which = f"prompt {blank[0]} of {len(items)}" if len(items) > 1 else "the prompt"
        what = repr(items[blank[0] - 1] if blank else prompt)
        raise InputError(f"{which} is empty ({what}): give at least one word or token id")
    if _are_ids(items):
        return _padded([items], tokenizer, vocabulary)
    if all(isinstance(item, list | tuple) and _are_ids(item) for item in items):
        return _padded(items, tokenizer, vocabulary)
    if tokenizer is None:
        raise InputError(
            "this checkpoint has no tokenizer: give the prompt as a list of token ids, for "
            "example [1, 2, 3]"
        )
    if is_chat(items):
        return _padded([_chat(items, tokenizer)], tokenizer, vocabulary)
    if all(isinstance(item, str) for item in items):
        return _padded(tokenizer(items)["input_ids"], tokenizer, vocabulary)
    raise InputError(
        f"prompt: expected text, a list of texts, token ids or chat messages, got {prompt!r}"
    )


def is_chat(prompt: object) -> bool:
    """Whether a prompt is a list of messages."""
    if not isinstance(prompt, list | tuple) or not prompt:
        return False
    return all(isinstance(item, Mapping) for item in prompt)


def _chat(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """A conversation by the tokenizer's own template, up to where the model has to speak.

    A last message of the assistant is one that was cut off: the model goes on with it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "this tokenizer has no chat template: give the prompt as text instead of messages"
        )
    for message in messages:
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(
                'chat messages: expected {"role": "user", "content": "..."} and the like, '
                f"got {dict(message)!r}"
            )
        _check_encodable(json.dumps(dict(message), default=str, ensure_ascii=False))
    unfinished = messages[-1]["role"] == "assistant"
    try:
        made = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=not unfinished,
            continue_final_message=unfinished,
            return_dict=True,
        )
    except (TemplateError, ValueError) as error:  # roles out of order, a role it does not know
        raise InputError(f"this tokenizer's chat template refused the messages: {error}") from error
    return made["input_ids"]


def _check_encodable(text: str) -> None:
    """Raise InputError for a text that is no Unicode, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"prompt: the text holds half of a surrogate pair ({text[error.start]!a}), which "
            "no tokenizer can read: decode the text anew, with errors='replace' where its bytes "
            "are damaged"
        ) from error


def _of_array(array: NDArray[Any]) -> Any:
    """An array of token ids as a tensor, of texts as a list."""
    if array.dtype.kind == "U":
        return array.tolist()
    if array.dtype.kind not in "iufcb":
        raise InputError(
            f"prompt: expected an array of token ids or of texts, got one of {array.dtype}: give "
            "a list, as its tolist() makes it"
        )
    return torch.as_tensor(array.copy())  # of an array that nobody may write to torch warns


def _unmasked(ids: Any, mask: Any) -> list[list[int]]:
    """Ids of each text without those that an attention mask says are padding, on either side."""
    texts, marks = _rows("input_ids", ids), _rows("attention_mask", mask)
    shapes = [len(text) for text in texts], [len(row) for row in marks]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"attention_mask: expected a mark for each of the input_ids, {_short(shapes[0])} in "
            f"each text, got {_short(shapes[1])}"
        )
    kept: list[list[int]] = []
    for number, (text, row) in enumerate(zip(texts, marks, strict=True), 1):
        which = f"attention_mask of text {number} of {len(texts)}"
        for mark in row:
            if not isinstance(mark, int | float) or mark not in (0, 1):
                raise InputError(f"{which}: expected 1 (a token) or 0 (padding), got {mark!r}")
        real = [at for at, mark in enumerate(row) if mark]
        if not real:
            raise InputError(f"{which} is 0 everywhere: at least one token has to be 1")
        if real[-1] - real[0] >= len(real):
            raise InputError(
                f"{which} has a 0 between 1s: padding is taken before and after a text, not "
                "within; leave out the tokens that are not to be read"
            )
        kept.append(text[real[0] : real[-1] + 1])
    return kept


def _rows(name: str, value: Any) -> list[list[Any]]:
    """One list for each text, of a tensor, an array, or lists; also of one text alone."""
    value = value.tolist() if hasattr(value, "tolist") else value
    rows = list(value) if isinstance(value, list | tuple) else [value]
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    if not any(isinstance(row, list | tuple) for row in rows):
        rows = [rows]
    if not all(isinstance(row, list | tuple) for row in rows):
        raise InputError(
            f"{name}: expected (tokens,) or (sequences, tokens), as a tokenizer returns them, got "
            f"{reprlib.repr(value)}"
        )
    return [list(row) for row in rows]


def _short(lengths: list[int]) -> str:
    return str(lengths[0]) if len(set(lengths)) == 1 else reprlib.repr(lengths)


def _are_ids(items: Sequence[object]) -> bool:
    return all(isinstance(item, int | np.integer) and not isinstance(item, bool) for item in items)


def _padded(
    batch: Sequence[Sequence[int]], tokenizer: Any | None, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Lists of ids as ids and mask; what stands in the padding is masked out."""
    for number, ids in enumerate(batch, 1):
        if not ids:
            which = f"prompt {number} of {len(batch)}" if len(batch) > 1 else "the prompt"
            raise InputError(f"{which} has no tokens: give at least one")
    if max(map(max, batch)) >= vocabulary or min(map(min, batch)) < 0:  # also too large for int64
        raise _outside(vocabulary)
    pad = getattr(tokenizer, "pad_token_id", None)
    width = max(map(len, batch))
    missing = [width - len(ids) for ids in batch]
    rows = [[pad or 0] * gap + [*map(int, ids)] for gap, ids in zip(missing, batch, strict=True)]
    ids, mask = _checked(torch.tensor(rows), vocabulary)
    for row, gap in enumerate(missing):
        mask[row, :gap] = 0
    return ids, mask


def _checked(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    if ids.numel() == 0:
        raise InputError("the prompt has no tokens: give at least one")
    if ids.is_floating_point() or ids.is_complex():
        raise _outside(vocabulary)
    ids = ids.to(torch.int64)  # torch compares not all unsigned ones; those past 2**63 are below 0
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise _outside(vocabulary)
    return ids, torch.ones_like(ids)


def _outside(vocabulary: int) -> InputError:
    return InputError(f"token ids must be whole numbers from 0 to {vocabulary - 1}")
