"""Prompts: whatever a user hands over, as token ids; and token ids as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.errors import InputError

PromptLike = str | Sequence[int] | Sequence[str] | Sequence[dict[str, Any]] | Tensor
"""Text, several texts (a batch), token ids, ``(sequences, tokens)`` ids, or chat messages."""


def encode(prompt: PromptLike, tokenizer: Any | None, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both ``(sequences, tokens)``; several texts are padded on the left.

    Raises InputError for an empty prompt, ids outside the vocabulary, or text without tokenizer.
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
    if not items or any(isinstance(item, str) and not item.strip() for item in items):
        raise InputError(f"the prompt is empty ({prompt!r}): give at least one word or token id")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        if max(items) >= vocabulary:  # also too large for a tensor
            raise _outside(vocabulary)
        return _checked(torch.tensor([items]), vocabulary)
    if tokenizer is None:
        raise InputError(
            "this checkpoint has no tokenizer: give the prompt as a list of token ids, for "
            "example [1, 2, 3]"
        )
    if all(isinstance(item, dict) for item in items):
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "this tokenizer has no chat template: give the prompt as text instead of messages"
            )
        made = tokenizer.apply_chat_template(
            items, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    elif all(isinstance(item, str) for item in items):
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        made = tokenizer(items, return_tensors="pt", padding=len(items) > 1)
    else:
        raise InputError(
            f"prompt: expected text, a list of texts, token ids or chat messages, got {prompt!r}"
        )
    ids, _ = _checked(made["input_ids"], vocabulary)
    return ids, made["attention_mask"]


def _checked(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    if ids.numel() == 0:
        raise InputError("the prompt has no tokens: give at least one")
    if ids.is_floating_point() or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise _outside(vocabulary)
    ids = ids.to(torch.int64)
    return ids, torch.ones_like(ids)


def _outside(vocabulary: int) -> InputError:
    return InputError(f"token ids must be whole numbers from 0 to {vocabulary - 1}")


class TokenTexts:
    """The text of single tokens, remembered; without a tokenizer the ids as numbers."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One string for each id."""
        return [self._known.get(token) or self._text(token) for token in ids]

    def _text(self, token: int) -> str:
        text = f"{token} " if self._tokenizer is None else self._tokenizer.decode([token])
        self._known[token] = text
        return text
