"""What one call of generate came to."""

from __future__ import annotations

from dataclasses import dataclass

from engine.summary import Summary
from engine.trace import Trace


@dataclass(frozen=True)
class Run:
    """Text, tokens and trace of a finished generation, also of one that was cut short."""

    text: str
    """Generated text of the first sequence, without the prompt."""
    tokens: tuple[tuple[int, ...], ...]
    """Generated token ids of each sequence, without the prompt."""
    trace: Trace
    ended: str
    """``length``, ``eos``, ``stopped``, ``interrupted`` or ``error``."""

    def __repr__(self) -> str:
        count = sum(map(len, self.tokens))
        return f"Run({count} tokens, ended by {self.ended}, {self.summary.clock} clock)"

    @property
    def summary(self) -> Summary:
        """Speed, hit rate, bytes moved and lane times."""
        return self.trace.summary
