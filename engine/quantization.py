"""Quantises the experts of a store, layer by layer, and says what that saved and cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.levels import Scheme, dequantise, group_for, quantise
from engine.pages import empty
from engine.store import ExpertStore, ExpertWeights
from engine.units import format_bytes

_AT_ONCE = 1 << 20
"""Weights quantised together: their float32 copies stay in a cache."""


@dataclass(frozen=True, repr=False)
class Quantization:
    """What experts were made of, in bytes and in error. Only experts are quantised."""

    scheme: str
    """``int8`` or ``int4``."""
    group: int
    """Weights that share a scale, along what an output is computed from."""
    bytes_before: int
    """Of all experts as the checkpoint has them."""
    bytes_after: int
    """Of all experts with their scales and biases."""
    error_mean: float
    """Squared error of an expert's weights over their squared sum, the mean over experts."""
    error_worst: float
    """The same of the expert with the most."""

    def __repr__(self) -> str:
        return (
            f"Quantization({self.scheme}, groups of {self.group}: experts "
            f"{format_bytes(self.bytes_before)} -> {format_bytes(self.bytes_after)}, relative "
            f"squared error {self.error_mean:.2g}, at worst {self.error_worst:.2g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)


def quantise_experts(store: ExpertStore, scheme: Scheme) -> Quantization:
    """Put levels and scales in the place of all experts' weights, in store and model.

    A layer's weights are let go before the next layer's are read. Raises UnsupportedModelError
    where groups do not fit, before anything is changed; CheckpointError where weights are not
    finite, with the layers before them quantised already.
    """
    hidden, inner = store.weights(0, 0).sizes(store.modules[0].is_transposed)
    group = group_for(hidden, inner)
    before = store.n_bytes
    errors: list[float] = []
    usual = torch.get_num_threads()
    # Experts side by side, each on one thread: on a busy machine torch's own threads wait for each
    # other at every small operation, tens of times as long.
    with ThreadPoolExecutor(usual, initializer=partial(torch.set_num_threads, 1)) as threads:
        try:
            for layer in range(len(store)):
                errors += _layer(store, layer, scheme, group, threads)
        finally:
            torch.set_num_threads(usual)  # of threads that torch sees first later
    return Quantization(
        scheme.name, group, before, store.n_bytes, sum(errors) / len(errors), max(errors)
    )


def _layer(
    store: ExpertStore, layer: int, scheme: Scheme, group: int, threads: ThreadPoolExecutor
) -> list[float]:
    """Quantise a layer; returns each expert's relative squared error."""
    experts = [store.weights(layer, number) for number in range(store.experts)]
    turned = store.modules[layer].is_transposed
    ups, up_scales = _empty(experts[0].up, turned, scheme, group, store.experts)
    downs, down_scales = _empty(experts[0].down, turned, scheme, group, store.experts)

    def fill(number: int) -> float:
        expert = experts[number]
        off = total = 0.0
        for weights, levels, scales in (
            (expert.up, ups[number], up_scales[number]),
            (expert.down, downs[number], down_scales[number]),
        ):
            wrong, of = _matrix(weights.T if turned else weights, levels, scales, scheme, group)
            off, total = off + wrong, total + of
        if not total < float("inf"):  # NaN too
            raise CheckpointError(
                f"quantize: expert {number} of MoE layer {layer} has weights that are not finite: "
                "the checkpoint is damaged"
            )
        return off / total if total else 0.0

    errors = list(threads.map(fill, range(store.experts)))
    biases = store.biases(layer)
    store.replace(layer, ExpertWeights(ups, downs, *biases, up_scales, down_scales))
    return errors


def _empty(
    weights: Tensor, turned: bool, scheme: Scheme, group: int, experts: int
) -> tuple[Tensor, Tensor]:
    """Room for the levels and scales of a matrix of all experts."""
    outputs, inputs = weights.T.shape if turned else weights.shape
    dtype = torch.int8 if scheme.bits == 8 else torch.uint8
    return (
        empty((experts, outputs, inputs * scheme.bits // 8), dtype),
        empty((experts, outputs, inputs // group), torch.bfloat16),
    )


def _matrix(
    weights: Tensor, levels: Tensor, scales: Tensor, scheme: Scheme, group: int
) -> tuple[float, float]:
    """Fill in one matrix ``(N, K)``; returns its squared error and its squared sum."""
    rows = max(1, _AT_ONCE // weights.shape[1])
    off = total = 0.0
    for at in range(0, len(weights), rows):
        some = weights[at : at + rows].float()  # (rows, K)
        made = quantise(some, scheme, group)
        levels[at : at + rows], scales[at : at + rows] = made
        off += (dequantise(*made, torch.float32) - some).square_().sum().item()
        total += some.square_().sum().item()
    return off, total
