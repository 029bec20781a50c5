"""How long hit-rate curves take: LRU and OPT for every cache size at once, 65,000 expert calls.

Made-up decoding of one sequence on Mixtral's grid (32 layers x 8 experts, top-2) and Qwen3-30B's
(48 x 128, top-8), with popular experts and some locality; and the other curves beside them.
``lru_opt_ms`` is the slower grid's, LRU and OPT together, median of the repeats.

    python benchmarks/curves.py [--calls 65000] [--repeats 9]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.frequency import frequency_hits
from engine.native import library
from engine.stacks import Requests, lru_hits, opt_hits

GRIDS = (("mixtral-8x7b", 32, 8, 2), ("qwen3-30b-a3b", 48, 128, 8))
SIZES = 33


def requests(layers: int, experts: int, top_k: int, calls: int) -> Requests:
    """Gumbel top-k from a fixed taste per layer, the previous token's experts preferred."""
    rng = np.random.default_rng(0)
    tokens = -(-calls // (layers * top_k))
    taste = rng.normal(0.0, 0.6, (layers, experts))
    before = np.zeros((layers, experts))
    chosen = np.empty((tokens, layers, top_k), dtype=np.int64)
    for token in range(tokens):
        score = taste + 0.8 * before + rng.gumbel(size=(layers, experts))
        best = np.sort(np.argsort(-score, axis=1)[:, :top_k], axis=1)
        chosen[token] = best
        before[:] = 0.0
        np.put_along_axis(before, best, 1.0, axis=1)
    flat = (np.arange(layers)[:, None] * experts + chosen).ravel()
    first = np.arange(tokens * layers + 1) * top_k
    return Requests(layers * experts, first, flat, np.repeat(np.arange(tokens), layers))


def timed(task: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds."""
    times: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        task()
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=65_000)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    grids: dict[str, Any] = {}
    for name, layers, experts, top_k in GRIDS:
        asked = requests(layers, experts, top_k, arguments.calls)
        sizes = np.unique(np.linspace(0, asked.experts, SIZES).round().astype(np.int64))
        found = {
            "calls": len(asked),
            "sizes": asked.experts + 1,
            "lru_ms": timed(lambda asked=asked: lru_hits(asked), arguments.repeats),
            "opt_ms": timed(lambda asked=asked: opt_hits(asked), arguments.repeats),
            "lru_opt_ms": timed(
                lambda asked=asked: (lru_hits(asked), opt_hits(asked)), arguments.repeats
            ),
            "lfu_33_sizes_ms": timed(
                lambda asked=asked, sizes=sizes: frequency_hits(asked, sizes),
                min(3, arguments.repeats),
            ),
        }
        grids[name] = {key: round(value, 2) for key, value in found.items()}
        print(f"{name}: {layers} x {experts}, top-{top_k}")
        for key, value in grids[name].items():
            print(f"  {key:16} {value:10,.1f}" if key.endswith("ms") else f"  {key:16} {value:8,}")
    result = {
        "lru_opt_ms": max(grid["lru_opt_ms"] for grid in grids.values()),
        "grids": grids,
        "compiled": library() is not None,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
