"""Weights of 8 or 4 bits: levels, and a scale for each group of them along a row.

A row is what one output is computed from. Scales are bfloat16: they have float32's range, so that
no group is too small for one, and levels are chosen for the scale as it is rounded. The extreme
level is the group's largest magnitude: -127 or 127 for 8 bits. For 4 bits it is -8, by a scale of
either sign, for that way no level is idle: a quarter less error than with levels from -7 to 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.schemes import GROUPS, SCHEMES, Scheme, group_for, scheme_named

__all__ = [
    "GROUPS",
    "SCHEMES",
    "Scheme",
    "bits_of",
    "dequantise",
    "group_for",
    "quantise",
    "scheme_named",
]

_DTYPES = {torch.int8: 8, torch.uint8: 4}


def bits_of(levels: Tensor) -> int:
    """8 or 4 where a tensor holds levels, else 0."""
    return _DTYPES.get(levels.dtype, 0)


def quantise(weights: Tensor, scheme: Scheme, group: int) -> tuple[Tensor, Tensor]:
    """Levels and scales of ``weights`` ``(..., K)``, each rounded to the nearest.

    Levels are ``(..., K)`` int8, or ``(..., K / 2)`` uint8 for 4 bits; scales ``(..., K / group)``
    bfloat16. Takes about five times the memory of ``weights`` in float32 meanwhile.
    """
    grouped = weights.float().unflatten(-1, (-1, group))  # (..., G, group)
    high, low = grouped.amax(-1, keepdim=True), grouped.amin(-1, keepdim=True)  # (..., G, 1)
    if scheme.bits == 8:
        scales, least, most = torch.maximum(high, -low) / 127, -127, 127
    else:
        scales, least, most = torch.where(high > -low, high, low) / -8, -8, 7
    scales = scales.bfloat16()
    divisor = torch.where(scales == 0, 1, scales).float()
    levels = (grouped / divisor).round_().clamp_(least, most)  # (..., G, group)
    packed = levels.to(torch.int8) if scheme.bits == 8 else _packed(levels)
    return packed.flatten(-2), scales[..., 0]


def _packed(levels: Tensor) -> Tensor:
    """Four bits each, in the order that ``kernels/src/quant.h`` says: ``(..., G, group / 2)``."""
    a, b, c, d = (levels + 8).to(torch.uint8).chunk(4, -1)  # (..., G, group / 4) each
    return torch.stack((a | b << 4, c | d << 4), -1).flatten(-2)


def _unpacked(packed: Tensor) -> Tensor:
    """The inverse: ``(..., G, group / 2) -> (..., G, group)`` int8."""
    first, second = packed.unflatten(-1, (-1, 2)).unbind(-1)  # (..., G, group / 4) each
    parts = (first & 15, first >> 4, second & 15, second >> 4)
    return torch.cat(parts, -1).to(torch.int8) - 8


def dequantise(levels: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights that levels and scales stand for, ``(..., K)``: the kernels' reference."""
    grouped = levels.unflatten(-1, (scales.shape[-1], -1))
    numbers = grouped if bits_of(levels) == 8 else _unpacked(grouped)  # (..., G, group)
    return (numbers.float() * scales.float()[..., None]).to(dtype).flatten(-2)
