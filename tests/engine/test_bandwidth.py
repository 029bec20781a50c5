"""Rates: shares in range, made-up copies counted; nothing here says how fast a machine is."""

from __future__ import annotations

import pytest
import torch

from engine import bandwidth
from engine.generated import generated_model
from engine.loader import model_spec
from engine.store import ExpertStore
from engine.timing import Probe


@pytest.fixture(scope="module")
def probe() -> Probe:
    model = generated_model(
        layers=1, experts=2, hidden=32, expert_width=48, heads=4, kv_heads=2, vocabulary=64,
        positions=64, dtype=torch.float32,
    )  # fmt: skip
    return Probe(model, model_spec(model, ExpertStore(model), "small"))


def test_rates_of_the_host(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "COPY_BYTES", 2**16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rates = bandwidth.measure(probe)
    assert rates.gpu is None
    assert rates.h2d_gbps == rates.d2h_gbps == rates.h2d_pageable_gbps > 0
    assert 0 < rates.link_contended <= 1 and 0 < rates.cpu_contended <= 1
    assert rates.cpu_call_ns > 0 and rates.latency_ns > 0
    assert "no link" in rates.how
    assert rates.readings[0].what == "host memory copy"


@pytest.mark.gpu
def test_rates_of_a_gpu(probe: Probe) -> None:
    rates = bandwidth.measure(probe)
    assert rates.gpu is not None
    assert set(rates.gpu) == {
        "gpu_memory_bytes", "gpu_gbps", "gpu_tflops", "gpu_launch_ns", "gpu_layer_ns",
    }  # fmt: skip
    assert all(value > 0 for value in rates.gpu.values())
    assert min(rates.h2d_gbps, rates.d2h_gbps, rates.h2d_pageable_gbps) > 0
