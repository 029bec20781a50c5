"""The grid of layers and experts: what the heatmap draws, of a trace or of a growing run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.by_hand import ByHand
from engine.events import Action
from engine.history import plan_at
from engine.routing import Routing
from engine.strict import check_name
from engine.trace import Trace
from engine.usage import lane_ns, place_shares
from fiddler_viz.frames import amounts
from fiddler_viz.frames.amounts import Amounts, Floats, Ints, Shares, popularity, shares
from fiddler_viz.frames.places import places
from fiddler_viz.frames.selection import describe_selection, pick_step, pick_token

SHOWS = ("popularity", "token", "residency", "hits", "time", "difference")
"""What the grid's colour can tell."""


@dataclass(frozen=True)
class Grid:
    """What the heatmap draws; arrays of shape ``(layers, experts)``."""

    show: str
    """``popularity``: tokens routed, against the hottest expert; ``token``: routing weight; the
    others: see :mod:`fiddler_viz.frames.amounts`."""
    coloured: Amounts
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
    by_hand: ByHand
    """What was pinned and unpinned by hand."""

    @property
    def amount(self) -> Floats:
        """Colour: 0 to 1, of a difference -1 to 1; NaN where there is nothing."""
        return self.coloured.amount

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
    coloured: Amounts | None = None,
    by_hand: ByHand | None = None,
) -> Grid:
    """A grid from what a viewer has added up itself; what is left out counts as nothing yet.

    ``amount`` (or all of ``coloured``) may be left out for ``popularity``: it is ``tokens`` over
    its maximum.
    """
    check_name("show", show, SHOWS)
    shape = places.shape
    tokens = np.zeros(shape, np.int64) if tokens is None else tokens
    if coloured is None:
        coloured = Amounts(popularity(tokens) if amount is None else amount)
    if ran is None:
        ran = np.full(shape, -1, np.int8)
    if actions is None:
        actions = np.zeros((len(Action), *shape), np.int64)
    return Grid(show, coloured, tokens, places, ran, actions, caption, by_hand or ByHand())


def grid(
    trace: Trace,
    *,
    show: str = "popularity",
    token: int | None = None,
    step: int | None = None,
    against: Shares | None = None,
) -> Grid:
    """The grid of a whole trace, of all up to a step, or of one token or step.

    ``token`` shows the routing weight of that token, or the mean over the tokens of ``step``
    (both left out: of the last token processed). All others count up to the end of ``step`` (or of
    ``token``'s step; both left out: of all); a ``difference`` is to ``against``
    (None: the text of the profile that the plan was made from).
    Negative numbers count from the end.
    """
    check_name("show", show, SHOWS)
    if show == "difference" and against is None:
        against = shares(trace.plan.profile, trace.model.top_k)
    if not len(trace.step_rows):
        by_hand, caption = trace.plan.by_hand, "nothing recorded yet"
        return live_grid(places(trace), show=show, caption=caption, by_hand=by_hand)
    if token is not None:
        token = pick_token(trace, token)
        step = int(trace.tokens["step"][token])
    elif step is not None:
        step = pick_step(trace, step)
    elif show == "token":
        token = pick_token(trace, -1)
        step = int(trace.tokens["step"][token])

    routing, shape = trace.routing if token is not None else trace.unpadded, trace.model.grid
    if show != "token":
        chosen = np.ones(len(routing), np.bool_) if step is None else routing.step <= step
    elif token is not None:
        chosen = routing.token == token
    else:
        chosen = routing.step == step
    tokens, weight = routed(routing.where(chosen), shape)
    actions, ran = _ran(trace, step if show == "token" else None, step)
    if show == "token":
        ran[tokens == 0] = -1
        actions[:, tokens == 0] = 0
    elif show != "popularity":
        ran[:] = -1
    weight = Amounts(weight if show == "token" else popularity(tokens))
    coloured = _coloured(trace, show, step, tokens, actions, against) or weight
    caption = describe_selection(trace, token=token, step=step, show=show)
    if against is not None and show == "difference":
        caption += f", less {against.name}"
    at = len(trace.step_rows) - 1 if step is None else step
    by_hand = plan_at(trace, at).by_hand
    return Grid(show, coloured, tokens, places(trace, step), ran, actions, caption, by_hand)


def _coloured(
    trace: Trace, show: str, step: int | None, tokens: Ints, actions: Ints, against: Shares | None
) -> Amounts | None:
    """What takes more than the tokens; None for the others."""
    if show == "residency":
        return amounts.residency(place_shares(trace, step))
    if show == "hits":
        return amounts.hits(actions)
    if show == "time":
        return amounts.time(lane_ns(trace, step))
    if show == "difference" and against is not None:
        return amounts.difference(tokens, trace.model.top_k, against)
    return None


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
