"""Which experts serve which kind of text: the routing of several runs, or of labelled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.trace import Trace

Ratios = NDArray[np.float64]


@dataclass(frozen=True)
class Specialisation:
    """Shares of several kinds of text ("domains") in each expert."""

    labels: tuple[str, ...]
    """Names of the domains; raw text."""
    share: Ratios
    """Shape ``(domains, layers, experts)``: of a domain's choices in a layer, those of an expert;
    0 where the domain has no token in that layer."""
    tokens: tuple[int, ...]
    """Of each domain."""
    dealt: Ratios
    """The same with all tokens dealt out to the domains at random: what chance gives."""
    top_k: int

    def apart(self, *domains: int) -> Ratios:
        """Per layer, how much of the routing goes to other experts: 0 = all domains alike, 1 = no
        expert serves two. Of the domains of these numbers, or of all. Shape ``(layers,)``."""
        return _apart(self.share[list(domains)] if domains else self.share)

    def by_chance(self, *domains: int) -> Ratios:
        """What :meth:`apart` gives for tokens dealt out at random. Shape ``(layers,)``."""
        return _apart(self.dealt[list(domains)] if domains else self.dealt)

    def difference(self, first: int = 0, second: int = 1) -> Ratios:
        """Share of the first domain less that of the second, shape ``(layers, experts)``."""
        return self.share[first] - self.share[second]

    @property
    def leaning(self) -> Ratios:
        """Per expert the largest share of any domain in its work, domains weighed alike: 1 / number
        of domains = none, 1 = serves one only; ``nan`` where unused. ``(layers, experts)``."""
        total = self.share.sum(axis=0)
        return np.where(total > 0, self.share.max(axis=0) / np.where(total > 0, total, 1), np.nan)


def specialisation(traces: Mapping[str, Trace]) -> Specialisation:
    """Compare runs of different texts. Raises InputError unless two or more of the same grid."""
    grids = {trace.model.grid for trace in traces.values()}
    if len(traces) < 2:
        raise InputError(
            "specialisation: expected two or more runs by name, such as "
            f'{{"code": run, "prose": other}}, got {len(traces)}.'
        )
    if len(grids) > 1:
        shown = ", ".join(f"{name} {trace.model.grid}" for name, trace in traces.items())
        raise InputError(f"specialisation: the runs are of different models: {shown}.")
    return _compare(
        [str(name) for name in traces],
        [_rows(trace, np.ones(len(trace.token_rows), np.bool_)) for trace in traces.values()],
        next(iter(traces.values())),
    )


def labelled(trace: Trace, labels: Sequence[str]) -> Specialisation:
    """Compare the tokens of one run, with a label for each row of its tokens table.

    Raises InputError where labels are too few, too many, or all the same.
    """
    named = np.array([str(label) for label in labels])
    if len(named) != len(trace.token_rows):
        raise InputError(
            f"specialisation, labels: expected one for each of {len(trace.token_rows)} tokens, "
            f"got {len(named)}."
        )
    kinds = list(dict.fromkeys(named.tolist()))
    if len(kinds) < 2:
        raise InputError("specialisation, labels: expected two or more different ones.")
    return _compare(kinds, [_rows(trace, named == kind) for kind in kinds], trace)


@dataclass(frozen=True)
class _Rows:
    """Routing of some tokens: per row where it was, whose, and what it chose."""

    layer: NDArray[np.int64]
    token: NDArray[np.int64]
    """Numbered from 0."""
    experts: NDArray[np.int64]


def _rows(trace: Trace, wanted: NDArray[np.bool_]) -> _Rows:
    routing = trace.unpadded
    rows = wanted[routing.token]
    _, token = np.unique(routing.token[rows], return_inverse=True)
    return _Rows(
        routing.layer[rows].astype(np.int64),
        token.astype(np.int64),
        routing.experts[rows].astype(np.int64),
    )


def _compare(labels: Sequence[str], parts: Sequence[_Rows], trace: Trace) -> Specialisation:
    sizes = [int(part.token.max(initial=-1)) + 1 for part in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    layer = np.concatenate([part.layer for part in parts])
    token = np.concatenate([part.token + at for part, at in zip(parts, starts, strict=True)])
    experts = np.concatenate([part.experts for part in parts])
    domain = np.repeat(np.arange(len(parts)), sizes)  # of each token
    dealt = np.random.default_rng(0).permutation(domain)

    def shares(domains: NDArray[np.int64]) -> Ratios:
        layers, wide = trace.model.grid
        at = ((domains[token] * layers + layer) * wide)[:, None] + experts
        counted = np.bincount(at.ravel(), minlength=len(parts) * layers * wide)
        counted = counted.reshape(len(parts), layers, wide).astype(np.float64)
        return counted / np.maximum(counted.sum(axis=2, keepdims=True), 1)

    share = shares(domain)
    return Specialisation(
        labels=tuple(labels),
        share=share,
        tokens=tuple(sizes),
        dealt=shares(dealt),
        top_k=trace.model.top_k,
    )


def _apart(share: Ratios) -> Ratios:
    """Total variation of the domains ``(domains, layers, experts)`` from their mean, over its
    largest value ``1 - 1 / domains``; of two it is half the sum of their differences."""
    off = np.abs(share - share.mean(axis=0)).sum(axis=2).mean(axis=0) / 2
    return off / (1 - 1 / len(share))
