"""The paper's two environments: the demo's routing, Mixtral-8x7B's bytes, modelled.

    python benchmarks/paper.py [--tokens 128]

Nothing here is fitted to the paper's results: the profiles come from datasheets and the authors'
own microbenchmark (their sources are printed with --sources). Published figures are quoted from
arXiv 2402.07033 beside ours. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json

import torch

import fiddler_viz as fv

PUBLISHED = {
    # environment: profile, budget, experts on the GPU, tokens/s of Fiddler, hit rate by popularity
    "1": ("quadro-rtx-6000", "24GB", 56, 2.34, 0.252),
    "2": ("rtx-6000-ada", "48GB", 125, 7.28, 0.530),
}
PROMPT = "To be, or not to be, that is the question:"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=int, default=128)
    options.add_argument("--sources", action="store_true")
    chosen = options.parse_args()
    engine = fv.load("demo", as_model="mixtral-8x7b", hardware="quadro-rtx-6000")
    torch.manual_seed(0)
    run = engine.generate(PROMPT, chosen.tokens, do_sample=True, temperature=0.7)
    found: dict[str, dict[str, float]] = {}
    print(
        f"{'env':<5}{'experts (paper)':>17}{'hit rate (paper)':>18}{'fiddler (paper)':>20}"
        f"{'stream':>8}{'ratio':>8}"
    )
    for name, (hardware, budget, experts, speed, hits) in PUBLISHED.items():
        what_if = {
            policy: fv.replay(run, hardware=hardware, gpu_memory=budget, policy=policy)
            for policy in ("fiddler", "stream")
        }
        ours, stream = what_if["fiddler"].summary, what_if["stream"].summary
        plan = what_if["fiddler"].trace.plan
        ratio = ours.tokens_per_s / stream.tokens_per_s
        print(
            f"{name:<5}{f'{len(plan.pinned)} ({experts})':>17}"
            f"{f'{ours.hit_rate:.1%} ({hits:.1%})':>18}"
            f"{f'{ours.tokens_per_s:.2f} ({speed})':>20}{stream.tokens_per_s:>8.2f}{ratio:>8.2f}"
        )
        found[name] = {
            "experts": len(plan.pinned),
            "tokens_per_s": round(ours.tokens_per_s, 3),
            "paper_tokens_per_s": speed,
            "stream_tokens_per_s": round(stream.tokens_per_s, 3),
            "fiddler_over_stream": round(ratio, 2),
            "hit_rate": round(ours.hit_rate, 3),
        }
        if name == "1":
            parts = {
                "dense": plan.dense_bytes,
                "KV cache": plan.kv_bytes,
                "workspace": plan.workspace_bytes,
            }
            text = ", ".join(f"{part} {size / 1e9:.2f} GB" for part, size in parts.items())
            print(f"     of 24 GB: {text}; an expert takes {plan.expert_bytes / 1e6:.0f} MB")
    print("all times modelled; tokens/s here are decode only, the paper's mean includes prefill")
    if chosen.sources:
        for hardware, *_ in PUBLISHED.values():
            print(f"\n{hardware}")
            for field, source in fv.HardwareSpec.preset(hardware).sources.items():
                print(f"  {field}: {source}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
