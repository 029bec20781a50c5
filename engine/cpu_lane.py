"""The CPU's lane: experts computed from host memory, by our kernels where they fit, else by torch.

A layer's experts are one call of the kernels, outside of Python's lock: threads share their rows
by bytes, and nobody waits between two experts. What each of them took is what the threads measured
working on it, laid one after the other, since they are computed side by side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ctypes import memset
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from engine.expert import run_expert
from engine.expert_kernel import DTYPES, ExpertKernel, measured_switch
from engine.kernels import open_pool
from engine.notes import Span
from engine.store import ExpertStore
from engine.threads import torch_team

FEW_NUMBERS = 1 << 17
"""More are rounded faster by torch's threads."""

Part = tuple[int, Tensor | None, Tensor]
"""An expert of the layer, the rows it takes (int64; None: all), their weights (float32)."""


class CpuLane:
    """Runs experts of a store on the CPU with so many ``threads`` (None: all physical cores)."""

    def __init__(self, store: ExpertStore, threads: int | None = None) -> None:
        self.store = store
        self.pool = open_pool(threads, torch_team())
        """None where the kernels are not compiled."""
        self.kernels = [
            ExpertKernel.of(module, store.weights(layer, 0), self.pool, dtype=store.dtype)
            for layer, module in enumerate(store.modules)
        ]
        """By layer; None where torch does the work."""

    def __repr__(self) -> str:
        ours = sum(kernel is not None for kernel in self.kernels)
        return f"CpuLane({ours} of {len(self.kernels)} layers on our kernels)"

    def close(self) -> None:
        """End the threads; nothing may run afterwards."""
        self.kernels = []
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def switch(self, tokens: int | None) -> None:
        """Leave experts with more ``tokens`` to torch; None: none."""
        self.kernels = [
            None if kernel is None else replace(kernel, switch_tokens=tokens)
            for kernel in self.kernels
        ]

    def measure_switch(self) -> int | None:
        """Find out on this machine from where torch is faster, and switch there; returns it.

        Takes seconds. Torch runs with the threads it has now.
        """
        kernel, store = self.kernels[0], self.store
        if kernel is None:
            return None
        some = [
            store.weights(*divmod(at, store.experts)) for at in range(len(store) * store.experts)
        ]
        found = measured_switch(kernel, some)
        self.switch(found)
        return found

    def run(self, layer: int, hidden: Tensor, parts: Sequence[Part]) -> tuple[Tensor, list[Span]]:
        """The weighted sum of some experts' outputs, ``(T, H)`` in float32, and each one's span.

        ``hidden`` is ``(T, H)``. Spans are ``time.perf_counter_ns``, in the order of ``parts``.
        """
        out = zeros(hidden.shape)
        kernel = self.kernels[layer]
        if kernel is None:
            return out, [self._by_torch(layer, hidden, part, out) for part in parts]
        groups = [(self.store.weights(layer, expert), rows, by) for expert, rows, by in parts]
        start = time.perf_counter_ns()
        spent = kernel.run(hidden.contiguous(), groups, out)
        return out, _laid(start, time.perf_counter_ns(), spent)

    def rounded(self, out: Tensor, dtype: torch.dtype) -> Tensor:
        """A result ``(T, H)`` in float32 as another dtype."""
        if self.pool is None or dtype not in DTYPES or out.numel() > FEW_NUMBERS:
            return out.to(dtype)
        made = torch.empty(out.shape, dtype=dtype)
        self.pool.round(DTYPES[dtype], out.data_ptr(), out.numel(), made.data_ptr())
        return made

    def _by_torch(self, layer: int, hidden: Tensor, part: Part, out: Tensor) -> Span:
        """One expert, added to ``out``."""
        expert, rows, by = part
        start = time.perf_counter_ns()
        x = hidden if rows is None else hidden[rows]  # (tokens, H)
        y = run_expert(self.store.modules[layer], self.store.weights(layer, expert), x)
        y = y.float() * by[:, None]
        out.add_(y) if rows is None else out.index_add_(0, rows, y)
        return start, time.perf_counter_ns()


def zeros(shape: torch.Size) -> Tensor:
    """As ``torch.zeros``, float32. Between two experts torch's code is in no cache: a call of its
    takes tens of microseconds, and this one does not."""
    out = torch.empty(shape)
    memset(out.data_ptr(), 0, out.nbytes)
    return out


def _laid(start: int, end: int, spent: Sequence[int]) -> list[Span]:
    """From ``start`` to ``end``, one after the other, as long as each was worked on."""
    whole = max(sum(spent), 1)
    ends = [start + (end - start) * done // whole for done in accumulate(spent, initial=0)]
    return list(pairwise(ends))
