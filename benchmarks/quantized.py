"""Experts of 8 and 4 bits on the CPU's kernels, beside the same experts in bfloat16.

    python benchmarks/quantized.py [--shapes mixtral qwen3] [--tokens 1 4 16 512] [--rounds 7]

Per shape, scheme and number of tokens: milliseconds for each expert, where a call takes as many as
a token goes to, and more experts take turns than any cache holds (2 GB in bfloat16). Schemes take
turns in each round; figures are medians over rounds, ratios medians of the rounds' own ratios. The
rate says how fast weights were read, beside the rate at which the kernels' threads read memory.

Errors are of weights (squared, relative) and of an expert's output for random tokens, both on
normally distributed weights. Last line: JSON with ``int8_vs_bf16`` and ``int4_vs_bf16`` (1 token,
the lower shape's), ``int8_prefill`` and ``int4_prefill`` (the most tokens), ``int8_error`` and
``int4_error`` (of weights), ``int8_output_error`` and ``int4_output_error``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from engine.expert import run_expert
from engine.expert_kernel import ExpertKernel
from engine.kernels import Pool
from engine.levels import SCHEMES, dequantise, group_for, quantise
from engine.machine import this_machine
from engine.store import ExpertWeights
from engine.threads import torch_team

WHOLE_BYTES = 2_000_000_000
BLOCK = 1 << 24
"""Random numbers drawn; weights are cut from them at changing places, for drawing takes long."""


@dataclass(frozen=True)
class Shape:
    """A model's experts."""

    hidden: int
    inner: int
    top_k: int

    @property
    def n_weights(self) -> int:
        return 3 * self.hidden * self.inner


SHAPES = {"mixtral": Shape(4096, 14336, 2), "qwen3": Shape(2048, 768, 8)}


def expert(shape: Shape, block: Tensor, number: int) -> ExpertWeights:
    """One expert in bfloat16."""

    def cut(rows: int, columns: int) -> Tensor:
        made = torch.empty(rows * columns, dtype=torch.bfloat16)
        for turn, start in enumerate(range(0, len(made), BLOCK // 2)):
            part = made[start : start + BLOCK // 2]
            shift = (977 * number + 131 * turn + 31 * rows) % (BLOCK // 2)  # no two parts alike
            part.copy_(block[shift : shift + len(part)])
        return made.view(rows, columns)

    return ExpertWeights(cut(2 * shape.inner, shape.hidden), cut(shape.hidden, shape.inner))


def quantised(weights: ExpertWeights, scheme: str, group: int) -> ExpertWeights:
    """The same of 8 or 4 bits."""

    def both(part: Tensor) -> tuple[Tensor, Tensor]:
        made = [quantise(some, SCHEMES[scheme], group) for some in part.split(512)]
        levels, scales = zip(*made, strict=True)
        return torch.cat(levels), torch.cat(scales)

    (up, up_scales), (down, down_scales) = both(weights.up), both(weights.down)
    return ExpertWeights(up, down, None, None, up_scales, down_scales)


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).square().sum() / want.square().sum())


def time_ms(
    kernel: ExpertKernel, experts: list[ExpertWeights], shape: Shape, tokens: int, calls: int
) -> float:
    """Of one expert, over so many calls of ``top_k`` experts."""
    hidden = torch.randn(tokens, shape.hidden).bfloat16()
    out = torch.zeros(tokens, shape.hidden)
    groups = [
        [(experts[(call * shape.top_k + i) % len(experts)], None, None) for i in range(shape.top_k)]
        for call in range(calls)
    ]
    kernel.run(hidden, groups[-1], out)  # wakes the threads
    start = time.perf_counter()
    for group in groups:
        kernel.run(hidden, group, out)
    return (time.perf_counter() - start) * 1e3 / (calls * shape.top_k)


def measure(
    name: str, shape: Shape, counts: list[int], rounds: int, pool: Pool
) -> tuple[dict[tuple[str, int], float], dict[str, tuple[float, float]]]:
    """(scheme, tokens) -> times as fast as bfloat16; scheme -> errors of weights and outputs."""
    block = (torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    number = -(-WHOLE_BYTES // (2 * shape.n_weights))
    number = -(-number // shape.top_k) * shape.top_k
    plain = [expert(shape, block, n) for n in range(number)]
    group = group_for(shape.hidden, shape.inner)
    with torch.device("meta"):
        config = SimpleNamespace(
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_local_experts=number,
            hidden_act="silu",
        )
        module = MixtralExperts(config)
    schemes = {"bf16": plain}
    for scheme in SCHEMES:
        schemes[scheme] = [quantised(each, scheme, group) for each in plain]
    x = torch.randn(4, shape.hidden, generator=torch.Generator().manual_seed(1))
    want = run_expert(module, ExpertWeights(plain[0].up.float(), plain[0].down.float()), x)
    errors: dict[str, tuple[float, float]] = {}
    kernels: dict[str, ExpertKernel] = {}
    for scheme, experts in schemes.items():
        kernel = ExpertKernel.of(module, experts[0], pool, dtype=torch.bfloat16)
        assert kernel is not None
        kernels[scheme], first, out = kernel, experts[0], torch.zeros(4, shape.hidden)
        kernel.run(x.bfloat16(), [(first, None, None)], out)
        off = 0.0
        if first.up_scales is not None:
            off = relative(
                dequantise(first.up, first.up_scales, torch.float32), plain[0].up.float()
            )
        errors[scheme] = off, relative(out, want)
    ratios: dict[tuple[str, int], float] = {}
    for tokens in counts:
        calls = max(1, number // shape.top_k // (1 if tokens <= 16 else 4))
        found: dict[str, list[float]] = {scheme: [] for scheme in schemes}
        rates: list[float] = []
        for turn in range(rounds + 1):  # the first one warms up
            for scheme, experts in schemes.items():
                ms = time_ms(kernels[scheme], experts, shape, tokens, calls)
                if turn:
                    found[scheme].append(ms)
            if turn and tokens == 1:
                rates.append(ceiling(pool, plain))
        for scheme, times in found.items():
            ratios[scheme, tokens] = float(np.median(np.array(found["bf16"]) / np.array(times)))
            ms, read = float(np.median(times)), schemes[scheme][0].n_bytes
            print(
                f"{name:8} {tokens:4} tokens {scheme:5} {ms:8.3f} ms an expert, "
                f"{read / ms / 1e6:5.1f} GB/s, {ratios[scheme, tokens]:.2f} x bf16"
            )
        if rates:
            print(f"{name:8} memory is read at {np.median(rates):.1f} GB/s")
        print(f"{name}, {tokens} tokens: done", file=sys.stderr, flush=True)
    for scheme, (weights, outputs) in errors.items():
        print(f"{name:8} {scheme:5} error of weights {weights:.2e}, of outputs {outputs:.2e}")
    return ratios, errors


def ceiling(pool: Pool, experts: list[ExpertWeights]) -> float:
    """GB/s at which the kernels' threads read weights and do nothing with them, prefetched."""
    start, read = time.perf_counter(), 0
    for each in experts:
        for part in (each.up, each.down):
            read += pool.stream(part.data_ptr(), part.numel() * 2, prefetch=True)
    return read / (time.perf_counter() - start) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 16, 512])
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the kernels have threads of their own
    pool = Pool(team=torch_team())
    print(f"{this_machine()}, {pool!r}, load {os.getloadavg()[0]:.1f}")
    ratios: dict[tuple[str, int], float] = {}
    errors: dict[str, tuple[float, float]] = {}
    for name in chosen.shapes:
        found, off = measure(name, SHAPES[name], chosen.tokens, chosen.rounds, pool)
        ratios = {key: min(value, ratios.get(key, value)) for key, value in found.items()}
        errors = {key: max(value, errors.get(key, value)) for key, value in off.items()}
    few, many = min(chosen.tokens), max(chosen.tokens)
    figures: dict[str, float] = {}
    for scheme in SCHEMES:
        figures[f"{scheme}_vs_bf16"] = round(ratios[scheme, few], 3)
        figures[f"{scheme}_prefill"] = round(ratios[scheme, many], 3)
        figures[f"{scheme}_error"] = float(f"{errors[scheme][0]:.3g}")
        figures[f"{scheme}_output_error"] = float(f"{errors[scheme][1]:.3g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
