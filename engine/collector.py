"""A transformers streamer that keeps what was generated, so that a cut-short run loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer, TextStreamer


class _Words(TextStreamer):
    """transformers' own incremental decoding, handing its pieces to a callback."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each finished piece."""
        if text:
            self._on_text(text)


class Collector(BaseStreamer):
    """Generated ids of each sequence so far; passes text on where that is wanted."""

    def __init__(
        self, sequences: int, tokenizer: Any | None, on_text: Callable[[str], None] | None
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._prompt_seen = False
        wanted = on_text is not None and tokenizer is not None and sequences == 1
        self._words = _Words(tokenizer, on_text) if wanted else None

    def put(self, value: Tensor) -> None:
        """First the prompt ``(sequences, tokens)``, then each step's new ids ``(sequences,)``."""
        if self._words is not None:
            self._words.put(value)
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for sequence, token in zip(self.tokens, value.reshape(-1).tolist(), strict=True):
            sequence.append(token)

    def end(self) -> None:
        """Flush the text that is left."""
        if self._words is not None:
            self._words.end()
