"""One expert computed in several ways, in turns: what ``benchmarks/kernels.py`` runs."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from engine.expert_kernel import ExpertKernel, measured_switch
from engine.kernels import Pool
from engine.machine import this_machine
from engine.pages import empty
from engine.store import ExpertWeights
from engine.threads import torch_team

SHAPES = {"mixtral": (4096, 14336), "qwen3": (2048, 768), "olmoe": (2048, 1024)}
"""Hidden size and the experts' own."""
SMALL = ("qwen3", "olmoe")
TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
WEIGHT_BYTES = 2 << 30
"""Of all experts that take turns."""
PAUSE = 0.02
"""Seconds in which threads of others fall asleep."""
BLOCK = 0.05
"""Seconds that a block of calls is to take, about."""

Run = Callable[[int], object]
"""Computes the expert of this number."""


class Prepacked(NamedTuple):
    """An expert as oneDNN stores it for one number of tokens."""

    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, weights: ExpertWeights, tokens: int) -> Prepacked:
        pack = torch.ops.mkldnn._reorder_linear_weight
        return cls(*(pack(part, tokens) for part in (weights.up, weights.down)))

    def run(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        gate, up = linear(x, self.up, None, "none", [], "").chunk(2, dim=-1)
        return linear(F.silu(gate) * up, self.down, None, "none", [], "")


def ceiling_gbps(
    threads: int | None = None, *, prefetch: bool | None = None, n_bytes: int = 1 << 30
) -> float:
    """The rate at which memory is read, in GB/s: the better of plain loads and prefetches.

    ``prefetch``: only this kind. Of three passes over ``n_bytes``, the best.
    """
    pool = Pool(threads)
    memory = empty((n_bytes,), torch.uint8).fill_(1)
    rates: list[float] = []
    for _ in range(3):
        for kind in (False, True) if prefetch is None else (prefetch,):
            begin = time.perf_counter()
            read = pool.stream(memory.data_ptr(), n_bytes, prefetch=kind)
            rates.append(read / (time.perf_counter() - begin) / 1e9)
    pool.close()
    return max(rates)


class Experts:
    """Experts of one shape in one piece of memory, and the ways to compute one of them."""

    def __init__(self, hidden: int, inner: int, pool: Pool, *, switch: bool) -> None:
        self.pool, self.hidden = pool, hidden
        self.expert_bytes = 3 * hidden * inner * 2
        self.count = max(2, WEIGHT_BYTES // self.expert_bytes)
        each = 3 * hidden * inner
        self.memory = empty((self.count * each,), torch.bfloat16)  # as the loader has them
        rows = self.memory.view(self.count, each)
        rows[0] = torch.randn(each, generator=torch.Generator().manual_seed(0)) * 0.02
        rows[1:] = rows[0]
        self.weights = [
            ExpertWeights(
                row[: 2 * hidden * inner].view(2 * inner, hidden),
                row[2 * hidden * inner :].view(hidden, inner),
            )
            for row in rows
        ]
        with torch.device("meta"):
            module = MixtralExperts(
                SimpleNamespace(
                    hidden_size=hidden,
                    intermediate_size=inner,
                    num_local_experts=1,
                    hidden_act="silu",
                )
            )
        kernel = ExpertKernel.of(module, self.weights[0], pool)
        assert kernel is not None
        self.switch = measured_switch(kernel, self.weights) if switch else None
        found = ExpertKernel.of(module, self.weights[0], pool, switch_tokens=self.switch)
        assert found is not None
        self.kernel = found

    def ways(self, tokens: int) -> dict[str, Run]:
        """By name. What the kernels and ``added`` give is added in float32; the others' stays
        bfloat16."""
        x = torch.randn(tokens, self.hidden).to(torch.bfloat16)
        out = torch.zeros(tokens, self.hidden)
        packed = [Prepacked.of(weights, tokens) for weights in self.weights]

        def three(number: int) -> Tensor:
            up, down = self.weights[number][:2]
            half = len(up) // 2
            gate = F.silu(F.linear(x, up[:half]))
            return F.linear(gate * F.linear(x, up[half:]), down)

        def fused(number: int) -> Tensor:
            up, down = self.weights[number][:2]
            gate, other = F.linear(x, up).chunk(2, dim=-1)
            return F.linear(F.silu(gate) * other, down)

        expected = three(0).float()
        ways: dict[str, Run] = {
            "kernels": lambda number: self.kernel.run(x, [(self.weights[number], None, None)], out),
            "linear": three,
            "fused": fused,
            "prepacked": lambda number: packed[number].run(x),
            "added": lambda number: self.kernel.run_torch(
                x, (self.weights[number], None, None), out
            ),
        }
        ways["kernels"](0)
        for name, found in (("kernels", out), ("fused", fused(0)), ("prepacked", packed[0].run(x))):
            error = (found.float() - expected).norm() / expected.norm()
            assert error < 0.02, (name, float(error))
        return ways

    def stream(self, prefetch: bool) -> float:
        """GB/s."""
        n_bytes = min(self.memory.nbytes, 1 << 29)
        begin = time.perf_counter()
        read = self.pool.stream(self.memory.data_ptr(), n_bytes, prefetch=prefetch)
        return read / (time.perf_counter() - begin) / 1e9


class Turns:
    """Which expert is next: never one that a cache may still hold."""

    def __init__(self, count: int) -> None:
        self._count, self._next = count, 0

    def __next__(self) -> int:
        self._next = (self._next + 1) % self._count
        return self._next


def block(run: Run, turns: Turns) -> float:
    """Median seconds of calls one after the other."""
    time.sleep(PAUSE)
    begin = time.perf_counter()
    run(next(turns))
    times: list[float] = []
    calls = min(40, max(3, int(BLOCK / (time.perf_counter() - begin))))
    for _ in range(calls if time.perf_counter() - begin < 1 else 1):
        begin = time.perf_counter()
        run(next(turns))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


class Figures(NamedTuple):
    """Of one shape and number of tokens, by round."""

    seconds: dict[str, list[float]]
    gbps: dict[bool, list[float]]
    """Read, without and with prefetches."""
    expert_bytes: int

    def versus(self, names: Sequence[str]) -> float:
        """How many times the kernels are faster than the best of these."""
        times = zip(self.seconds["kernels"], *(self.seconds[name] for name in names), strict=True)
        return statistics.median(min(others) / ours for ours, *others in times)

    def fraction(self, prefetch: bool) -> float:
        """The kernels' rate, of that at which memory is read."""
        rounds = zip(self.seconds["kernels"], self.gbps[prefetch], strict=True)
        return statistics.median(self.expert_bytes / 1e9 / s / rate for s, rate in rounds)


def measure(experts: Experts, tokens: int, rounds: int) -> Figures:
    ways = experts.ways(tokens)
    turns = Turns(experts.count)
    figures = Figures({name: [] for name in ways}, {False: [], True: []}, experts.expert_bytes)
    for number in range(rounds):
        names = list(ways) if number % 2 else list(ways)[::-1]
        for name in names:
            figures.seconds[name].append(block(ways[name], turns))
        time.sleep(PAUSE)
        for kind, rates in figures.gbps.items():
            rates.append(experts.stream(kind))
    return figures


def main(description: str) -> None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-switch", action="store_true", help="never leave an expert to torch")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    pool = Pool(team=torch_team())  # as the engine's
    torch.set_num_threads(pool.threads)
    print(f"{this_machine()}, {pool.isa}, {pool.threads} threads, load {os.getloadavg()[0]:.1f}")
    found: dict[tuple[str, int], Figures] = {}
    for shape in chosen.shapes:
        experts = Experts(*SHAPES[shape], pool, switch=not chosen.no_switch)
        print(f"{shape} {SHAPES[shape]}: {experts.count} experts of ", end="")
        print(f"{experts.expert_bytes / 1e6:.1f} MB, to torch above {experts.switch} tokens")
        print("tokens   kernels    linear     fused prepacked     added (ms)   GB/s  plain", end="")
        print(" fetched   vs linear  fused  prepacked   added  of plain  fetched")
        for tokens in chosen.tokens:
            figures = found[shape, tokens] = measure(experts, tokens, chosen.rounds)
            print(row(tokens, figures), flush=True)
        del experts
    summary = summarise(found)
    for name, value in summary.items():
        print(f"{name}: {value}", file=sys.stderr)
    print(json.dumps(summary))


def row(tokens: int, figures: Figures) -> str:
    times = {name: statistics.median(all_) for name, all_ in figures.seconds.items()}
    plain, fetched = (statistics.median(figures.gbps[kind]) for kind in (False, True))
    return (
        f"{tokens:6}" + "".join(f"{1e3 * value:10.3f}" for value in times.values()) + f"{'':6}"
        f"{figures.expert_bytes / 1e9 / times['kernels']:6.1f} {plain:6.1f} {fetched:7.1f}"
        + "".join(f"{figures.versus([name]):10.2f}" for name in times if name != "kernels")
        + "".join(f"{figures.fraction(kind):10.3f}" for kind in (False, True))
    )


def summarise(found: dict[tuple[str, int], Figures]) -> dict[str, object]:
    """What the bars are about; None where it was not measured."""

    def least(
        value: Callable[[Figures], float], shapes: Sequence[str], low: int, high: int
    ) -> float | None:
        values = [
            value(figures)
            for (shape, tokens), figures in found.items()
            if shape in shapes and low <= tokens <= high
        ]
        return round(min(values), 3) if values else None

    every = list(SHAPES)
    torch_ways = ("linear", "fused", "prepacked")
    return {
        "mixtral_n1_fraction_of_ceiling": least(lambda f: f.fraction(False), ["mixtral"], 1, 1),
        "mixtral_n1_fraction_of_prefetched": least(lambda f: f.fraction(True), ["mixtral"], 1, 1),
        "mixtral_fraction_of_ceiling": least(lambda f: f.fraction(False), ["mixtral"], 1, 16),
        "mixtral_fraction_of_prefetched": least(lambda f: f.fraction(True), ["mixtral"], 1, 16),
        "small_vs_prepacked": least(lambda f: f.versus(["prepacked"]), SMALL, 1, 16),
        "vs_linear": {
            "1": least(lambda f: f.versus(["linear"]), every, 1, 1),
            "4-16": least(lambda f: f.versus(["linear"]), every, 4, 16),
        },
        "large_n_vs_best_torch": least(lambda f: f.versus(torch_ways), every, 32, 1 << 62),
        "large_n_vs_torch_added": least(lambda f: f.versus(["added"]), every, 32, 1 << 62),
    }
