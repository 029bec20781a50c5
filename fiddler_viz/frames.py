"""From a trace to the arrays that figures draw. Rows are picked and added up here, never timed.

Every result is a frozen dataclass of numpy arrays, so that a live view can build the same from an
engine's feed (:func:`live_grid`, :func:`segments`) and hand it to the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError, unknown_name
from engine.events import Action, StepKind, Work
from engine.history import memory_at, places_at
from engine.residency import Memory, Place
from engine.trace import Trace
from fiddler_viz.theme import Segment, count, show_token

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
    flat = _flat(trace, chosen)
    size = shape[0] * shape[1]
    tokens = np.bincount(flat, minlength=size).reshape(shape)
    if show == "popularity":
        amount = popularity(tokens)
    else:
        n_tokens = max(1, len(np.unique(routing.token[chosen])))
        weight = np.bincount(flat, routing.weights[chosen].ravel(), minlength=size) / n_tokens
        amount = np.where(tokens.ravel() > 0, weight, np.nan).astype(np.float32).reshape(shape)

    first = None if show == "popularity" else step
    actions, ran = _ran(trace, first, step)
    if show == "token":
        ran[tokens == 0] = -1
        actions[:, tokens == 0] = 0
    caption = describe_selection(trace, token=token, step=step, show=show)
    return Grid(show, amount, tokens, places(trace, step), ran, actions, caption)


def _flat(trace: Trace, chosen: NDArray[np.bool_]) -> Ints:
    routing = trace.routing
    layer = routing.layer[chosen].astype(np.int64)
    return (layer[:, None] * trace.model.experts + routing.experts[chosen]).ravel()


def _ran(trace: Trace, first: int | None, last: int | None) -> tuple[Ints, NDArray[np.int8]]:
    """Calls by action in steps ``first..last``, and the actions of step ``last``."""
    work, (layers, experts) = trace.work, trace.model.grid
    chosen = work["kind"] == Work.EXPERT
    if last is not None:
        chosen = chosen & (work["step"] <= last)
    if first is not None:
        chosen = chosen & (work["step"] >= first)
    flat = work["layer"][chosen] * experts + work["expert"][chosen]
    action = work["action"][chosen]
    size = layers * experts
    counted = np.bincount(action * size + flat, minlength=len(Action) * size)
    ran = np.full(size, -1, np.int8)
    if last is not None:
        now = work["step"][chosen] == last
        ran[flat[now]] = action[now]
    return counted.reshape(len(Action), layers, experts), ran.reshape(layers, experts)


def places(trace: Trace, step: int | None = None) -> NDArray[np.uint8]:
    """Where each expert's weights are at the end of ``step`` (left out: at the end)."""
    if step is None:
        step = len(trace.step_rows) - 1
    return places_at(trace, step)


def memory_of(trace: Trace, step: int | None = None) -> Memory:
    """What the device's memory holds at the end of ``step`` (left out: at the end)."""
    if step is not None:
        step = pick_step(trace, step)
    else:
        step = len(trace.step_rows) - 1
    return memory_at(trace, step)


def pick_step(trace: Trace, step: int) -> int:
    """A step's number from a number that may count from the end; else InputError."""
    n = len(trace.step_rows)
    if not -n <= step < n:
        raise InputError(f"step {step}: expected 0 to {n - 1} (or -1 for the last) in this trace.")
    return step % n


def pick_token(trace: Trace, token: int) -> int:
    """A row of the tokens table that was processed; negative: from the last one processed."""
    n = int((trace.tokens["step"] >= 0).sum())
    total = len(trace.token_rows)
    if n < total and n <= token < total:
        raise InputError(
            f"token {token} was sampled but never processed, so it was never routed: "
            f"choose 0 to {n - 1}, or -1 for the last one processed."
        )
    if not -n <= token < n:
        raise InputError(
            f"token {token}: expected 0 to {n - 1} (or -1 for the last one processed)."
        )
    return token if token >= 0 else int(np.flatnonzero(trace.tokens["step"] >= 0)[token])


def describe_selection(
    trace: Trace, *, token: int | None, step: int | None, show: str = "token"
) -> str:
    """What is selected, in words; raw text."""
    if token is not None:
        text = f" “{show_token(trace.texts[token]).strip()}”" if trace.texts else ""
        what = f"token {token}{text}, step {step}"
    elif step is not None:
        n = int(trace.steps["tokens"][step])
        kind = StepKind(int(trace.steps["kind"][step])).name.lower()
        what = f"step {step} ({kind} of {count(n, 'token')})"
    else:
        return f"whole run, {count(int(trace.steps['tokens'].sum()), 'token')}"
    return f"up to {what}" if show == "popularity" else what


@dataclass(frozen=True)
class Segments:
    """Stretches of lanes, one element each; times in ns since the recording began."""

    lane: Ints
    kind: Ints
    """:class:`fiddler_viz.theme.Segment`."""
    start_ns: Ints
    end_ns: Ints
    step: Ints
    layer: Ints
    expert: Ints
    tokens: Ints

    def __len__(self) -> int:
        return len(self.lane)

    def within(self, start_ns: float, end_ns: float) -> Segments:
        """Those that can be seen between two times."""
        seen = (self.end_ns > start_ns) & (self.start_ns < end_ns)
        return Segments(**{name: values[seen] for name, values in vars(self).items()})


def segments(work: Mapping[str, Ints]) -> Segments:
    """The stretches in (columns of) work rows."""
    kind_of = np.array([Segment.DENSE, -1, Segment.WEIGHTS, Segment.ACTIVATIONS], np.int64)
    expert = work["kind"] == Work.EXPERT
    kind = np.where(expert, Segment.RESIDENT + work["action"], kind_of[work["kind"]])
    names = ("lane", "start_ns", "end_ns", "step", "layer", "expert", "tokens")
    return Segments(kind=kind, **{name: work[name] for name in names})


@dataclass(frozen=True)
class Tokens:
    """One element per token, in the order of the trace's tokens table."""

    text: tuple[str, ...]
    """Raw; ``#id`` where the trace has no texts."""
    step: Ints
    """-1 where the token was sampled but never processed."""
    sequence: Ints
    position: Ints
    generated: NDArray[np.bool_]
    ns: NDArray[np.float64]
    """Its share of its step's time; NaN where it was never processed."""
    hit_rate: NDArray[np.float64]
    """Share of its expert calls that ran resident; NaN where it had none."""

    def __len__(self) -> int:
        return len(self.text)


def token_table(trace: Trace) -> Tokens:
    """What each token cost, and how many of its experts were on the device."""
    tokens, steps = trace.tokens, trace.steps
    step = tokens["step"]
    processed = step >= 0
    ns = np.full(len(step), np.nan)
    generated = ~processed
    if len(trace.step_rows):
        share = (steps["end_ns"] - steps["start_ns"]) / np.maximum(steps["tokens"], 1)
        ns[processed] = share[step[processed]]
        generated[processed] = steps["kind"][step[processed]] == StepKind.DECODE
    return Tokens(
        text=trace.texts or tuple(f"#{i}" for i in tokens["id"].tolist()),
        step=step,
        sequence=tokens["sequence"],
        position=tokens["position"],
        generated=generated,
        ns=ns,
        hit_rate=_hit_rates(trace),
    )


def _hit_rates(trace: Trace) -> NDArray[np.float64]:
    routing, work, experts = trace.routing, trace.work, trace.model.experts
    hits = np.full(len(trace.token_rows), np.nan)
    ran = np.flatnonzero(work["kind"] == Work.EXPERT)
    if not len(ran) or not len(routing):
        return hits
    layers = trace.model.layers
    made = (work["step"][ran] * layers + work["layer"][ran]) * experts + work["expert"][ran]
    order = np.argsort(made, kind="stable")
    made = made[order]
    resident = (work["action"][ran] == Action.RESIDENT)[order]
    at = routing.step.astype(np.int64) * layers + routing.layer
    wanted = (at[:, None] * experts + routing.experts).ravel()
    found = np.searchsorted(made, wanted).clip(max=len(made) - 1)
    known = made[found] == wanted  # a stopped step may have routed without running
    token = np.repeat(routing.token, routing.experts.shape[1])[known]
    calls = np.bincount(token, minlength=len(hits))
    hit = np.bincount(token, resident[found][known], minlength=len(hits))
    np.divide(hit, calls, out=hits, where=calls > 0)
    return hits


def counts(places: NDArray[np.uint8]) -> dict[str, int]:
    """How many experts are pinned, cached and on the host only."""
    found = np.bincount(places.ravel(), minlength=len(Place)).tolist()
    return {place.name.lower(): found[place] for place in Place}
