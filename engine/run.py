"""What one call of generate came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.summary import Summary
from engine.trace import Trace


@dataclass(frozen=True)
class Run:
    """Text, tokens and trace of a finished generation, also of one that was cut short."""

    text: str
    """Generated text of the first sequence, without the prompt."""
    tokens: tuple[tuple[int, ...], ...]
    """Generated token ids of each sequence, without the prompt; those that ended before the
    longest are filled up with padding, as transformers does. Of a beam search, or with
    ``num_return_sequences``, all answers to the first prompt, the best first, then the second's."""
    trace: Trace
    ended: str
    """``length`` (an answer has as many tokens as were asked for), ``eos`` (all ended in an end
    token), ``criterion`` (something else ended it: ``max_time``, ``stop_strings``,
    ``stopping_criteria``), ``stopped``, ``interrupted`` or ``error``."""
    texts: tuple[str, ...] = ()
    """Generated text of each sequence."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The conversation, the answer included, where the prompt was one: append a message of the
    user's to go on, or pass it as it is to have the answer continued."""

    def __repr__(self) -> str:
        count = sum(map(len, self.tokens))
        return f"Run({count} tokens, ended by {self.ended}, {self.summary.clock} clock)"

    @property
    def summary(self) -> Summary:
        """Speed, hit rate, bytes moved and lane times."""
        return self.trace.summary
