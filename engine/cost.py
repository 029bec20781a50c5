"""The cost model: how long an expert, a copy or the dense part takes, by token count.

Times are integers in nanoseconds so that a replay adds up to exactly what the engine added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.latency import MOST, TABLE_TOKENS, Curve
from engine.measured import ModelCosts
from engine.spec import HardwareSpec, ModelSpec
from engine.strict import check_int, check_keys, check_number

__all__ = ["TABLE_TOKENS", "CostModel", "Curve"]


@dataclass(frozen=True)
class CostModel:
    """Frozen latencies of one model on one machine: all that a decision may look at."""

    gpu: Curve
    """One expert on the device, weights there."""
    cpu: Curve
    """One expert on the host, activations there."""
    copy_ns: int
    """One expert's weights, host to device, from pinned memory."""
    pageable_copy_ns: int
    """The same from memory that is not pinned."""
    copy_contended_ns: int
    """The same as ``copy_ns`` while the CPU runs experts."""
    h2d_contended_gbps: float
    """Rate of the link while the CPU runs experts."""
    cpu_contended_gbps: float
    """Rate at which the CPU streams expert weights while copies run."""
    to_host: Curve
    """Activations of so many tokens, device to host."""
    to_device: Curve
    """Activations of so many tokens, host to device."""
    dense: Curve
    """The dense part of one MoE layer, without reading the KV cache."""
    head: Curve
    """The output head and what else runs once a step."""
    kv_ns: float
    """Reading one cached position of one sequence in one layer."""
    expert_bytes: int
    activation_bytes: int
    """Bytes that cross the link for one token in one direction."""
    relative_error: float
    """Stated uncertainty of a prediction: 0.3 means within 30% either way."""
    calibrated: bool
    """True where the hardware's figures were measured, False where they come from datasheets."""
    overlap: bool
    """False where there is no accelerator: the lanes take turns, for one processor does it all."""

    @classmethod
    def of(cls, model: ModelSpec, hardware: HardwareSpec) -> Self:
        """Derive costs from bytes, flops and the machine's effective rates (roofline).

        On the CPU reading the weights and computing are added, not overlapped: Fiddler's
        measured CPU latency is affine in the token count. Where the machine was calibrated with
        this very model, what was measured stands in place of that.
        """

        def stream(n_bytes: float, gbps: float) -> float:
            return n_bytes / gbps  # bytes / (1e9 bytes/s) is ns

        def flops(count: float, tflops: float) -> float:
            return count / (tflops * 1e3)  # flops / (1e12 flops/s) in ns

        def copy(gbps: float) -> int:
            return round(hw.link_latency_ns + stream(model.expert_bytes, gbps))

        def crossing(gbps: float) -> Curve:
            if not hw.accelerator:  # activations are where they are needed
                return Curve(((0.0, 0.0),))
            return Curve(((hw.link_latency_ns, stream(width, gbps)),))

        hw = hardware
        width = model.activation_bytes_per_token
        layer_bytes = (model.dense_bytes - model.head_bytes - model.embedding_bytes) / model.layers
        layer_flops = model.dense_flops_per_token / model.layers
        gpu_read = stream(model.expert_bytes, hw.gpu_gbps)
        made = cls(
            gpu=Curve(
                (
                    (hw.gpu_launch_ns + gpu_read, 0.0),
                    (hw.gpu_launch_ns, flops(model.expert_flops_per_token, hw.gpu_tflops)),
                )
            ),
            cpu=Curve(
                (
                    (
                        hw.cpu_call_ns + stream(model.expert_bytes, hw.cpu_gbps),
                        flops(model.expert_flops_per_token, hw.cpu_tflops),
                    ),
                )
            ),
            copy_ns=copy(hw.h2d_gbps),
            pageable_copy_ns=copy(hw.h2d_pageable_gbps),
            copy_contended_ns=copy(hw.h2d_contended_gbps),
            h2d_contended_gbps=hw.h2d_contended_gbps,
            cpu_contended_gbps=hw.cpu_contended_gbps,
            to_host=crossing(hw.d2h_gbps),
            to_device=crossing(hw.h2d_gbps),
            dense=Curve(
                (
                    (hw.gpu_layer_ns + stream(layer_bytes, hw.gpu_gbps), 0.0),
                    (hw.gpu_layer_ns, flops(layer_flops, hw.gpu_tflops)),
                )
            ),
            head=Curve(
                (
                    (hw.gpu_launch_ns + stream(model.head_bytes, hw.gpu_gbps), 0.0),
                    (hw.gpu_launch_ns, flops(model.head_flops_per_token, hw.gpu_tflops)),
                )
            ),
            kv_ns=stream(model.kv_bytes_per_token, hw.gpu_gbps) / model.layers,
            expert_bytes=model.expert_bytes,
            activation_bytes=width,
            relative_error=hw.relative_error,
            calibrated=hw.calibrated,
            overlap=hw.accelerator,
        )
        costs = hw.costs_of(model)
        return made if costs is None else made._measured(costs)

    def _measured(self, costs: ModelCosts) -> Self:
        """With a calibration's curves of this model."""
        error = costs.relative_error if self.calibrated else self.relative_error
        made = replace(self, cpu=costs.cpu, relative_error=error)
        device = costs.device
        if self.overlap and device is not None:
            return replace(
                made,
                gpu=device.gpu,
                dense=device.dense,
                head=device.head,
                to_host=device.to_host,
                to_device=device.to_device,
                kv_ns=device.kv_ns,
                copy_ns=device.copy_ns,
                copy_contended_ns=device.copy_contended_ns,
                h2d_contended_gbps=self.expert_bytes / max(device.copy_contended_ns, 1),
                cpu_contended_gbps=self.expert_bytes / max(costs.cpu(1), 1) * device.cpu_contended,
            )
        if self.overlap:  # the dense part is the GPU's
            return made
        return replace(made, gpu=costs.cpu, dense=costs.dense, head=costs.head, kv_ns=costs.kv_ns)

    def dense_ns(self, tokens: int, context: int) -> int:
        """Dense part of one layer: ``tokens`` processed, ``context`` cached positions read."""
        return self.dense(tokens) + round(self.kv_ns * context)

    def dense_array(
        self, tokens: NDArray[np.int64], context: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """:meth:`dense_ns` for many steps at once."""
        return self.dense.array(tokens) + np.rint(self.kv_ns * context).astype(np.int64)

    def stream_ns(self, tokens: int) -> int:
        """A missing expert on the device: copy its weights, then run it."""
        return self.copy_ns + self.gpu(tokens)

    def cpu_ns(self, tokens: int) -> int:
        """A missing expert on the host: activations there, run it, results back."""
        return self.to_host(tokens) + self.cpu(tokens) + self.to_device(tokens)

    @cached_property
    def break_even_tokens(self) -> int | None:
        """Smallest token count at which copying the weights beats the CPU; None if never."""
        tokens = np.arange(1, TABLE_TOKENS + 1)
        wins = self.streams_array(tokens)
        return int(tokens[np.argmax(wins)]) if wins.any() else None

    def streams_array(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where Fiddler's comparison (paper, Algorithm 1) prefers the copy over the CPU."""
        on_cpu = self.to_host.array(tokens) + self.cpu.array(tokens) + self.to_device.array(tokens)
        return on_cpu > self.copy_ns + self.gpu.array(tokens)

    def in_turn(self) -> CostModel:
        """The same machine under a system that does one thing after the other, unpinned."""
        return replace(self, overlap=False, copy_ns=self.pageable_copy_ns)

    @property
    def link_share(self) -> float:
        """``link / (link + CPU bandwidth)``, both while the other is busy.

        Of a step's misses this fraction, copied, takes the link as long as the rest takes the CPU.
        """
        return self.h2d_contended_gbps / (self.h2d_contended_gbps + self.cpu_contended_gbps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where a field is missing, unknown or bad."""
        made = cls(**check_keys("cost model", values, [field.name for field in fields(cls)]))
        for name in _WHOLE:
            check_int(f"cost model, {name}", getattr(made, name), least=0)
        for name in (*_WHOLE, *_RATES, "kv_ns", "relative_error"):
            check_number(f"cost model, {name}", getattr(made, name), zero=name not in _RATES)
            if getattr(made, name) > MOST:
                raise InputError(f"cost model, {name}: {getattr(made, name)} is absurdly large.")
        for name in ("calibrated", "overlap"):
            if type(getattr(made, name)) is not bool:
                got = getattr(made, name)
                raise InputError(f"cost model, {name}: expected a bool, got {got!r}.")
        curves = {
            name: Curve.from_dict(f"cost model, {name}", getattr(made, name)) for name in CURVES
        }
        return replace(made, **curves)


CURVES = ("gpu", "cpu", "to_host", "to_device", "dense", "head")
_WHOLE = ("copy_ns", "pageable_copy_ns", "copy_contended_ns", "expert_bytes", "activation_bytes")
_RATES = ("h2d_contended_gbps", "cpu_contended_gbps")
