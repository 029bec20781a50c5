"""Parameters of made-up routing from a recorded trace: the method of moments, by simulation.

Each parameter is the one whose drawings have the trace's own figure:

============  ============================================================================
skew          experts that two tokens of one request far apart have in common, by layer
locality      experts that two tokens after each other have in common, by layer
coupling      experts that a layer's choices give away of the next one's, by layer
domains       groups of requests that have more in common than requests of other groups
contrast      what requests of different groups have in common
============  ============================================================================
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.synthetic.choices import Choices
from engine.synthetic.draw import Router, chances, log_odds, normal_quantiles
from engine.synthetic.routing import MOST_SKEW, SyntheticRouting
from engine.trace import Trace

Floats = NDArray[np.float64]

_TOKENS = 2048
"""Tokens drawn to read a figure from: fewer would be noisy."""
_LOCALITIES = np.array([0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 0.99])
_COUPLINGS = np.array([0.0, 0.4, 0.7, 0.9, 1.0])
"""Tried; between them figures are interpolated."""
_CONTRASTS = np.linspace(0.0, 1.0, 9)
_SAME = 0.9
"""Requests that are all as alike as this are of one domain."""
_REQUEST_TOKENS = 64
"""A request's popularity is looked at only from here: below, it is noise."""


def fit(trace: Trace, *, seed: int = 0) -> SyntheticRouting:
    """Parameters whose made-up traces look like ``trace``; see :func:`~engine.synthetic.likeness`.

    Domains are told apart request by request (of at least 64 tokens), so a trace of one request
    has one. Draws 2,048 tokens or more a dozen times: a second for 32 x 8 experts,
    under a minute for 58 x 256. Weak coupling (below about 0.4) gives nothing away to
    :attr:`Choices.foresight` and may be found to be none.

    Raises:
        InputError: not a trace, or no request of at least two tokens.
    """
    if not isinstance(trace, Trace):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"trace: expected a Trace, got {reprlib.repr(trace)}; Trace.load reads a file, and a "
            "run has one as .trace"
        )
    choices = Choices.of(trace)
    grid, top_k = trace.model.grid, trace.model.top_k
    skew = _skew(choices.chance, grid[1], top_k)

    def drawn(routing: SyntheticRouting, tokens: int, turn: int) -> Choices:
        router = Router.of(routing, grid, top_k, seed + turn)
        return sample(router, tokens, np.random.default_rng((seed + turn, 1)))

    # of one domain, for these are a request's own
    found = SyntheticRouting(skew=tuple(skew.tolist()), locality=(0.0,))
    off = drawn(found, 2 * _TOKENS, 0).chance - choices.chance  # drawing is close, not exact
    skew = _skew(choices.chance - off, grid[1], top_k)
    found = replace(found, skew=tuple(skew.tolist()))
    tries = (drawn(replace(found, locality=(at,)), _TOKENS, 0) for at in _LOCALITIES.tolist())
    reuse = np.array([made.reuse for made in tries])
    wanted = choices.reuse - choices.chance + reuse[0]
    locality = _where(_LOCALITIES, reuse, wanted)
    found = replace(found, locality=tuple(locality.tolist()))
    learnt = choices.first(2 * _TOKENS)
    if np.isfinite(learnt.foresight[1:]).any():
        # as long as the trace, for what is learnt from few tokens predicts less; so, many times
        length = len(learnt.hot)
        turns = range(min(16, math.ceil(_TOKENS / length)))
        table = np.zeros((len(_COUPLINGS), grid[0]))
        for at, strength in enumerate(_COUPLINGS.tolist()):
            tried = replace(found, coupling=(strength,))
            for turn in turns:
                table[at] += drawn(tried, length, turn).foresight / len(turns)
        coupling = _where(_COUPLINGS, table[:, 1:], learnt.foresight[1:])
        found = replace(found, coupling=(0.0, *coupling.tolist()))
    domains, contrast = _domains(choices, skew)
    return replace(
        found,
        domains=domains,
        contrast=contrast,
        source=f"fitted to {len(choices.hot)} tokens of {trace.model.name}",
    )


def sample(router: Router, tokens: int, rng: np.random.Generator) -> Choices:
    """One request of the first domain."""
    first = np.arange(tokens) == 0
    chosen = router.draw(np.zeros(tokens, dtype=np.int64), first, rng).experts
    hot = np.zeros((tokens, *router.logits.shape[1:]), dtype=np.bool_)
    np.put_along_axis(hot, chosen.astype(np.int64), True, axis=2)
    return Choices(hot, (0, tokens), router.top_k)


def _skew(chance: Floats, experts: int, top_k: int) -> Floats:
    """Per layer: the skew at which two independent tokens have ``chance`` in common."""
    low, high = np.zeros(len(chance)), np.full(len(chance), MOST_SKEW)
    shape = normal_quantiles(experts)
    for _ in range(40):
        middle = (low + high) / 2
        odds = log_odds(middle[:, None] * shape, top_k)
        common = (chances(odds) ** 2).sum(axis=1) / top_k
        low, high = np.where(common < chance, middle, low), np.where(common < chance, high, middle)
    return (low + high) / 2


def _where(steps: Floats, table: Floats, wanted: Floats) -> Floats:
    """Per layer: the step at which its column of ``table`` (steps, layers) reaches ``wanted``."""
    rising = np.maximum.accumulate(table, axis=0)
    found = np.zeros(len(wanted))
    for at in range(len(wanted)):
        found[at] = np.interp(wanted[at], rising[:, at], steps)
    return found


def _domains(choices: Choices, skew: Floats) -> tuple[int, float]:
    """Domains and their contrast, from how alike the popularity of requests is.

    Alike is the correlation of two requests' popularity, corrected for the noise of each. Requests
    more alike than half way from the least alike pair to 1 are of one domain.
    """
    requests = [hot for hot in choices.requests if len(hot) >= _REQUEST_TOKENS]
    if len(requests) < 2:
        return 1, 0.0
    experts, top_k = choices.hot.shape[2], choices.top_k
    rates = np.array([hot.mean(axis=0) for hot in requests])  # (requests, layers, experts)
    even = top_k / experts
    own = np.array([Choices(hot, (0, len(hot)), top_k).chance for hot in requests]) * top_k
    own = np.maximum(own.sum(axis=1) - len(skew) * top_k * even, 1e-9)  # variance without noise
    flat = (rates - even).reshape(len(rates), -1)
    alike = (flat @ flat.T) / np.sqrt(own[:, None] * own)
    pairs = np.triu_indices(len(rates), 1)
    least = float(alike[pairs].min())
    if least > _SAME:
        return 1, 0.0
    group = np.arange(len(rates))
    for a, b in zip(*pairs, strict=True):
        if alike[a, b] > (1.0 + least) / 2:
            group[group == group[b]] = group[a]
    apart = group[pairs[0]] != group[pairs[1]]
    other = float(alike[pairs][apart].mean()) if apart.any() else 1.0
    # from the likeness of popularity to that of its logarithm, by dealing it out
    tried = [_likeness_of_domains(skew, contrast, experts, top_k) for contrast in _CONTRASTS]
    contrast = float(np.interp(-other, -np.array(tried), _CONTRASTS))
    return len(np.unique(group)), contrast


def _likeness_of_domains(skew: Floats, contrast: float, experts: int, top_k: int) -> float:
    """Correlation of the popularity of domains that differ by ``contrast``."""
    routing = SyntheticRouting(skew=tuple(skew.tolist()), domains=8, contrast=contrast)
    even = top_k / experts
    flat = Router.of(routing, (len(skew), experts), top_k, 0).chances.reshape(8, -1) - even
    length = np.sqrt((flat**2).sum(axis=1))
    return float(((flat @ flat.T) / np.outer(length, length))[np.triu_indices(8, 1)].mean())
