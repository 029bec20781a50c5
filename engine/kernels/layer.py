"""How the kernels are told of a layer's experts: dtype, activation, addresses, sizes."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int64
from enum import IntEnum
from typing import NamedTuple


class Dtype(IntEnum):
    """Of weights, tokens and biases; results are float32."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2


class Act(IntEnum):
    """Activation of the gate, or of the only projection."""

    SWISH = 0
    """``g * sigmoid(alpha * g)``: SiLU with alpha 1, quick GELU with 1.702."""
    GELU = 1
    GELU_TANH = 2
    RELU = 3
    RELU2 = 4


class Layer(Structure):
    """How a layer's experts are stored, and their activation: ``act(g) * (u + offset)``.

    ``bits`` 8 or 4: weights are levels with a bfloat16 scale for each ``group`` of a row
    (``src/quant.h``), and ``dtype`` is that of tokens and biases; 0: they are not.
    ``limit`` above 0 clamps ``g`` from above and ``u`` on both sides. ``tiles_from``: tokens from
    which AMX's tiles are used, 0 for what the kernels think best.
    """

    _fields_ = (
        ("hidden", c_int64),
        ("intermediate", c_int64),
        ("dtype", c_int64),
        ("gated", c_int64),
        ("interleaved", c_int64),
        ("transposed", c_int64),
        ("tiles_from", c_int64),
        ("activation", c_int64),
        ("alpha", c_double),
        ("offset", c_double),
        ("limit", c_double),
        ("bits", c_int64),
        ("group", c_int64),
    )


class Expert(NamedTuple):
    """One expert's part of a call: addresses (0: none) and sizes in elements.

    Without ``tokens`` (int64) it takes all rows from 0 on; without ``weights`` (float32) each
    counts as 1. Scales are of quantised weights, each row's after the one before.
    """

    up: int
    down: int
    up_bias: int
    down_bias: int
    up_stride: int
    down_stride: int
    tokens: int
    weights: int
    n_tokens: int
    up_scales: int = 0
    down_scales: int = 0
