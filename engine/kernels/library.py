"""The compiled kernels' loader: which instruction sets this machine runs."""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import POINTER, c_char_p, c_double, c_int64, c_uint64, c_void_p
from functools import cache
from itertools import count
from typing import Any

from engine import native
from engine.errors import InputError, unknown_name
from engine.native.build import KERNEL_LIBRARY, KERNEL_SOURCES

ISA = "FIDDLER_ISA"
"""Environment variable: the instruction set to use instead of the best one."""

ISAS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "portable")
"""All instruction sets there are kernels for, best first."""

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "fiddler_fingerprint": (c_int64, ()),
    "fiddler_isa": (c_char_p, (c_int64,)),
    "fiddler_pool_new": (c_void_p, (c_int64, POINTER(c_int64), c_char_p, c_void_p)),
    "fiddler_pool_free": (None, (c_void_p,)),
    "fiddler_experts": (
        c_int64,
        (
            *(c_void_p, c_void_p, c_void_p, c_int64),  # pool, layer, experts, their number
            *(c_void_p, c_int64, c_void_p, c_int64),  # x, its stride, out, its stride
            POINTER(c_int64),  # time spent
        ),
    ),
    "fiddler_linear": (
        c_int64,
        (
            *(c_void_p, c_int64),  # pool, dtype
            *(c_void_p, c_int64, c_int64),  # x, its stride, tokens
            *(c_void_p, c_int64, c_int64, c_int64),  # w, its stride, outputs, k
            *(c_void_p, c_void_p, c_int64),  # bias, out, its stride
        ),
    ),
    "fiddler_route": (
        c_int64,
        (
            *(c_void_p, c_int64),  # pool, dtype
            *(c_void_p, c_int64, c_int64),  # x, its stride, tokens
            *(c_void_p, c_int64, c_int64, c_int64),  # w, its stride, experts, k
            *(c_int64, c_int64),  # chosen for a token, whether normalised
            *(c_void_p, c_void_p, c_void_p),  # logits, weights, chosen
        ),
    ),
    "fiddler_attend": (
        c_int64,
        (
            *(c_void_p, c_void_p),  # pool, attention
            *(c_void_p, c_int64, c_int64),  # x, its stride, tokens
            *(c_void_p, c_void_p, c_int64),  # cos, sin, their stride
            *(c_void_p, c_void_p, c_int64, c_int64, c_int64),  # keys, values, strides, past
            *(c_void_p, c_int64),  # out, its stride
        ),
    ),
    "fiddler_norm": (
        None,
        (
            *(c_int64, c_void_p, c_int64, c_int64),  # dtype, x, rows, k
            *(c_void_p, c_double, c_double, c_void_p),  # weight, offset, eps, out
        ),
    ),
    "fiddler_round": (None, (c_int64, c_void_p, c_int64, c_void_p)),  # dtype, from, count, to
    "fiddler_stream": (None, (c_void_p, c_void_p, c_int64, c_int64, POINTER(c_uint64))),
}


@cache
def declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its functions' types; they are this object's alone."""
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they are absent, outdated or switched off."""
    if os.environ.get(native.SWITCH) == "0":
        return None
    found = native.load(KERNEL_LIBRARY, KERNEL_SOURCES)
    return None if found is None else declared(found)


def isas(of: ctypes.CDLL | None = None) -> list[str]:
    """Instruction sets this machine runs, best first; none without the library."""
    found = library() if of is None else of
    if found is None:
        return []
    names: list[str] = []
    for skip in count():
        name: bytes | None = found.fiddler_isa(skip)
        if name is None:
            return names
        names.append(name.decode())
    raise AssertionError("unreachable")


def choose_isa(wanted: str | None, available: list[str]) -> str:
    """The one asked for, by argument or by ``FIDDLER_ISA``, or the best; raises InputError."""
    name = wanted or os.environ.get(ISA) or available[0]
    if name not in ISAS:
        raise unknown_name(f"instruction set ({ISA})", name, ISAS)
    if name not in available:
        raise InputError(
            f"{ISA}={name}: this machine cannot run it. It runs {', '.join(available)}"
        )
    return name


@cache
def warn_once(message: str) -> None:
    """A RuntimeWarning, the first time only."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)
