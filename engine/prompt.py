"""Prompts: whatever a user hands over, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
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

    Raises InputError for an empty prompt, ids outside the vocabulary, text without tokenizer, or
    messages without chat template.
    """
    if isinstance(prompt, Mapping):  # what a tokenizer returns
        if "input_ids" not in prompt:
            raise InputError("prompt: a mapping needs input_ids, as a tokenizer returns them")
        ids, mask = encode(prompt["input_ids"], tokenizer, vocabulary)
        given = prompt.get("attention_mask")
        return ids, mask if given is None else torch.as_tensor(given).reshape(ids.shape)
    if hasattr(prompt, "__array__") and not isinstance(prompt, Tensor):
        prompt = torch.as_tensor(prompt)
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


def _are_ids(items: Sequence[object]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _padded(
    batch: Sequence[Sequence[int]], tokenizer: Any | None, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Lists of ids as ids and mask; what stands in the padding is masked out."""
    for number, ids in enumerate(batch, 1):
        if not ids:
            which = f"prompt {number} of {len(batch)}" if len(batch) > 1 else "the prompt"
            raise InputError(f"{which} has no tokens: give at least one")
    if max(map(max, batch)) >= vocabulary:  # also too large for a tensor
        raise _outside(vocabulary)
    pad = getattr(tokenizer, "pad_token_id", None)
    width = max(map(len, batch))
    missing = [width - len(ids) for ids in batch]
    rows = [[pad or 0] * gap + list(ids) for gap, ids in zip(missing, batch, strict=True)]
    ids, mask = _checked(torch.tensor(rows), vocabulary)
    for row, gap in enumerate(missing):
        mask[row, :gap] = 0
    return ids, mask


def _checked(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    if ids.numel() == 0:
        raise InputError("the prompt has no tokens: give at least one")
    if ids.is_floating_point() or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise _outside(vocabulary)
    ids = ids.to(torch.int64)
    return ids, torch.ones_like(ids)


def _outside(vocabulary: int) -> InputError:
    return InputError(f"token ids must be whole numbers from 0 to {vocabulary - 1}")
