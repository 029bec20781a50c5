"""Token ids as text, one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece names a token of one byte."""
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """The text of single tokens, remembered; without a tokenizer the ids as numbers.

    A token that is but a part of a character (of an emoji, say) is shown as its bytes: ``\\xf0``.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One string for each id."""
        return [self._known.get(token) or self._text(token) for token in ids]

    def _text(self, token: int) -> str:
        tokenizer = self._tokenizer
        text = f"{token} " if tokenizer is None else tokenizer.decode([token])
        if tokenizer is not None and _UNKNOWN in text:
            raw = _bytes_of(tokenizer.convert_ids_to_tokens(token))
            text = text if raw is None else raw.decode(errors="backslashreplace")
        self._known[token] = text
        return text


def _bytes_of(piece: Any) -> bytes | None:
    """The bytes that a token's name in the vocabulary stands for; None: it is another kind."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if not isinstance(piece, str):
        return None
    named = _BYTE.fullmatch(piece)
    if named:
        return bytes.fromhex(named[1])
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}  # of byte-level BPE
    return bytes(byte_of[letter] for letter in piece) if byte_of.keys() >= set(piece) else None
