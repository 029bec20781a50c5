"""The text of a run, token by token, with what its colour tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.events import Action, Clock, Columns
from engine.strict import check_name, numbered, plain
from engine.trace import Trace
from fiddler_viz.frames.tokens import (
    LIMIT_TOKENS,
    Tokens,
    actions_of,
    excerpt,
    hit_rates,
    priced,
    readings,
)

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
COLORS = ("latency", "hits", "action", "expert")
"""What the colour of a token can tell."""


@dataclass(frozen=True)
class Strip:
    """A text and what is known of its tokens; arrays by row of the trace's tokens table."""

    color: str
    """One of :data:`COLORS`."""
    layer: int | None
    """The layer that is told of; None: all of them."""
    tokens: Tokens
    texts: tuple[Ints, ...]
    """Rows of each text, in the order in which they read; only those shown."""
    before: int
    """Tokens that come before those shown."""
    after: int
    """Tokens that come after those shown."""
    hit_rate: NDArray[np.float64]
    """Share of the calls told of that ran resident; NaN where there were none."""
    expert: Ints
    """Experts in the layer, shape ``(tokens, top_k)``, most weight first; -1: none."""
    weight: NDArray[np.float32]
    """The router's weights of these."""
    action: Ints
    """What these ran with, -1: they did not."""
    clock: Clock

    @property
    def rows(self) -> Ints:
        """All rows shown, in the order in which they read."""
        return np.concatenate(self.texts) if self.texts else np.zeros(0, dtype=np.int64)

    @property
    def amount(self) -> NDArray[np.float64]:
        """What a token's shade tells: ns of a generated token, or a share; NaN: nothing."""
        if self.color == "hits":
            return self.hit_rate
        none = np.full(len(self.tokens), np.nan)
        return np.where(self.tokens.generated, self.tokens.ns, np.nan) if self.by_time else none

    @property
    def by_time(self) -> bool:
        """Whether the colour tells a time."""
        return self.color == "latency"

    @property
    def kind(self) -> Ints:
        """The :class:`Action` or the number of the expert that has most weight; -1: nothing."""
        if not self.expert.shape[1] or self.color not in ("action", "expert"):
            return np.full(len(self.tokens), -1, dtype=np.int64)
        return (self.action if self.color == "action" else self.expert)[:, 0]

    def to_pandas(self) -> pd.DataFrame:
        """One row per token shown; of a layer also its first expert, that one's weight, action."""
        import pandas as pd

        rows, tokens = self.rows, self.tokens
        made: Columns = {
            "token": rows,
            "text": np.array([tokens.text[row] for row in rows.tolist()], dtype=object),
            "step": tokens.step[rows],
            "sequence": tokens.sequence[rows],
            "generated": tokens.generated[rows],
            "latency_ns": tokens.ns[rows],
            "hit_rate": self.hit_rate[rows],
        }
        if self.layer is not None:
            names = np.array([*(action.name.lower() for action in Action), None], dtype=object)
            made["expert"] = self.expert[rows, 0]
            made["weight"] = self.weight[rows, 0]
            made["action"] = names[self.action[rows, 0]]
        return pd.DataFrame(made)


def strip(
    trace: Trace,
    *,
    color: str = "latency",
    layer: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> Strip:
    """The text of a trace, to be coloured.

    ``latency``: a generated token's time; ``hits``: share of its expert calls that ran resident, in
    all layers or in one; ``action`` and ``expert`` tell of its first expert in one ``layer``.
    ``start`` and ``stop`` count tokens as they read, as in a slice; left out: the last 600.
    """
    check_name("color", color, COLORS)
    layers = trace.model.layers
    if layer is None and color in ("action", "expert"):
        raise InputError(f"color={color!r} tells of one layer: add layer=0 to {layers - 1}.")
    if layer is not None and color == "latency":
        raise InputError("color='latency' tells of whole steps: leave out layer=.")
    if layer is not None:
        layer = numbered("layer", layer, layers)
    start, stop = plain(start), plain(stop)
    for name, value in (("start", start), ("stop", stop)):
        if value is not None and type(value) is not int:
            raise InputError(f"{name}: expected a whole number of tokens, got {value!r}.")
    tokens, texts = priced(trace), readings(trace)
    total = sum(len(rows) for rows in texts)
    chosen = range(total)[slice(start, stop)]
    if start is None and stop is None:
        chosen = chosen[-LIMIT_TOKENS:]
    if total and not chosen:
        raise InputError(f"start={start}, stop={stop}: none of this text's {total} tokens.")
    many, top_k = len(tokens), trace.model.top_k
    expert = np.full((many, top_k), -1, dtype=np.int64)
    action, weight = expert.copy(), np.zeros((many, top_k), dtype=np.float32)
    hits = tokens.hit_rate
    if layer is not None:
        routing = trace.routing.where(trace.routing.layer == layer)
        order = np.argsort(-routing.weights, axis=1, kind="stable")
        expert[routing.token] = np.take_along_axis(routing.experts, order, axis=1)
        weight[routing.token] = np.take_along_axis(routing.weights, order, axis=1)
        action[routing.token] = np.take_along_axis(actions_of(trace, routing), order, axis=1)
        hits = hit_rates(trace, routing)
    return Strip(
        color, layer, tokens, excerpt(texts, chosen), chosen.start, total - chosen.stop, hits,
        expert, weight, action, trace.clock,
    )  # fmt: skip
