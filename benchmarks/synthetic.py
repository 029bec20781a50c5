"""Made-up routing: how fast it is made and fitted, and how like its source it is.

Draws 2,000 tokens of two grids that nobody here can run (routing alone, then the whole trace with
its replay), fits the bundled run and compares made-up traces with it. Last line: JSON.

    python benchmarks/synthetic.py [--tokens 2000] [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.spec import ModelSpec
from engine.synthetic import Router, SyntheticRouting, likeness, synthetic_trace
from fiddler_viz import demo

MODELS = ("qwen3-30b-a3b", "deepseek-v3")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    source = demo.trace()
    fitted, fit_s = timed(lambda: SyntheticRouting.fit(source))
    result: dict[str, Any] = {"machine": platform.machine(), "tokens": args.tokens}
    result["fit_s"] = round(fit_s, 2)
    print(f"fitted to the bundled run in {fit_s:.2f} s: {fitted!r}")
    domain, first = np.zeros(args.tokens, np.int64), np.arange(args.tokens) == 0
    options: dict[str, Any] = {"prompt_tokens": 0, "decode_tokens": args.tokens}
    options["gpu_memory"] = "50%"
    for name in MODELS:
        model = ModelSpec.preset(name)
        router = Router.of(fitted, model.grid, model.top_k, 0)
        _, draw_s = timed(partial(router.draw, domain, first, np.random.default_rng(0)))
        _, trace_s = timed(partial(synthetic_trace, name, routing=fitted, **options))
        grid = f"{model.layers} x {model.experts} top-{model.top_k}"
        print(f"{grid}: routing {draw_s:.2f} s, trace with its replay {trace_s:.2f} s")
        key = name.split("-")[0]
        result |= {f"{key}_draw_s": round(draw_s, 2), f"{key}_trace_s": round(trace_s, 2)}
    apart: list[float] = []
    lru: list[float] = []
    for seed in range(args.seeds):
        made = synthetic_trace(
            source.model, routing=fitted, prompt_tokens=14, decode_tokens=256, seed=seed
        )
        frame = likeness(source, made).to_pandas()
        print(frame.to_string(index=False, float_format="{:.3f}".format))
        apart += frame["difference"].abs().tolist()
        lru += frame["difference"].abs()[frame["figure"].str.startswith("LRU")].tolist()
    result |= {
        "worst_difference": round(max(apart), 4),
        "mean_difference": round(sum(apart) / len(apart), 4),
        "worst_lru_difference": round(max(lru), 4),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
