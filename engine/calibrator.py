"""What a calibration on the CPU collects: times of a model's parts, and a HardwareSpec of them."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from transformers import PreTrainedModel

from engine import bandwidth
from engine.bandwidth import Rates
from engine.costing import drift_of, kernel_tflops, model_costs
from engine.machine import this_machine, versions
from engine.measured import Calibration, ModelCosts, Reading
from engine.spec import HardwareSpec, ModelSpec
from engine.timing import Generation, Probe, Samples

NEW_TOKENS = 6
"""Decode steps after each prompt, which are timed, too."""


class Calibrator:
    """Collects times in rounds and turns them into a spec; between rounds others may run."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, threads: int | None = None) -> None:
        self.probe = Probe(model, spec, threads=threads)
        self.samples = Samples()
        self.rounds = 0
        self.rates: Rates | None = None
        self._began = time.perf_counter()
        self.probe.run(2, 2)  # warm up: pages, threads, lazy parts of torch
        self.switch_tokens = self.probe.measure_switch()

    def __repr__(self) -> str:
        return f"Calibrator({self.probe!r}, {self.rounds} rounds)"

    def measure(self, lengths: tuple[int, ...], *, until: float = float("inf")) -> None:
        """One round: a generation for each prompt length.

        Lengths that would end after ``until`` (``time.perf_counter``) are left out once there are
        enough of them to fit.
        """
        room = self.probe.positions - NEW_TOKENS
        cost = 0.0
        for place, length in enumerate(length for length in lengths if length <= room):
            began = time.perf_counter()
            if place >= 4 and began + 1.5 * cost > until:
                break
            self.measure_one(length)
            cost = time.perf_counter() - began
        self.rounds += 1

    def measure_one(self, prompt_tokens: int) -> Generation:
        """One generation of the round under way."""
        return self.samples.take(self.rounds, self.probe.run(prompt_tokens, NEW_TOKENS))

    def spec(self, name: str = "this-machine") -> HardwareSpec:
        """The machine as measured so far."""
        costs, readings = model_costs(self.samples, self.probe.spec, self.switch_tokens)
        rates = self.rates = self.rates or bandwidth.measure(self.probe)
        return _hardware(name, self.probe, costs, readings, rates, self._record(costs, readings))

    def _record(self, costs: ModelCosts, readings: list[Reading]) -> Calibration:
        return Calibration(
            machine=this_machine(),
            versions=dict(versions()),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self._began, 1),
            drift=round(drift_of(self.samples), 4),
            models=(costs,),
            readings=tuple(readings),
        )


def _hardware(
    name: str,
    probe: Probe,
    costs: ModelCosts,
    readings: list[Reading],
    rates: Rates,
    record: Calibration,
) -> HardwareSpec:
    """One machine's figures from one model's curves and the rates measured beside them."""
    spec, machine = probe.spec, record.machine
    call = rates.cpu_call_ns
    tflops = kernel_tflops(spec, costs.cpu)
    compute = spec.expert_flops_per_token / (tflops * 1e3)
    gbps = spec.expert_bytes / max(costs.cpu(1) - call - compute, 0.1 * costs.cpu(1))
    layer_bytes = (spec.dense_bytes - spec.head_bytes - spec.embedding_bytes) / spec.layers
    layer_ns = max(round(costs.dense(1) - layer_bytes / gbps), 0)
    residual = f"measured {record.date[:10]} on {machine}"
    kernel = f"Measured: one expert of {spec.name} in its forward pass; {residual}."
    own = f"Measured: there is no GPU, this is the CPU's own figure; {residual}."
    figures: dict[str, Any] = {
        "gpu_memory_bytes": 0, "gpu_gbps": gbps, "gpu_tflops": tflops, "gpu_launch_ns": call,
        "gpu_layer_ns": layer_ns, "cpu_cores": machine.cores, "cpu_gbps": gbps,
        "cpu_contended_gbps": gbps * rates.cpu_contended, "cpu_tflops": tflops,
        "cpu_call_ns": call, "relative_error": max(0.3, costs.relative_error),
        "h2d_gbps": rates.h2d_gbps, "d2h_gbps": rates.d2h_gbps,
        "h2d_pageable_gbps": rates.h2d_pageable_gbps,
        "h2d_contended_gbps": rates.h2d_gbps * rates.link_contended,
        "link_latency_ns": rates.latency_ns,
    }  # fmt: skip
    sources = {key: kernel if key.startswith("cpu") else own for key in figures}
    sources |= {key: f"{rates.how}; {residual}." for key in figures if "2" in key or "link" in key}
    sources["cpu_contended_gbps"] = f"{rates.how_contended}; {residual}."
    sources["relative_error"] = (
        f"Assumed for models other than {spec.name}; for it {costs.relative_error:.1%}, measured."
    )
    if rates.gpu is not None:
        figures |= rates.gpu
        sources |= dict.fromkeys(rates.gpu, f"Measured on {machine.gpu}; {residual}.")
        sources["gpu_layer_ns"] = "Assumed: about 20 kernels a layer at the measured launch cost."
    return HardwareSpec(
        name=name,
        title=f"{'no GPU' if rates.gpu is None else machine.gpu} + {machine.cores} cores "
        f"({machine.cpu}), measured",
        calibrated=True,
        sources=sources,
        accelerator=rates.gpu is not None,
        calibration=replace(record, readings=(*readings, *rates.readings)),
        **figures,
    )
