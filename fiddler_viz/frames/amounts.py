"""What the heatmap's colour tells of every expert, from plain sums: of a trace or a growing run.

Every amount is of shape ``(layers, experts)`` and in a fixed range, so that a colour means the
same in every frame: 0 to 1, a difference -1 to 1, of what :attr:`Amounts.most` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.events import Action, Lane
from engine.profile import Profile
from engine.trace import Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_FEW = 10
"""One of so many experts gets a dot where dots are for the most of something."""


@dataclass(frozen=True)
class Amounts:
    """A colour for each expert, with what hover texts tell of it."""

    amount: Floats
    """NaN where there is nothing."""
    most: float = 1.0
    """What 1 stands for: a share, or ns."""
    parts: NDArray[np.float64] | None = None
    """What the amount comes from, ``(parts, layers, experts)``; see who made it."""
    dots: NDArray[np.bool_] | None = None
    """Experts with a dot, the second cue; None: there are none."""


@dataclass(frozen=True)
class Shares:
    """Where the tokens of a text went."""

    name: str
    """What text, in words; raw."""
    share: NDArray[np.float64]
    """Of a layer's tokens, those that chose the expert, ``(layers, experts)``: a row adds up to
    top-k. NaN in a layer without tokens."""


def popularity(tokens: Ints) -> Floats:
    """Tokens per expert over those of the hottest expert of all; NaN before the first token."""
    most = int(tokens.max(initial=0))
    if most == 0:
        return np.full(tokens.shape, np.nan, np.float32)
    return (tokens / most).astype(np.float32)


def residency(shares: NDArray[np.float64]) -> Amounts:
    """Share of the time on the device; ``shares``, and the parts, by :class:`Place`."""
    return Amounts((shares[1:].sum(axis=0)).astype(np.float32), parts=shares)


def hits(actions: Ints) -> Amounts:
    """Share of calls that found the expert on the device; a dot for the tenth called most.

    ``actions``: calls by :class:`Action`.
    """
    calls = actions.sum(axis=0)
    rate = np.where(calls > 0, actions[Action.RESIDENT] / np.maximum(calls, 1), np.nan)
    return Amounts(rate.astype(np.float32), dots=_top(calls))


def time(spent_ns: Ints) -> Amounts:
    """Lanes' time, against the costliest expert; of the costliest tenth a dot where most of it was
    copying.

    ``spent_ns``, and the parts, by :class:`Lane`.
    """
    whole = spent_ns.sum(axis=0)
    most = int(whole.max(initial=0))
    amount = np.where(whole > 0, whole / max(most, 1), np.nan).astype(np.float32)
    dots = _top(whole) & (2 * spent_ns[Lane.H2D] > whole)
    return Amounts(amount, float(most), spent_ns.astype(float), dots)


def difference(tokens: Ints, top_k: int, against: Shares) -> Amounts:
    """Share of the tokens, less that of another text, in a range that is alike on both sides.

    A dot where it is more, among the tenth of the largest differences. The parts are both shares.
    """
    if against.share.shape != tokens.shape:
        layers, experts = against.share.shape
        raise InputError(
            f"against: {layers} layers x {experts} experts, this has {tokens.shape[0]} x "
            f"{tokens.shape[1]}: compare runs of the same model"
        )
    mine = _shares(tokens, top_k)
    less = mine - against.share
    most = _round_up(float(np.nanmax(np.abs(less), initial=0.0)))
    dots = _top(np.nan_to_num(np.abs(less))) & (less > 0)
    return Amounts((less / most).astype(np.float32), most, np.stack([mine, against.share]), dots)


def shares(source: Trace | Profile, top_k: int | None = None, name: str | None = None) -> Shares:
    """Where the tokens of a run, or of a profile's text, went. A profile needs the ``top_k``."""
    if isinstance(source, Profile):
        said = f"the profile, {source.source}" if name is None else name
        return Shares(said, _shares(source.array, top_k or 1))
    layers, experts = source.model.grid
    counts = np.bincount(source.unpadded.flat(experts), minlength=layers * experts)
    said = "the other run" if name is None else name
    return Shares(said, _shares(counts.reshape(layers, experts), source.model.top_k))


def _shares(tokens: Ints, top_k: int) -> NDArray[np.float64]:
    whole = tokens.sum(axis=1, keepdims=True)
    return np.where(whole > 0, top_k * tokens / np.maximum(whole, 1), np.nan)


def _top(values: NDArray[np.number]) -> NDArray[np.bool_]:
    """The tenth with the largest values, those above 0."""
    flat = values.ravel()
    chosen = np.argsort(-flat, kind="stable")[: -(-flat.size // _FEW)]
    mask = np.zeros(flat.size, np.bool_)
    mask[chosen] = flat[chosen] > 0
    return mask.reshape(values.shape)


def _round_up(value: float) -> float:
    """The next number with one digit, so that a scale's ends can be read; 0.01 at least."""
    if value <= 0.01:
        return 0.01
    unit = 10.0 ** np.floor(np.log10(value))
    return float(np.ceil(value / unit - 1e-9) * unit)
