"""Calibration of an engine on a GPU: its own runs, timed lane by lane, as a HardwareSpec."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from engine.costing import LEAST_ERROR, kernel_tflops
from engine.device_costs import DeviceTimes, device_times
from engine.hybrid import HybridEngine
from engine.latency import Curve
from engine.machine import this_machine, versions
from engine.measured import Calibration, ModelCosts, Reading
from engine.spec import HardwareSpec, ModelSpec
from engine.trace import Trace

LENGTHS = {"cpu": (1, 4, 16, 64), "stream": (1, 16, 128, 512), "qstar": (1, 16)}
"""By policy: prompt lengths. The CPU takes long over long prompts; ``qstar`` uses both at once."""
THOROUGH = {"cpu": (1, 4, 16, 64, 256), "stream": (1, 16, 128, 512, 2048), "qstar": (1, 16, 64)}
NEW_TOKENS = 6


def calibrate_device(
    engine: HybridEngine,
    name: str,
    seconds: float,
    *,
    thorough: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> HardwareSpec:
    """Time an engine under several policies and prompt lengths; its plan is put back afterwards.

    About ``seconds``: the lengths in turn, at least each once.
    """
    began, before = time.perf_counter(), engine.plan
    lengths = THOROUGH if thorough else LENGTHS
    random = np.random.default_rng(0)
    traces: list[Trace] = []
    steps: list[float] = []
    room = engine.max_tokens - NEW_TOKENS
    try:
        switch = _switch(engine)
        _run(engine, [1, 2], "stream")  # warm up
        _run(engine, [1, 2], "cpu")
        rounds = 0
        while not rounds or time.perf_counter() - began < 0.7 * seconds:
            rounds += 1
            for policy, counts in lengths.items():
                for count in counts:
                    if count > room:
                        continue
                    say(f"round {rounds}, {policy}, {count} tokens")
                    ids = random.integers(engine.real_spec.vocabulary, size=count).tolist()
                    traces.append(_run(engine, ids, policy))
                    if policy == "stream":
                        length = traces[-1].steps["end_ns"] - traces[-1].steps["start_ns"]
                        steps.append(float(np.median(length[1:])))
    finally:
        engine.replan(before)
    found = device_times(traces, before.costs)
    half = max(len(steps) // 2, 1)
    first, second = (float(np.median(part)) for part in (steps[:half], steps[-half:]))
    drift = abs(first - second) / (first + second)
    passed = time.perf_counter() - began
    return _spec(engine, name, found, switch, drift, passed)


def _switch(engine: HybridEngine) -> int | None:
    """From how many tokens torch computes an expert on the CPU sooner than the kernels do."""
    with engine.torch_threads(), torch.no_grad():
        return engine.session.executor.lane.measure_switch()


def _run(engine: HybridEngine, ids: list[int], policy: str) -> Trace:
    """A short run with nothing resident."""
    engine.replan(policy=policy, gpu_memory=engine.plan.minimum_bytes, reset_pins=True)
    return engine.generate(ids, NEW_TOKENS, do_sample=False, eos_token_id=None).trace


def _spec(
    engine: HybridEngine,
    name: str,
    found: DeviceTimes,
    switch: int | None,
    drift: float,
    seconds: float,
) -> HardwareSpec:
    model, device, machine = engine.real_spec, found.device, this_machine()
    costs = ModelCosts(
        model=model.name,
        shape=ModelCosts.shape_of(model),
        cpu=found.cpu,
        dense=device.dense,
        head=device.head,
        kv_ns=device.kv_ns,
        relative_error=round(max(LEAST_ERROR, 2 * found.residual, drift), 3),
        switch_tokens=switch,
        device=device,
    )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    card = engine.device.runtime.name
    record = Calibration(
        machine=machine,
        versions=dict(versions()),
        date=date,
        seconds=round(seconds, 1),
        drift=round(drift, 4),
        models=(costs,),
        readings=_readings(model, found),
    )
    figures = _figures(model, found)
    how = f"Measured: lanes of {model.name}'s own steps; {date[:10]} on {machine}."
    assumed = f"Assumed for models other than {model.name}, from its measured times."
    sources = {key: assumed if key in _DERIVED else how for key in figures}
    return HardwareSpec(
        name=name,
        title=f"{card} + {machine.cores} cores ({machine.cpu}), measured",
        calibrated=True,
        sources=sources,
        accelerator=True,
        calibration=record,
        gpu_memory_bytes=int(engine.device.usable_bytes),
        cpu_cores=machine.cores,
        **{key: value for key, value in figures.items() if key not in ("cpu_cores",)},
    )


_DERIVED = ("gpu_launch_ns", "gpu_layer_ns", "cpu_call_ns", "relative_error", "h2d_pageable_gbps")


def _figures(model: ModelSpec, found: DeviceTimes) -> dict[str, Any]:
    """Rates that follow from this model's times, for other models."""
    device, cpu = found.device, found.cpu
    launch = max(round(0.1 * device.gpu(1)), 1)
    call = max(round(0.02 * cpu(1)), 1)
    link = model.expert_bytes / device.copy_ns
    contended = model.expert_bytes / device.copy_contended_ns
    width = model.activation_bytes_per_token
    gbps = model.expert_bytes / max(cpu(1) - call, 1)
    return {
        "gpu_gbps": model.expert_bytes / max(device.gpu(1) - launch, 1),
        "gpu_tflops": kernel_tflops(model, device.gpu),
        "gpu_launch_ns": launch,
        "gpu_layer_ns": max(round(0.5 * device.dense(1)), 1),
        "cpu_gbps": gbps,
        "cpu_contended_gbps": gbps * device.cpu_contended,
        "cpu_tflops": kernel_tflops(model, cpu),
        "cpu_call_ns": call,
        "relative_error": 0.3,
        "h2d_gbps": link,
        "d2h_gbps": _rate(device.to_host, width, link),
        "h2d_pageable_gbps": link / 2,
        "h2d_contended_gbps": contended,
        "link_latency_ns": max(min(device.to_host(1), device.to_device(1)), 1),
    }


def _rate(crossing: Curve, width: int, most: float) -> float:
    """GB/s at which activations cross, from how their time climbs; of few tokens it does not."""
    climb = (crossing(1024) - crossing(1)) / 1023
    return min(width / climb, most) if climb > 0 else most


def _readings(model: ModelSpec, found: DeviceTimes) -> tuple[Reading, ...]:
    device, many = found.device, found.samples
    times = [
        *((f"GPU expert, {n} tokens", device.gpu(n), many["gpu"]) for n in (1, 16, 128)),
        *((f"CPU expert, {n} tokens", found.cpu(n), many["cpu"]) for n in (1, 4, 16)),
        ("dense part of a layer, decode", device.dense(1), many["head"]),
        ("output head", device.head(1), many["head"]),
        ("activations to the host, 1 token", device.to_host(1), many["to_host"]),
        ("activations to the device, 1 token", device.to_device(1), many["to_device"]),
    ]
    rate = model.expert_bytes / device.copy_ns
    beside = model.expert_bytes / device.copy_contended_ns
    return (
        *(Reading(what, ns / 1e6, "ms", found.residual, n, "measured") for what, ns, n in times),
        Reading("experts to the GPU, pinned", rate, "GB/s", 0.0, 0, "measured"),
        Reading("the same beside the CPU's experts", beside, "GB/s", 0.0, 0, "measured"),
    )
