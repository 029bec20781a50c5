"""Every policy on the demo's routing and on synthetic routing, beside the bound; and the planners.

    python benchmarks/policies.py [--write docs/policies.md]

All times are modelled. Profiles are measured on other text than the one judged: the demo's on the
bundled calibration text, the synthetic ones on the tokens before. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from steps import regrouped

import fiddler_viz as fv
from engine.bounds import bound
from engine.placement import change_plan, make_plan
from engine.plan import Plan
from engine.policies import POLICIES
from engine.profile import Profile
from engine.replay import replay_plan
from engine.synthetic import SyntheticRouting, synthetic_trace
from engine.trace import Trace

PROMPT = "To be, or not to be, that is the question:"
SAMPLE, JUDGED, ACCURACY = 2048, 400, 0.8
KV_TOKENS = 4096
SHARES = ("25%", "50%", "75%")
PLANNED = ("fiddler", "makespan")


@dataclass(frozen=True)
class Case:
    """A run to be replayed, and what is known of its routing from other text."""

    name: str
    trace: Trace
    profile: Profile
    hardware: str
    gpu_memory: str

    def plan(self, policy: str, **changes: Any) -> Plan:
        options = {"gpu_memory": self.gpu_memory, "max_tokens": KV_TOKENS, **changes}
        return make_plan(self.trace.model, self.hardware, self.profile, policy=policy, **options)


def cases(tokens: int) -> Iterator[Case]:
    engine = fv.load("demo", as_model="mixtral-8x7b", hardware="quadro-rtx-6000")
    torch.manual_seed(0)
    run = engine.generate(PROMPT, tokens, do_sample=True, temperature=0.7, predictions=True)
    demo = run.trace, engine.profile
    yield Case("demo as Mixtral-8x7B, Quadro RTX 6000, 24 GB", *demo, "quadro-rtx-6000", "24GB")
    yield Case("demo as Mixtral-8x7B, RTX 6000 Ada, 48 GB", *demo, "rtx-6000-ada", "48GB")
    fitted = SyntheticRouting.fit(fv.demo.trace())
    for model, hardware, memory in (
        ("qwen3-30b-a3b", "rtx-4090", "24GB"),
        ("olmoe-1b-7b", "rtx-3060-laptop", "6GB"),
    ):
        drawn = synthetic_trace(
            model, routing=fitted, prompt_tokens=0, decode_tokens=SAMPLE + JUDGED,
            gpu_memory="100%", accuracy=ACCURACY,
        )  # fmt: skip
        known = Profile.from_trace(regrouped(drawn, [SAMPLE]), "the tokens before")
        judged = regrouped(drawn, [1] * JUDGED, first=SAMPLE)
        yield Case(f"synthetic {model}, {hardware}, {memory}", judged, known, hardware, memory)


def policies(case: Case) -> tuple[list[str], dict[str, Any]]:
    """Lines of a markdown table, and its figures."""
    best = bound(case.trace, case.plan("fiddler")).tokens_per_s
    lines = [
        f"### {case.name}",
        "",
        "| policy | tokens/s | of the bound | hit rate | to the device, GB a token |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    found: dict[str, Any] = {"bound": round(best, 2)}
    for policy in POLICIES:
        began = time.perf_counter()
        made = replay_plan(case.trace, case.plan(policy)).summary
        took = time.perf_counter() - began
        many = made.prompt_tokens + made.generated_tokens
        lines.append(
            f"| `{policy}` | {made.tokens_per_s:.2f} | {made.tokens_per_s / best:.0%} | "
            f"{made.hit_rate:.1%} | {made.h2d_bytes / many / 1e9:.2f} |"
        )
        found[policy] = round(made.tokens_per_s, 2)
        print(f"{case.name}: {policy} {made.tokens_per_s:.2f} tokens/s ({took:.1f} s)", flush=True)
    return [*lines, f"| the bound | {best:.2f} | 100% | | |", ""], found


def planners(case: Case) -> tuple[list[str], dict[str, float]]:
    """Planner makespan against popularity, without a cache, on text that neither has seen."""
    lines: list[str] = []
    found: dict[str, float] = {}
    for policy in PLANNED:
        for share in SHARES:
            plan = case.plan(policy, gpu_memory=share, cache_slots=0)
            speeds = {}
            for planner in ("makespan", "popularity", "uniform", "random"):
                made = change_plan(plan, model=case.trace.model, planner=planner)
                speeds[planner] = replay_plan(case.trace, made).summary.tokens_per_s
            gain = speeds["makespan"] / speeds["popularity"] - 1
            cells = " | ".join(f"{speed:.2f}" for speed in speeds.values())
            lines.append(f"| {case.name} | `{policy}` | {share} | {cells} | {gain:+.2%} |")
            found[f"{policy} {share}"] = round(100 * gain, 2)
    return lines, found


def page(tables: list[str], gains: list[str], tokens: int) -> str:
    return "\n".join(
        [
            "# Policies and planners, compared",
            "",
            "Written by `python benchmarks/policies.py --write docs/policies.md`. All times are",
            "modelled: replays of one routing under each policy, same budget, same machine; the",
            "profiles are those of `engine/data/hardware`, from datasheets. Decode tokens per",
            "second. A policy's cache takes the share of the room that it has by default, and",
            "begins empty. *The bound* is the speed that no policy can exceed (`fv.bound`).",
            f"`prefetch` goes by the demo's own predictions; by {ACCURACY:.0%} right ones on",
            "synthetic routing, which is fitted to the demo's. `belady` knows the future and has",
            "the most hits of all that copy on demand; hits are not time, for it never uses the",
            "CPU. `stream_all`, `layers`, `lru_layer` and others stand for whole systems, with",
            "this project's kernel and cost model: a system's own speed differs. The demo's",
            f"run has {tokens} new tokens, and KV cache is reserved for {KV_TOKENS:,} (the",
            "README's first table: 128 and 512, so one more expert fits there).",
            "",
            "## Policies",
            "",
            *tables,
            "## Planners, on text that the profile was not measured on",
            "",
            "Without cache slots. The budget counts from the smallest that works to everything",
            "resident. Gain: `makespan` over `popularity`.",
            "",
            "| routing, machine | policy | budget | makespan | popularity | uniform | random "
            "| gain |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *gains,
            "",
        ]
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--tokens", type=int, default=256, help="new tokens of the demo's run")
    options.add_argument("--write", type=Path, help="a markdown file for the tables")
    chosen = options.parse_args()
    tables: list[str] = []
    gains: list[str] = []
    found: dict[str, Any] = {}
    for case in cases(chosen.tokens):
        lines, speeds = policies(case)
        tables += lines
        lines, gained = planners(case)
        gains += lines
        found[case.name] = {"tokens_per_s": speeds, "makespan_planner_gain_percent": gained}
    text = page(tables, gains, chosen.tokens)
    print(text)
    if chosen.write is not None:
        chosen.write.parent.mkdir(parents=True, exist_ok=True)
        chosen.write.write_text(text, encoding="utf-8")
    print(json.dumps({"clock": "modelled", **found}))


if __name__ == "__main__":
    main()
