"""Rates of copies, of the call of an expert and of a GPU, alone and while experts run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor

from engine.measured import Reading
from engine.timing import Probe

COPY_BYTES = 128 * 2**20
"""One copy: more than caches hold, less than a second anywhere."""
_TIMES = 5
_ROUNDS = 3


@dataclass(frozen=True)
class Rates:
    """What was measured besides a model's own parts."""

    h2d_gbps: float
    d2h_gbps: float
    h2d_pageable_gbps: float
    latency_ns: int
    link_contended: float
    """Share of its rate that copying keeps while experts run."""
    cpu_contended: float
    """Share of their rate that experts keep while copies run."""
    cpu_call_ns: int
    gpu: dict[str, float | int] | None
    """Figures of a HardwareSpec, by name; None without a GPU."""
    how: str
    how_contended: str
    readings: tuple[Reading, ...]


def measure(probe: Probe) -> Rates:
    """Measure all rates; experts are those of ``probe``'s model."""
    with probe.running():
        call = _call_ns()
        return _cuda(probe, call) if torch.cuda.is_available() else _host(probe, call)


def _host(probe: Probe, call: int) -> Rates:
    """Copies within host memory: without a GPU there is no link."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)
    rates = [_gbps(lambda: target.copy_(source)) for _ in range(_TIMES)]
    small = torch.ones(64), torch.ones(64)
    latency = _median_ns(lambda: small[0].copy_(small[1]))
    contended = _contended(probe, lambda: target.copy_(source))
    alone = float(np.median(rates))
    how = "Measured: a copy within host memory, for there is no link to a GPU to measure"
    beside = "Measured: a thread that copies within host memory in place of a link's copies"
    return Rates(
        alone, alone, alone, latency, *contended, call, None, how, beside,
        _readings(rates, contended, call, "host memory copy", "measured; no link to measure"),
    )  # fmt: skip


def _cuda(probe: Probe, call: int) -> Rates:
    """Copies over the link, and what the GPU reads and computes."""
    gpu = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    plain = torch.ones(COPY_BYTES, dtype=torch.uint8)
    pinned = plain.pin_memory()

    def done(copy: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            copy()
            torch.cuda.synchronize()

        return run

    to_gpu = done(lambda: gpu.copy_(pinned, non_blocking=True))
    rates = [_gbps(to_gpu) for _ in range(_TIMES)]
    back = float(np.median([_gbps(done(lambda: pinned.copy_(gpu))) for _ in range(_TIMES)]))
    pageable = float(np.median([_gbps(done(lambda: gpu.copy_(plain))) for _ in range(_TIMES)]))
    latency = _median_ns(done(lambda: gpu[:64].copy_(pinned[:64], non_blocking=True)))
    contended = _contended(probe, to_gpu)
    weights = torch.zeros(16, 4096, 8192, dtype=torch.bfloat16, device="cuda")  # 1 GiB
    x = torch.zeros(1, 8192, dtype=torch.bfloat16, device="cuda")
    square = torch.zeros(4096, 4096, dtype=torch.bfloat16, device="cuda")

    def read_all() -> None:
        for part in weights:
            F.linear(x, part)

    read = _median_ns(done(read_all), 7)
    product = _median_ns(done(lambda: [square @ square for _ in range(8)]), 7)
    tiny = torch.ones(8, 8, device="cuda")
    launch = _median_ns(done(lambda: [tiny.add_(0) for _ in range(100)])) // 100
    figures: dict[str, float | int] = {
        "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "gpu_gbps": weights.numel() * 2 / read,
        "gpu_tflops": 8 * 2 * 4096**3 / product / 1e3,
        "gpu_launch_ns": 4 * launch,
        "gpu_layer_ns": 20 * launch,
    }
    readings = _readings(rates, contended, call, "pinned copy to the GPU", "measured")
    more = (
        Reading("pinned copy from the GPU", back, "GB/s", 0.0, 0, "measured"),
        Reading("pageable copy to the GPU", pageable, "GB/s", 0.0, 0, "measured"),
        Reading("GPU reads weights", float(figures["gpu_gbps"]), "GB/s", 0.0, 0, "measured"),
        Reading("GPU computes", float(figures["gpu_tflops"]), "TFLOP/s", 0.0, 0, "measured"),
    )
    how = "Measured: copies over the link"
    beside = "Measured: experts on the CPU while pinned copies run"
    forward = float(np.median(rates))
    return Rates(
        forward, back, pageable, latency, *contended, call, figures, how, beside,
        (*readings, *more),
    )  # fmt: skip


def _readings(
    rates: list[float], contended: tuple[float, float], call: int, copy: str, how: str
) -> tuple[Reading, ...]:
    alone = float(np.median(rates))
    scatter = float(np.std(rates) / alone)
    return (
        Reading(copy, alone, "GB/s", scatter, len(rates), how),
        Reading(f"{copy}, beside experts", alone * contended[0], "GB/s", 0.0, 0, how),
        Reading("experts beside copies, of alone", contended[1], "x", 0.0, 0, how),
        Reading("call of an expert", call / 1e3, "us", 0.0, 0, "measured"),
    )


def _contended(probe: Probe, copy: Callable[[], object]) -> tuple[float, float]:
    """Shares of their own rate that copies and experts keep while both run, interleaved."""
    alone: list[float] = []
    beside: list[float] = []
    copies_alone: list[float] = []
    copies_beside: list[float] = []
    for _ in range(_ROUNDS):
        alone.append(_expert_ns(probe))
        copies_alone.append(_gbps(copy))
        with _Copies(copy) as copies:
            beside.append(_expert_ns(probe))
        copies_beside.append(copies.gbps)
    experts = float(np.median(alone) / np.median(beside))
    link = float(np.median(copies_beside) / np.median(copies_alone))
    return min(max(link, 0.01), 1.0), min(max(experts, 0.01), 1.0)


def _expert_ns(probe: Probe) -> float:
    """One expert with one token, the median over a short generation."""
    calls = [ns for laps in probe.run(1, 4) for ns in laps.expert_ns]
    return float(np.median([each for call in calls for each in call]))


class _Copies:
    """A thread that copies again and again until the block ends; then its rate is known."""

    def __init__(self, copy: Callable[[], object]) -> None:
        self._copy = copy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.gbps = 0.0

    def __enter__(self) -> _Copies:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)  # of this thread: a link's engine is no CPU thread at all
        start, count = time.perf_counter_ns(), 0
        while not self._stop.is_set():
            self._copy()
            count += 1
        self.gbps = count * COPY_BYTES / (time.perf_counter_ns() - start)


def _gbps(copy: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    copy()
    return COPY_BYTES / (time.perf_counter_ns() - start)


def _median_ns(do: Callable[[], object], times: int = 51) -> int:
    do()
    found: list[int] = []
    for _ in range(times):
        start = time.perf_counter_ns()
        do()
        found.append(time.perf_counter_ns() - start)
    return int(np.median(found))


def _call_ns() -> int:
    """What an expert costs besides reading and computing: one with next to no weights."""
    x: Tensor = torch.ones(1, 32, dtype=torch.bfloat16)
    up, down = torch.ones(64, 32, dtype=x.dtype), torch.ones(32, 32, dtype=x.dtype)

    def expert() -> None:
        gate, value = F.linear(x, up).chunk(2, dim=-1)
        F.linear(F.silu(gate) * value, down)

    return _median_ns(expert)
