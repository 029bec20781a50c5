"""The grid of layers and experts: what the heatmap draws, of a trace or of a growing run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import unknown_name
from engine.events import Action
from engine.routing import Routing
from engine.trace import Trace
from fiddler_viz.frames.places import places
from fiddler_viz.frames.selection import describe_selection, pick_step, pick_token

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

SHOWS = ("popularity", "token")
"""What the grid's colour can tell."""


@dataclass(frozen=True)
class Grid:
    """What the heatmap draws; arrays of shape ``(layers, experts)``."""

    show: str
    """``popularity``: tokens routed, against the hottest expert; ``token``: routing weight."""
    amount: Floats
    """Colour, 0..1; NaN where there is nothing."""
    tokens: Ints
    """Tokens routed to each expert in what is shown."""
    places: NDArray[np.uint8]
    """:class:`engine.residency.Place` at the end of what is shown."""
    ran: NDArray[np.int8]
    """:class:`engine.events.Action` each expert ran with in the step shown, -1 where it did not."""
    actions: Ints
    """Shape ``(3, layers, experts)``: calls by action, in what is shown."""
    caption: str
    """What is shown, in words; raw text, to be escaped."""

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, experts)."""
        return self.amount.shape[0], self.amount.shape[1]

    @property
    def is_empty(self) -> bool:
        """Whether no token was routed."""
        return not self.tokens.any()


def live_grid(
    places: NDArray[np.uint8],
    *,
    show: str = "popularity",
    tokens: Ints | None = None,
    amount: Floats | None = None,
    ran: NDArray[np.int8] | None = None,
    actions: Ints | None = None,
    caption: str = "",
) -> Grid:
    """A grid from what a viewer has added up itself; what is left out counts as nothing yet.

    ``amount`` may be left out for ``popularity``: it is ``tokens`` over its maximum.
    """
    if show not in SHOWS:
        raise unknown_name("show", show, SHOWS)
    shape = places.shape
    tokens = np.zeros(shape, np.int64) if tokens is None else tokens
    if amount is None:
        amount = popularity(tokens)
    if ran is None:
        ran = np.full(shape, -1, np.int8)
    if actions is None:
        actions = np.zeros((len(Action), *shape), np.int64)
    return Grid(show, amount, tokens, places, ran, actions, caption)


def popularity(tokens: Ints) -> Floats:
    """Tokens per expert over those of the hottest expert of all; NaN before the first token."""
    most = int(tokens.max(initial=0))
    if most == 0:
        return np.full(tokens.shape, np.nan, np.float32)
    return (tokens / most).astype(np.float32)


def grid(
    trace: Trace, *, show: str = "popularity", token: int | None = None, step: int | None = None
) -> Grid:
    """The grid of a whole trace, of all up to a step, or of one token or step.

    ``popularity`` counts up to the end of ``step`` (or of ``token``'s step; both left out: of all).
    ``token`` shows the routing weight of that token, or the mean over the tokens of ``step``
    (both left out: of the last token processed). Negative numbers count from the end.
    """
    if show not in SHOWS:
        raise unknown_name("show", show, SHOWS)
    if not len(trace.step_rows):
        return live_grid(places(trace), show=show, caption="nothing recorded yet")
    if token is not None:
        token = pick_token(trace, token)
        step = int(trace.tokens["step"][token])
    elif step is not None:
        step = pick_step(trace, step)
    elif show == "token":
        token = pick_token(trace, -1)
        step = int(trace.tokens["step"][token])

    routing, shape = trace.routing, trace.model.grid
    if show == "popularity":
        chosen = np.ones(len(routing), np.bool_) if step is None else routing.step <= step
    elif token is not None:
        chosen = routing.token == token
    else:
        chosen = routing.step == step
    tokens, amount = routed(routing.where(chosen), shape)
    if show == "popularity":
        amount = popularity(tokens)

    first = None if show == "popularity" else step
    actions, ran = _ran(trace, first, step)
    if show == "token":
        ran[tokens == 0] = -1
        actions[:, tokens == 0] = 0
    caption = describe_selection(trace, token=token, step=step, show=show)
    return Grid(show, amount, tokens, places(trace, step), ran, actions, caption)


def routed(routing: Routing, shape: tuple[int, int]) -> tuple[Ints, Floats]:
    """Tokens routed to each expert, and its weight as the mean over all tokens (NaN without any).

    Both of ``shape`` (layers, experts).
    """
    flat = routing.flat(shape[1])
    size = shape[0] * shape[1]
    tokens = np.bincount(flat, minlength=size).reshape(shape)
    weight = np.bincount(flat, routing.weights.ravel(), minlength=size).reshape(shape)
    mean = weight / max(1, len(np.unique(routing.token)))
    return tokens, np.where(tokens > 0, mean, np.nan).astype(np.float32)


def _ran(trace: Trace, first: int | None, last: int | None) -> tuple[Ints, NDArray[np.int8]]:
    """Calls by action in steps ``first..last``, and the actions of step ``last``."""
    calls, (layers, experts) = trace.happened.calls, trace.model.grid
    chosen = slice(
        0 if first is None else int(np.searchsorted(calls.step, first)),
        None if last is None else int(np.searchsorted(calls.step, last, side="right")),
    )
    flat = calls.layer[chosen] * experts + calls.expert[chosen]
    action = calls.action[chosen]
    size = layers * experts
    counted = np.bincount(action * size + flat, minlength=len(Action) * size)
    ran = np.full(size, -1, np.int8)
    if last is not None:
        now = calls.step[chosen] == last
        ran[flat[now]] = action[now]
    return counted.reshape(len(Action), layers, experts), ran.reshape(layers, experts)
