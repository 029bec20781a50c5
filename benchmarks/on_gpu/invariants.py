"""What must hold whatever the speed: the budget, the planned peak, and what is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.on_gpu.bench import POLICIES, Bench, say
from benchmarks.on_gpu.shape import Shape, build
from engine.devices import CudaDevice
from engine.devices.reserve import Peak
from engine.hybrid import HybridEngine
from engine.profile import Profile
from engine.store import ExpertStore

SMALL = Shape("small", 4, 512, 1024, 8, 4, 1024)
SMALL_32 = Shape("small, float32", 4, 512, 1024, 8, 4, 1024, dtype=torch.float32)
REPLANS = 40
NMSE = 5e-4
GREEDY = 64


def invariants(bench: Bench) -> dict[str, Any]:
    """Peak of memory against the plan; random replans under the budget; parity of a small model."""
    worst, same = parity(bench)
    say(f"logits: NMSE {worst:.2g}; greedy text the same: {same}, {bench.passed}")
    engine = bench.engine()
    peak = _peak(bench, engine)
    say(str(peak))
    replans, exceeded = _replans(bench, engine)
    say(f"{replans} replans, budget exceeded in {exceeded}, {bench.passed}")
    return {
        "peak": str(peak),
        "planned_bytes": peak.planned_bytes,
        "measured_bytes": peak.measured_bytes,
        "replans": replans,
        "exceeded": exceeded,
        "nmse": worst,
        "nmse_at_most": NMSE,
        "greedy_same": same,
    }


def _peak(bench: Bench, engine: HybridEngine) -> Peak:
    """Of the longest prompt that memory is reserved for, every slot taken."""
    device = engine.device
    assert isinstance(device, CudaDevice)
    engine.replan(policy="fiddler", gpu_memory=bench.budget(engine))
    device.runtime.reset_peak()
    bench.run(engine, bench.prompt(engine.max_tokens - 8), 8)
    plan = engine.plan
    experts = len(plan.pinned) + plan.cache_slots
    planned = plan.minimum_bytes + experts * plan.expert_bytes
    return Peak.of(device.runtime, device.reserve, planned)


def _replans(bench: Bench, engine: HybridEngine) -> tuple[int, int]:
    """Random plans, a token each; how many, and how many took more than their budget."""
    device = engine.device
    assert isinstance(device, CudaDevice)
    random, exceeded, done = np.random.default_rng(0), 0, 0
    most = bench.budget(engine)
    least = engine.plan.minimum_bytes
    while done < REPLANS and bench.left() > 30:
        budget = int(random.integers(least, most + 1))
        engine.replan(policy=str(random.choice(POLICIES)), gpu_memory=budget)
        device.runtime.reset_peak()
        bench.run(engine, bench.prompt(4, done), 2)
        peak = Peak.of(device.runtime, device.reserve, budget)
        exceeded += not peak.kept
        done += 1
    return done, exceeded


def parity(bench: Bench) -> tuple[float, bool]:
    """The worst NMSE of logits in bfloat16, and whether all greedy texts in float32 are those of
    transformers with all weights on the device."""
    worst, same = 0.0, True
    for shape in (SMALL, SMALL_32):
        plain = build(shape, shape.layers, None)
        runtime = bench.runtime()
        plain = plain.to(runtime.device)
        model = build(shape, shape.layers)
        engine = HybridEngine.wrap(
            model,
            device=CudaDevice(ExpertStore(model), runtime),
            hardware=None,
            profile=Profile.uniform((shape.layers, shape.experts)),
            max_tokens=512,
            gpu_memory="50%",
        )
        new = 8 if bench.dry else GREEDY
        ids = torch.tensor([bench.prompt(24)]) % shape.vocabulary
        with torch.no_grad():
            there = ids.to(runtime.device)
            exact = plain(there).logits.double()
            text = plain.generate(there, max_new_tokens=new, do_sample=False)[0, 24:].tolist()
        for policy in POLICIES:
            for budget in ("0%", "50%", "100%"):
                engine.replan(policy=policy, gpu_memory=budget)
                with torch.no_grad():
                    ours = engine.model(there).logits.double()
                off = (((ours - exact) ** 2).sum() / (exact**2).sum()).item()
                worst = max(worst, off)
                if shape.dtype == torch.float32:
                    run = engine.generate(ids[0].tolist(), new, do_sample=False)
                    same = same and list(run.tokens[0]) == text
    return worst, same
