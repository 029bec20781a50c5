"""The parts of the benchmark. Each sets itself up, and takes less than 8 minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.on_gpu.accelerate import accelerate
from benchmarks.on_gpu.bench import POLICIES, Bench, say
from benchmarks.on_gpu.invariants import invariants
from engine.bounds import bound
from engine.calibrate import calibrate
from engine.hybrid import HybridEngine
from engine.recording import Silent, standing_in
from engine.replay import replay
from engine.trace import Trace

Figures = dict[str, Any]

PROMPT, NEW = 32, 24
ROUNDS = 4
PREFILL_POLICIES = ("fiddler", "makespan", "stream")
LENGTHS = (512, 1024, 2048, 4096)
BEAMS = (4, 8, 16)
SHARES = (0, 10, 20, 35, 50, 65)
"""Percent of the experts resident, for fidelity; what the card does not hold is left out."""
FIDELITY_POLICIES = ("fiddler", "stream", "lru")
SCENARIOS = {"decode": (16, 12), "prefill": (256, 4)}
"""Prompt and new tokens."""
GAP = 0.05
"""Only policies this far apart are ranked."""


def setup(bench: Bench) -> Figures:
    """Measures the machine: every later part's decisions and predictions go by it."""
    engine = bench.engine()
    seconds = 5.0 if bench.dry else min(150.0, bench.left() - 60)
    spec = calibrate(model=engine, seconds=seconds, progress=False)
    if spec.calibration is not None:
        print(repr(spec.calibration))
    host = engine.device.host  # type: ignore[union-attr]
    return {
        "hardware": spec.to_dict(),
        "pinned_bytes": host.pinned_bytes,
        "weights_bytes": host.total_bytes,
        "notes": engine.device.notes,  # type: ignore[union-attr]
    }


def decode(bench: Bench) -> Figures:
    """Tokens/s of each policy under the budget, in turns."""
    engine = bench.engine()
    budget = bench.budget(engine)
    speeds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    bounds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    shown: dict[str, str] = {}
    new = 4 if bench.dry else NEW
    for number in range(-1, ROUNDS):  # the first warms up caches, which would begin empty
        for policy in POLICIES:
            if number > 0 and bench.left() < 20:
                break
            engine.replan(policy=policy, gpu_memory=budget)
            trace = bench.run(engine, bench.prompt(_few(bench, PROMPT), number + 1), new)
            if number < 0:
                continue
            speeds[policy].append(trace.summary.tokens_per_s)
            bounds[policy].append(trace.summary.tokens_per_s / bound(trace).tokens_per_s)
            shown[policy] = (
                f"hit rate {trace.summary.hit_rate:.0%}, lanes {_busy(trace.summary.busy)}"
            )
        say(f"round {number + 1} of {ROUNDS}, {bench.passed}")
    found: Figures = {}
    for policy, measured in speeds.items():
        scaled = [speed * bench.scale for speed in measured]
        found[policy] = {
            "tokens_per_s": float(np.median(scaled)),
            "low": min(scaled),
            "high": max(scaled),
            "rounds": len(scaled),
            "fraction_of_bound": float(np.median(bounds[policy])) if _calibrated(bench) else None,
        }
        say(f"{policy}: {shown[policy]}")
    return {"policies": found, "prompt_tokens": PROMPT, "new_tokens": new, "budget_bytes": budget}


def dense(bench: Bench) -> Figures:
    """A decode step without experts: given to the GPU kernel by kernel, as transformers does, and
    as graphs."""
    engine = bench.engine()
    graphs = engine._generator._graphs
    assert graphs is not None
    few, many = (8, 12) if bench.dry else (8, 72)
    took: dict[str, list[float]] = {"kernel by kernel": [], "as graphs": []}
    before = graphs.replayed
    with standing_in(engine.session.store, Silent()):
        for number in range(-1, ROUNDS):  # the first warms up, and records
            for name, seconds in took.items():
                graphs.wanted = name == "as graphs"
                spent = [_seconds(bench, engine, new) for new in (few, many)]
                if number >= 0:
                    seconds.append((spent[1] - spent[0]) / (many - few))
    graphs.wanted = True
    found = {name: 1e3 * float(np.median(seconds)) for name, seconds in took.items()}
    for name, ms in found.items():
        say(f"a step's dense part {name}: {ms:.2f} ms")
    return {
        "ms_per_token": found, "replayed": graphs.replayed - before, "why_not": graphs.why_not,
    }  # fmt: skip


def _seconds(bench: Bench, engine: HybridEngine, new: int) -> float:
    begin = time.perf_counter()
    bench.run(engine, bench.prompt(_few(bench, PROMPT)), new)
    return time.perf_counter() - begin


def prefill(bench: Bench) -> Figures:
    """Tokens of long prompts per second."""
    engine = bench.engine()
    budget = bench.budget(engine)
    runs: dict[str, float] = {}
    for length in LENGTHS:
        for policy in PREFILL_POLICIES:
            if bench.left() < 30:
                continue
            engine.replan(policy=policy, gpu_memory=budget)
            trace = bench.run(engine, bench.prompt(_few(bench, length)), 1)
            name = f"prefill of {length} tokens, `{policy}`"
            runs[name] = trace.summary.prefill_tokens_per_s * bench.scale
            say(f"{name}, {bench.passed}")
    return {"runs": runs}


def beams(bench: Bench) -> Figures:
    """Beam search: tokens of the answer per second, beams side by side."""
    engine = bench.engine()
    budget = bench.budget(engine)
    runs: dict[str, float] = {}
    for width in BEAMS:
        for policy in ("fiddler", "makespan"):
            if bench.left() < 30:
                continue
            engine.replan(policy=policy, gpu_memory=budget)
            prompt, new = (3, 1) if bench.dry else (PROMPT, 12)
            with bench.side_by_side(engine, width):
                trace = bench.run(engine, bench.prompt(prompt), new, num_beams=width)
            name = f"beam search of width {width}, `{policy}`"
            runs[name] = _answer(trace) * bench.scale
            say(f"{name}, {bench.passed}")
    return {"runs": runs}


def fidelity(bench: Bench) -> Figures:
    """What a replay predicts for a run, against what was measured: speed of each case."""
    engine = bench.engine()
    cases: list[Figures] = []
    for share, budget in _budgets(bench, engine):
        for scenario, (prompt, new) in SCENARIOS.items():
            for policy in FIDELITY_POLICIES:
                if bench.left() < 15:
                    continue
                engine.replan(policy=policy, gpu_memory=budget, cache_slots=0)
                if policy == "lru":
                    engine.replan(cache_slots=engine.plan.room)
                ids = bench.prompt(_few(bench, prompt), share)
                trace = bench.run(engine, ids, 3 if bench.dry else new)
                told = replay(trace, policy=policy).trace
                speeds = [_speed(each, scenario) for each in (trace, told)]
                cases.append(
                    {"share": share, "scenario": scenario, "policy": policy,
                     "measured": speeds[0], "predicted": speeds[1],
                     "error_percent": 100 * (speeds[1] / speeds[0] - 1)}
                )  # fmt: skip
        say(f"{share}% of the experts, {bench.passed}")
    if not cases:
        raise RuntimeError("no time was left for a case: run this part by itself (--part fidelity)")
    errors = [abs(case["error_percent"]) for case in cases]
    right, ranked = _ranking(cases)
    return {
        "mape_percent": float(np.mean(errors)), "worst_percent": max(errors),
        "cases": len(cases), "ranked_right": right, "ranked": ranked, "runs": cases,
        "calibrated": _calibrated(bench),
    }  # fmt: skip


def _budgets(bench: Bench, engine: HybridEngine) -> list[tuple[int, int]]:
    """Percent of the experts resident, and the budget for it, as far as the card holds it."""
    plan, experts = engine.plan, bench.layers * bench.shape.experts
    most = engine.device.usable_bytes  # type: ignore[union-attr]
    found = [
        (share, plan.minimum_bytes + experts * share // 100 * plan.expert_bytes) for share in SHARES
    ]
    return [(share, budget) for share, budget in found if budget <= most]


def _speed(trace: Trace, scenario: str) -> float:
    summary = trace.summary
    return summary.tokens_per_s if scenario == "decode" else summary.prefill_tokens_per_s


def _ranking(cases: list[Figures]) -> tuple[int, int]:
    """Of pairs of policies that measured speeds tell apart: how many a prediction ranks alike."""
    right = ranked = 0
    for one, other in combinations(cases, 2):
        if (one["share"], one["scenario"]) != (other["share"], other["scenario"]):
            continue
        fast, slow = sorted((one, other), key=lambda case: -case["measured"])
        if fast["measured"] / slow["measured"] - 1 > GAP:
            ranked += 1
            right += fast["predicted"] > slow["predicted"]
    return right, ranked


def _answer(trace: Trace) -> float:
    """Tokens/s of the best answer; 0 where it is the prefill's token alone, as in a dry run."""
    speed = trace.summary.tokens_per_s
    return speed if np.isfinite(speed) else 0.0


def _few(bench: Bench, tokens: int) -> int:
    return min(tokens, 12) if bench.dry else tokens


def _calibrated(bench: Bench) -> bool:
    return "setup" in bench.results.parts


def _busy(busy: dict[str, float]) -> str:
    return ", ".join(f"{lane} {share:.0%}" for lane, share in busy.items())


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "setup": setup,
    "decode": decode,
    "dense": dense,
    "accelerate": accelerate,
    "fidelity": fidelity,
    "prefill": prefill,
    "beams": beams,
    "invariants": invariants,
}
"""In the order in which they are run."""
ALONE = ("accelerate",)
"""Parts that need the whole memory for a model of their own."""
