"""Calibration: measure this machine, fit its costs, and write them down as a HardwareSpec.

Experts, dense part and head are timed inside a model's own forward passes (:mod:`engine.timing`),
copies and, where there is one, the GPU by themselves (:mod:`engine.bandwidth`). Without a GPU the
spec is that of a machine without an accelerator: what would be the GPU's figures are the CPU's own,
and the link's are those of copies within host memory, for there is no link to measure.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from engine import bandwidth
from engine.bandwidth import Rates
from engine.costing import drift_of, kernel_tflops, model_costs
from engine.dense import FEW_TOKENS
from engine.destination import prepare
from engine.device_calibrate import calibrate_device
from engine.errors import FiddlerError, InputError
from engine.generated import generated_model
from engine.hybrid import HybridEngine
from engine.loader import load_model, model_spec
from engine.machine import this_machine, versions
from engine.measured import Calibration, ModelCosts, Reading
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from engine.store import ExpertStore
from engine.strict import check_number, check_text
from engine.threads import check_threads
from engine.timing import Generation, Probe, Samples

QUICK_LENGTHS = (1, 2, 4, 8, 16, FEW_TOKENS, FEW_TOKENS + 1, 64, 128, 256, 512)
THOROUGH_LENGTHS = (1, 2, 3, 5, 8, 12, 20, FEW_TOKENS, FEW_TOKENS + 1, 48, 72, 112, 176, 264, 400,
                    608, 912, 1360, 2048)  # fmt: skip
"""Prompt lengths; where the dense layers change from the kernels to torch, both sides of it."""
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


def calibrate(
    path: str | Path | None = None,
    *,
    model: Any = None,
    seconds: float | None = None,
    thorough: bool = False,
    name: str = "this-machine",
    beside: str | Path | HardwareSpec | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> HardwareSpec:
    """Measure this machine and return (and save) its :class:`HardwareSpec`.

    Args:
        path: JSON file to write, to be given as ``hardware=``; None: nothing is written.
        model: an engine (one on a GPU is timed with its lanes), the folder or hub id of a
            checkpoint, or None: a generated model of 1.8 GB. Times of this very model are kept as
            curves; other models are costed with the rates that come of them, with more uncertainty.
        seconds: about how long to measure, at least one round; 12, or 90 where ``thorough``.
        thorough: more prompt lengths, up to 2048 tokens, and more rounds.
        name: what to call the machine.
        beside: a profile whose GPU and link to combine with this CPU, on a machine without one.
            Such a spec is not called calibrated, for only its CPU was measured.
        threads: CPU threads; None: what an engine would use.
        progress: a line on standard error that tells how far it is.

    The model may not be generating meanwhile; it is left as it was. The spec's
    ``calibration`` holds the table of what was measured, with residuals.

    Raises InputError, CheckpointError or FiddlerError about what cannot be measured or written.
    """
    if seconds is None:
        seconds = 90.0 if thorough else 12.0
    check_number("calibrate, seconds", seconds)
    check_text("calibrate, name", name)  # now: a measurement takes a minute
    threads = check_threads(threads)
    other = None if beside is None else resolve_hardware(beside)
    if path is not None:
        prepare(path)
    say = _Line(progress)
    if isinstance(model, HybridEngine) and model.device.on_streams:
        _refuse_running(model)
        try:
            found = calibrate_device(model, name, seconds, thorough=thorough, say=say)
        finally:
            say.end()
        if path is not None:
            found.save(path)
        return found
    say("a model to measure with")
    calibrator = Calibrator(*_opened(model), threads=threads)
    try:
        began = time.perf_counter()
        until = began + seconds
        lengths = THOROUGH_LENGTHS if thorough else QUICK_LENGTHS
        while True:
            passed = time.perf_counter() - began
            say(f"round {calibrator.rounds + 1}, {passed:.0f} of about {seconds:.0f} s")
            calibrator.measure(lengths, until=until)
            spent = time.perf_counter() - began
            if spent + 0.7 * spent / calibrator.rounds > seconds:
                break
        say("memory copies, alone and beside experts")
        found = calibrator.spec(name)
    finally:
        say.end()
    if other is not None:
        found = _beside(found, other)
    if path is not None:
        found.save(path)
    return found


def _refuse_running(engine: HybridEngine) -> None:
    if engine.running:
        raise FiddlerError("the engine is generating: wait for it, or call engine.stop()")


class _Line:
    """One line of progress on standard error, rewritten."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\rcalibrate: {text:<60}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            print(f"\r{'':<72}\r", end="", file=sys.stderr, flush=True)


def _opened(model: Any) -> tuple[PreTrainedModel, ModelSpec]:
    """A model and what it is, from all that :func:`calibrate` takes."""
    if isinstance(model, HybridEngine):
        _refuse_running(model)
        return model.model, model.real_spec
    if model is None:
        made, name = generated_model(), "generated"
    elif isinstance(model, str | Path):
        made, name = load_model(model), Path(model).name
    else:
        raise InputError(
            "calibrate, model: expected an engine, a checkpoint's folder or hub id, or nothing, "
            f"got {type(model).__name__}"
        )
    return made, model_spec(made, ExpertStore(made), name)


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


def _beside(found: HardwareSpec, other: HardwareSpec) -> HardwareSpec:
    """This CPU with another profile's GPU and link."""
    mine = [name for name in found.sources if name.startswith("cpu")]
    return replace(
        other,
        name=f"{found.name}+{other.name}",
        title=f"{other.title.split(' + ')[0]} (modelled) + {found.title.split(' + ')[-1]}",
        calibrated=False,
        sources=other.sources | {name: found.sources[name] for name in mine},
        calibration=found.calibration,
        **{name: getattr(found, name) for name in mine},
    )
