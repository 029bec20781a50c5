"""One model's costs out of the times of its parts, with residuals, and a table for people."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import FiddlerError
from engine.fitting import fit_curve, fit_line
from engine.latency import Curve
from engine.measured import ModelCosts, Reading
from engine.spec import ModelSpec
from engine.timing import Samples

LEAST_ERROR = 0.03
"""No prediction is stated to be better than this."""
_MEASURED = "measured"


def model_costs(
    samples: Samples, spec: ModelSpec, switch_tokens: int | None = None
) -> tuple[ModelCosts, list[Reading]]:
    """Curves fitted to all rounds, and what to tell people about them.

    Raises FiddlerError where nothing was measured.
    """
    if not samples.decode:
        raise FiddlerError("nothing was measured: call measure() first")
    experts = _cells(samples.experts)
    counts = np.array(sorted(experts))
    cpu = fit_curve(
        counts,
        [experts[count][0] for count in counts.tolist()],
        [experts[count][1] ** 0.5 for count in counts.tolist()],  # or decode alone would count
    )
    cells = _cells(samples.dense)
    single = {context: cells[1, context] for tokens, context in cells if tokens == 1}
    contexts = sorted(single)
    base, kv_ns = fit_line(
        contexts, [single[c][0] for c in contexts], [single[c][1] for c in contexts]
    )
    off = [single[c][0] / (base + kv_ns * c) - 1 for c in contexts]
    decode_residual = float(np.sqrt(np.median(np.square(off))))
    points = [(1.0, base)]
    for tokens, context in sorted(cells):
        if tokens > 1:
            points.append((float(tokens), max(cells[tokens, context][0] - kv_ns * context, 1.0)))
    dense = Curve(points=tuple(points))
    head_ns = _typical(samples.head)
    drift = drift_of(samples)
    residual = float(np.hypot(cpu.residual, decode_residual))
    costs = ModelCosts(
        model=spec.name,
        shape=ModelCosts.shape_of(spec),
        cpu=cpu.curve,
        dense=dense,
        head=Curve(
            (
                (head_ns, 0.0),
                (0.0, spec.head_flops_per_token / (1e3 * kernel_tflops(spec, cpu.curve))),
            ),
        ),
        kv_ns=kv_ns,
        relative_error=round(max(LEAST_ERROR, 2 * residual, drift), 3),
        switch_tokens=switch_tokens,
    )
    form = "table" if cpu.curve.points else f"{len(cpu.curve.lines)} line(s)"
    shown = [n for n in (1, 4, 16, 64, 256, 1024) if n <= counts[-1]]
    readings = [
        Reading(f"CPU expert, {n} tokens", cpu.curve(n) / 1e6, "ms", cpu.residual,
                sum(len(v) for v in samples.experts.get(n, {}).values()), f"measured; {form}")
        for n in shown
    ]  # fmt: skip
    if switch_tokens is not None:
        readings.append(
            Reading("CPU kernels, up to", switch_tokens, "tokens", 0.0, 0, "measured; torch beyond")
        )
    many = sum(len(v) for cell in samples.dense.values() for v in cell.values())
    readings += [
        Reading("dense part of a layer, decode", base / 1e6, "ms", decode_residual, many,
                _MEASURED),
        Reading("KV cache, 1000 positions", kv_ns / 1e3, "ms", decode_residual, many,
                _MEASURED),
        Reading(f"dense part, {points[-1][0]:.0f} tokens", points[-1][1] / 1e6, "ms", 0.0, 0,
                "measured; table"),
        Reading("output head", head_ns / 1e6, "ms", _scatter(samples.head),
                sum(map(len, samples.head.values())), _MEASURED),
    ]  # fmt: skip
    return costs, readings


def drift_of(samples: Samples) -> float:
    """Half the range of a round's decode time, as a fraction: how steady the machine was."""
    rounds = samples.decode
    if len(rounds) == 1:  # its first half against its second
        (steps,) = rounds.values()
        half = max(len(steps) // 2, 1)
        found = [float(np.median(part)) for part in (steps[:half], steps[half:]) if part]
    else:
        found = [float(np.median(steps)) for steps in rounds.values()]
    return (max(found) - min(found)) / 2 / float(np.median(found))


def _cells(samples: dict[Any, dict[int, list[int]]]) -> dict[Any, tuple[float, int]]:
    """Of every cell the typical time and the number of measurements."""
    return {
        key: (_typical(rounds), sum(map(len, rounds.values()))) for key, rounds in samples.items()
    }


def _typical(rounds: dict[int, list[int]]) -> float:
    """The median over rounds of the mean of each round's middle half.

    A mean, for parts have to add up to a whole; of the middle half, and over rounds the median, for
    times at which the machine was busy with something else say nothing about it.
    """
    middles: list[float] = []
    for values in rounds.values():
        cut = len(values) // 4
        middles.append(float(np.mean(np.sort(values)[cut : len(values) - cut])))
    return float(np.median(middles))


def _scatter(rounds: dict[int, list[int]]) -> float:
    """How far rounds are from each other, as a fraction."""
    found = np.array([np.median(values) for values in rounds.values()])
    return float(np.std(found) / np.median(found))


def kernel_tflops(spec: ModelSpec, cpu: Curve) -> float:
    """Operations of the expert kernel per ns / 1000, from how its curve climbs at its end."""
    last = round(cpu.points[-1][0]) if cpu.points else 1024
    first = max(last // 4, 1)
    if first == last:
        return spec.expert_flops_per_token / max(cpu(1), 1) / 1e3
    climb = max(cpu(last) - cpu(first), 1) / (last - first)
    return spec.expert_flops_per_token / climb / 1e3
