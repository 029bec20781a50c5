"""Threads for kernels, and the kernels: what they take are addresses, sizes and strides."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from ctypes import byref, c_int64, c_uint64

from engine.errors import DeviceError, InputError
from engine.kernels.attention import Attention
from engine.kernels.cores import physical_cores
from engine.kernels.layer import Dtype, Expert, Layer
from engine.kernels.library import choose_isa, isas, library, warn_once

PIECE_BYTES = 128 << 10
"""What :meth:`Pool.stream` reads at a time."""


class Pool:
    """Threads that wait asleep, one per core; the caller's thread is one of them.

    ``threads``: as many as there are physical cores this process may use. ``cores``: the CPU each
    runs on; given too few, none is bound. ``team``: the address of an OpenMP runtime's
    ``GOMP_parallel``, whose threads are then taken instead of own ones; 0: none. Two callers take
    turns; two pools run side by side.
    Raises InputError; DeviceError where the kernels are not compiled or threads are lacking.
    """

    def __init__(
        self,
        threads: int | None = None,
        cores: Sequence[int] | None = None,
        *,
        isa: str | None = None,
        team: int = 0,
        of: ctypes.CDLL | None = None,
    ) -> None:
        found = library() if of is None else of
        if found is None:
            raise DeviceError("the CPU kernels are not compiled: python -m engine.native")
        physical = physical_cores() if cores is None else list(cores)
        if threads is None:
            threads = len(physical)
        if threads < 1 or (cores is not None and len(cores) < threads):
            raise InputError(
                f"threads: expected at least 1 and a core for each, got {threads} threads"
                + (f" on cores {list(cores)}" if cores is not None else "")
            )
        self.threads = threads
        self.cores = physical[:threads] if 1 < threads <= len(physical) and not team else None
        self.isa = choose_isa(isa, isas(found))
        self._found = found
        numbers = None if self.cores is None else (c_int64 * threads)(*self.cores)
        self._pool: int | None = found.fiddler_pool_new(
            threads, numbers, self.isa.encode(), team or None
        )
        if self._pool is None:
            raise DeviceError(f"{threads} threads could not be started")
        self._close = weakref.finalize(self, found.fiddler_pool_free, self._pool)
        self._close.atexit = False  # asleep, they end with the process

    def __repr__(self) -> str:
        return f"Pool({self.threads} threads, {self.isa})"

    def close(self) -> None:
        """End the threads; no call may follow."""
        self._pool = None
        self._close()

    def experts(
        self,
        layer: Layer,
        experts: Sequence[Expert],
        x: int,
        x_stride: int,
        out: int,
        out_stride: int,
    ) -> list[int]:
        """Add the experts' outputs, each by its tokens' weights, to ``out`` (float32).

        ``x`` and ``out`` are addresses of row 0, strides from row to row. Addresses and indices
        are trusted. Returns the nanoseconds of work on each, added up over threads. Raises
        DeviceError where memory is lacking.
        """
        table = [field for expert in experts for field in expert]
        array = (c_int64 * len(table))(*table)
        spent = (c_int64 * len(experts))()
        failed = self._found.fiddler_experts(
            self._pool, byref(layer), array, len(experts), x, x_stride, out, out_stride, spent
        )
        self._check(failed)
        return list(spent)

    def linear(
        self,
        dtype: Dtype,
        x: int,
        x_stride: int,
        tokens: int,
        w: int,
        w_stride: int,
        outputs: int,
        inputs: int,
        bias: int,
        out: int,
        out_stride: int,
    ) -> None:
        """``out = x @ w.T + bias``, all of one dtype; ``w`` is ``(outputs, inputs)``."""
        failed = self._found.fiddler_linear(
            *(self._pool, dtype, x, x_stride, tokens, w, w_stride, outputs, inputs),
            *(bias, out, out_stride),
        )
        self._check(failed)

    def route(
        self,
        dtype: Dtype,
        x: int,
        x_stride: int,
        tokens: int,
        w: int,
        w_stride: int,
        experts: int,
        inputs: int,
        top: int,
        normalised: bool,
        logits: int,
        weights: int,
        chosen: int,
    ) -> None:
        """The ``top`` experts of each token (int64), by the softmax of ``x @ w.T``, best first.

        ``logits`` takes the product, of the dtype; ``weights`` (float32) the softmax's values of
        those chosen, divided by their sum where ``normalised``.
        """
        failed = self._found.fiddler_route(
            *(self._pool, dtype, x, x_stride, tokens, w, w_stride, experts, inputs),
            *(top, normalised, logits, weights, chosen),
        )
        self._check(failed)

    def attend(
        self,
        attention: Attention,
        x: int,
        x_stride: int,
        tokens: int,
        cos: int,
        sin: int,
        turn_stride: int,
        keys: int,
        values: int,
        sequence_stride: int,
        head_stride: int,
        past: int,
        out: int,
        out_stride: int,
    ) -> None:
        """Attention of one token of each of so many sequences: see ``src/attend.c``.

        ``keys`` and ``values`` hold ``past`` rows of each head, and room for one more, which is
        filled.
        """
        failed = self._found.fiddler_attend(
            *(self._pool, byref(attention), x, x_stride, tokens, cos, sin, turn_stride),
            *(keys, values, sequence_stride, head_stride, past, out, out_stride),
        )
        self._check(failed)

    def norm(
        self,
        dtype: Dtype,
        x: int,
        rows: int,
        width: int,
        weight: int,
        offset: float,
        eps: float,
        out: int,
    ) -> None:
        """``x / sqrt(mean(x**2) + eps) * (weight + offset)``, on the caller's thread."""
        self._found.fiddler_norm(dtype, x, rows, width, weight, offset, eps, out)

    def round(self, dtype: Dtype, floats: int, count: int, out: int) -> None:
        """So many float32 as numbers of the dtype, on the caller's thread."""
        self._found.fiddler_round(dtype, floats, count, out)

    def stream(self, address: int, n_bytes: int, *, prefetch: bool) -> int:
        """Read memory and do next to nothing with it: returns the bytes read.

        In whole pieces of ``PIECE_BYTES``: the rate at which kernels could at best read weights.
        """
        pieces = n_bytes // PIECE_BYTES
        sums = (c_uint64 * max(1, pieces))()
        self._found.fiddler_stream(self._pool, address, n_bytes, prefetch, sums)
        return pieces * PIECE_BYTES

    @staticmethod
    def _check(failed: int) -> None:
        if failed:
            raise DeviceError("not enough memory for the experts' activations")


def open_pool(threads: int | None = None, team: int = 0) -> Pool | None:
    """A pool; None, said once, where there are no kernels: torch's own then do the work."""
    if library() is None:
        warn_once(
            "the CPU kernels are not compiled, torch's own are used: slower. Compile them: "
            "python -m engine.native"
        )
        return None
    return Pool(threads, team=team)
