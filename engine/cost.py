"""The cost model: how long an expert, a copy or the dense part takes, by token count.

Times are integers in nanoseconds so that a replay adds up to exactly what the engine added up.
A curve is the maximum of straight lines (convex, piecewise affine), which covers a roofline
(memory-bound, then compute-bound) and the affine CPU latency of Fiddler (arXiv 2402.07033, 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.spec import HardwareSpec, ModelSpec
from engine.strict import check_int, check_keys, check_number

TABLE_TOKENS = 4096
"""Token counts up to this are looked up; larger ones are computed by the same formula."""


@dataclass(frozen=True)
class Curve:
    """Latency by token count: ``max over lines of fixed_ns + per_token_ns * tokens``."""

    lines: tuple[tuple[float, float], ...]
    """Pairs ``(fixed_ns, per_token_ns)``."""

    def array(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Latency in ns for each token count, rounded to whole nanoseconds."""
        count = tokens.astype(np.float64)
        best = np.zeros(count.shape)
        for fixed, per_token in self.lines:
            np.maximum(best, fixed + per_token * count, out=best)
        return np.rint(best).astype(np.int64)

    @cached_property
    def table(self) -> list[int]:
        """Latency in ns for 0..TABLE_TOKENS tokens."""
        return self.array(np.arange(TABLE_TOKENS + 1)).tolist()

    def __call__(self, tokens: int) -> int:
        """Latency in ns for one token count."""
        if tokens <= TABLE_TOKENS:
            return self.table[tokens]
        return int(self.array(np.array([tokens]))[0])


@dataclass(frozen=True)
class CostModel:
    """Frozen latencies of one model on one machine: all that a decision may look at."""

    gpu: Curve
    """One expert on the device, weights there."""
    cpu: Curve
    """One expert on the host, activations there."""
    copy_ns: int
    """One expert's weights, host to device."""
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
    overlap: bool = True

    @classmethod
    def of(cls, model: ModelSpec, hardware: HardwareSpec) -> Self:
        """Derive costs from bytes, flops and the machine's effective rates (roofline).

        On the CPU reading the weights and computing are added, not overlapped: Fiddler's
        measured CPU latency is affine in the token count.
        """

        def stream(n_bytes: float, gbps: float) -> float:
            return n_bytes / gbps  # bytes / (1e9 bytes/s) is ns

        def flops(count: float, tflops: float) -> float:
            return count / (tflops * 1e3)  # flops / (1e12 flops/s) in ns

        hw = hardware
        width = model.activation_bytes_per_token
        layer_bytes = (model.dense_bytes - model.head_bytes - model.embedding_bytes) / model.layers
        layer_flops = model.dense_flops_per_token / model.layers
        gpu_read = stream(model.expert_bytes, hw.gpu_gbps)
        return cls(
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
            copy_ns=round(hw.link_latency_ns + stream(model.expert_bytes, hw.h2d_gbps)),
            to_host=Curve(((hw.link_latency_ns, stream(width, hw.d2h_gbps)),)),
            to_device=Curve(((hw.link_latency_ns, stream(width, hw.h2d_gbps)),)),
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
        )

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where a field is missing, unknown or bad."""
        made = cls(**check_keys("cost model", values, [field.name for field in fields(cls)]))
        for name in ("copy_ns", "expert_bytes", "activation_bytes"):
            check_int(f"cost model, {name}", getattr(made, name), least=0)
        for name in ("copy_ns", "expert_bytes", "activation_bytes", "kv_ns", "relative_error"):
            check_number(f"cost model, {name}", getattr(made, name), zero=True)
            if getattr(made, name) > _MOST:
                raise InputError(f"cost model, {name}: {getattr(made, name)} is absurdly large.")
        if type(made.calibrated) is not bool:
            raise InputError(f"cost model, calibrated: expected a bool, got {made.calibrated!r}.")
        return replace(made, **{name: _curve(name, getattr(made, name)) for name in _CURVES})


_MOST = 10**15
"""ns or bytes that a file may claim: eleven days, a petabyte. Sums of them stay within 64 bits."""

_CURVES = ("gpu", "cpu", "to_host", "to_device", "dense", "head")


def _curve(name: str, values: Any) -> Curve:
    """A curve from plain values; raises InputError where its lines are not pairs of numbers."""
    try:
        lines = tuple((float(fixed), float(per_token)) for fixed, per_token in values["lines"])
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"cost model, {name}: expected pairs of numbers; {error!r}.") from error
    if not lines or not all(abs(number) <= _MOST for line in lines for number in line):
        raise InputError(f"cost model, {name}: expected lines of numbers up to {_MOST:g}.")
    return Curve(lines)
