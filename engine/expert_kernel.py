"""The CPU kernels for one model's experts: tensors in, addresses out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from engine.expert import run_expert
from engine.gate import find_gate
from engine.kernels import Dtype, Expert, Layer, Pool
from engine.store import ExpertWeights

Group = tuple[ExpertWeights, Tensor | None, Tensor | None]
"""One expert, the rows it takes (int64; None: all), and their routing weights (None: ones)."""

DTYPES = {
    torch.float32: Dtype.FLOAT32,
    torch.bfloat16: Dtype.BFLOAT16,
    torch.float16: Dtype.FLOAT16,
}
"""What the kernels call torch's dtypes."""


@dataclass(frozen=True)
class ExpertKernel:
    """The kernels, ready for the experts of one module."""

    module: nn.Module
    pool: Pool
    layer: Layer
    dtype: torch.dtype
    switch_tokens: int | None = None
    """An expert with more tokens is left to torch, which blocks for large products; None: none.
    Measured by :func:`measured_switch`."""

    @classmethod
    def of(
        cls,
        module: nn.Module,
        weights: ExpertWeights,
        pool: Pool | None,
        *,
        dtype: torch.dtype | None = None,
        switch_tokens: int | None = None,
    ) -> Self | None:
        """For a module and weights such as its experts'; None where the kernels do not fit.

        ``dtype`` is that of tokens and biases; None: the weights', which must not be quantised.
        That is: without a pool, in another dtype, not on the CPU, with a norm after the expert, or
        with an activation that is none of theirs.
        """
        dtype = dtype or weights.up.dtype
        if pool is None or dtype not in DTYPES or module.has_post_expert_norm:
            return None
        first = 2 if weights.bits else 0  # levels and scales have dtypes of their own
        last = 4 if weights.bits else len(weights)
        plain = [part for part in weights[first:last] if part is not None]
        if any(part.dtype != dtype for part in plain):
            return None
        if any(part.device.type != "cpu" for part in weights.parts):
            return None
        if any(part.stride(-1) != 1 for part in weights.parts):
            return None
        gate = find_gate(module)
        if gate is None:
            return None
        hidden, inner = weights.sizes(module.is_transposed)
        scales = weights.down_scales
        layer = Layer(
            hidden=hidden,
            intermediate=inner,
            dtype=DTYPES[dtype],
            gated=module.has_gate,
            interleaved=gate.interleaved,
            transposed=module.is_transposed and not weights.bits,
            activation=gate.act,
            alpha=gate.alpha,
            offset=gate.offset,
            limit=gate.limit,
            bits=weights.bits,
            group=0 if scales is None else inner // scales.shape[1],
        )
        return cls(module, pool, layer, dtype, switch_tokens)

    def takes(self, n_tokens: int) -> bool:
        """Whether an expert with so many tokens is the kernels', not torch's."""
        return self.switch_tokens is None or n_tokens <= self.switch_tokens

    def run(self, hidden: Tensor, groups: Sequence[Group], out: Tensor) -> list[int]:
        """Add each expert's weighted output to ``out`` (float32), both ``(T, H)``.

        Returns the nanoseconds that threads worked on each, added up over threads. Indices are
        trusted: below T. Their memory must stay as it is until the call is over.
        """
        self._check(hidden, out)
        ours = [self._mine(rows, out) for _, rows, _ in groups]
        kept = [group for group, mine in zip(groups, ours, strict=True) if mine]
        spent = iter(self._by_kernels(hidden, kept, out) if kept else ())
        return [
            next(spent) if mine else self._by_torch(hidden, group, out)
            for group, mine in zip(groups, ours, strict=True)
        ]

    def _by_kernels(self, hidden: Tensor, groups: Sequence[Group], out: Tensor) -> list[int]:
        experts = [self._expert(*group, len(hidden)) for group in groups]
        return self.pool.experts(
            self.layer,
            experts,
            *(hidden.data_ptr(), hidden.stride(0)),
            *(out.data_ptr(), out.stride(0)),
        )

    def _by_torch(self, hidden: Tensor, group: Group, out: Tensor) -> int:
        began = time.perf_counter_ns()
        self.run_torch(hidden, group, out)
        return (time.perf_counter_ns() - began) * self.pool.threads

    def run_torch(self, hidden: Tensor, group: Group, out: Tensor) -> None:
        """The same for one expert, in torch: the readable reference."""
        weights, rows, by = group
        y = run_expert(self.module, weights, hidden if rows is None else hidden[rows]).float()
        y = y if by is None else y * by[:, None]
        out.add_(y) if rows is None else out.index_add_(0, rows, y)

    def _mine(self, tokens: Tensor | None, out: Tensor) -> bool:
        return self.takes(len(out) if tokens is None else len(tokens))

    def _check(self, hidden: Tensor, out: Tensor) -> None:
        assert hidden.dtype == self.dtype and out.dtype == torch.float32, (hidden.dtype, out.dtype)
        assert hidden.shape == out.shape == (len(hidden), self.layer.hidden), hidden.shape
        assert hidden.stride(1) == 1 and out.stride(1) == 1

    def _expert(
        self, weights: ExpertWeights, tokens: Tensor | None, by: Tensor | None, count: int
    ) -> Expert:
        up, down, *others = weights
        up_bias, down_bias, up_scales, down_scales = map(_address, others)
        if tokens is not None:
            assert tokens.dtype == torch.int64 and tokens.is_contiguous()
            count = len(tokens)
        assert by is None or (by.dtype == torch.float32 and by.is_contiguous() and len(by) == count)
        return Expert(
            up.data_ptr(),
            down.data_ptr(),
            up_bias,
            down_bias,
            up.stride(0),
            down.stride(0),
            _address(tokens),
            _address(by),
            count,
            up_scales,
            down_scales,
        )


def _address(part: Tensor | None) -> int:
    return 0 if part is None else part.data_ptr()


def measured_switch(
    kernel: ExpertKernel,
    weights: Sequence[ExpertWeights],
    counts: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024),
    *,
    rounds: int = 3,
) -> int | None:
    """The most tokens for which the kernels are not slower than torch; None: they never are.

    Asks ascending ``counts``, both in turns, over ``weights`` (more than the caches hold), until
    torch wins twice running. Torch runs with the threads it has.
    """
    last, lost = 0, 0
    both = replace(kernel, switch_tokens=None)
    at = 0
    for count in counts:
        hidden = torch.randn(count, kernel.layer.hidden).to(kernel.dtype)
        out = torch.zeros(count, kernel.layer.hidden)
        best = [math.inf, math.inf]
        for _ in range(rounds):
            for which, run in enumerate((both.run, _torch_only(both))):
                group = (weights[at % len(weights)], None, None)
                at += 1
                begin = time.perf_counter()
                run(hidden, [group], out)
                best[which] = min(best[which], time.perf_counter() - begin)
        if best[0] <= best[1]:
            last, lost = count, 0
        else:
            lost += 1
            if lost == 2:
                return last
    return last if lost else None


def _torch_only(kernel: ExpertKernel) -> Callable[[Tensor, Sequence[Group], Tensor], None]:
    def run(hidden: Tensor, groups: Sequence[Group], out: Tensor) -> None:
        for group in groups:
            kernel.run_torch(hidden, group, out)

    return run


def takes_dtype(dtype: torch.dtype) -> bool:
    """Whether the kernels compute with weights of this dtype."""
    return dtype in DTYPES


def wants_gradients(x: Tensor) -> bool:
    """Whether what is made of ``x`` has to be followed back: the kernels do not."""
    return x.requires_grad and torch.is_grad_enabled()


def linear(pool: Pool, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """``F.linear`` of a few tokens ``(T, K)`` on the kernels, into ``out`` ``(T, N)``; returns it.

    All of one dtype, rows contiguous.
    """
    parts = [x, weight, out] if bias is None else [x, weight, out, bias]
    assert all(p.dtype == x.dtype and p.stride(-1) == 1 for p in parts) and x.dtype in DTYPES
    tokens, inputs = x.shape
    assert weight.shape[1] == inputs and out.shape == (tokens, len(weight))
    pool.linear(
        DTYPES[x.dtype],
        *(x.data_ptr(), x.stride(0), tokens),
        *(weight.data_ptr(), weight.stride(0), len(weight), inputs),
        0 if bias is None else bias.data_ptr(),
        *(out.data_ptr(), out.stride(0)),
    )
    return out
