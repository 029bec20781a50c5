"""A transformers streamer that keeps what was generated, so that a cut-short run loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

UNFINISHED = "\ufffd"
"""How a decoder shows the first bytes of a character whose last ones are still to come."""


class Pieces:
    """Tokens to text as they come: together the pieces are what decoding all at once gives.

    A piece is held back while it ends within a character. Each is decoded with the one before it,
    for some tokenizers treat the first token of a text in a way of its own.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._ids: list[int] = []
        self._before = self._shown = 0
        """Ids from ``before`` on are decoded; those up to ``shown`` have been handed on."""
        self._text = ""

    def put(self, token: int) -> None:
        """One more token."""
        self._ids.append(token)
        old = self._decode(self._ids[self._before : self._shown])
        new = self._decode(self._ids[self._before :])
        if len(new) > len(old) and not new.endswith(UNFINISHED):
            self._before, self._shown = self._shown, len(self._ids)
            self._hand_on(new[len(old) :])

    def end(self) -> None:
        """Hand on what was held back."""
        whole = self._decode(self._ids)
        if whole.startswith(self._text):
            self._hand_on(whole[len(self._text) :])

    def _hand_on(self, text: str) -> None:
        if text:
            self._text += text
            self._on_text(text)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


class Collector(BaseStreamer):
    """Generated ids of each row of the batch so far; passes text on where that is wanted."""

    def __init__(
        self, rows: int, tokenizer: Any | None, on_text: Callable[[str], None] | None
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self._prompt_seen = False
        wanted = on_text is not None and tokenizer is not None and rows == 1
        self._pieces = Pieces(tokenizer, on_text) if wanted else None

    def put(self, value: Tensor) -> None:
        """First the prompt ``(rows, tokens)``, then each step's new ids ``(rows,)``."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        new = value.reshape(-1).tolist()
        for row, token in zip(self.tokens, new, strict=True):
            row.append(token)
        if self._pieces is not None:
            self._pieces.put(new[0])

    def end(self) -> None:
        """Flush the text that is left."""
        if self._pieces is not None:
            self._pieces.end()
