"""One model's costs out of the times of its parts, with residuals, and a table for people.

**One pace.** A shared machine reads memory at 30 GB/s in one minute and at 50 in the next, so times
of one prompt length and of another are of two machines. Each generation ends in decode steps, which
are the same work every time: what an expert took in them, by its median over all generations, is
the machine's pace at that moment, and all parts are fitted at the usual one
(:mod:`engine.steady`).

**Calls, not experts.** A layer's experts are one call of the kernels, and threads work on several
of them side by side: one that only reads gets more of the memory's rate while its neighbour
computes, so an expert of one token has a share of 1.4 ms in a call of few tokens and of 1.1 ms in
one of many. Shares are no costs. What is fitted is that the curve's values add up to each whole
call's time; shares only say what is left open by that, to within a tenth.

**Means that add up.** Decode steps count by the mean of their generation, as a user's tokens per
second do, and generations by Huber's rule: those in which the machine paused lose their weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import FiddlerError
from engine.fitting import fit_curve, knots_among
from engine.latency import Curve
from engine.measured import ModelCosts, Reading
from engine.spec import ModelSpec
from engine.steady import Steady, at_usual_pace
from engine.timing import Generation, Samples

LEAST_ERROR = 0.03
"""No prediction is stated to be better than this."""
SHARES = 0.1
"""So far is an expert's share of a call from what it costs, as a fraction."""
_MEASURED = "measured"

Ints = NDArray[np.int64]


def model_costs(
    samples: Samples, spec: ModelSpec, switch_tokens: int | None = None
) -> tuple[ModelCosts, list[Reading]]:
    """Curves fitted to all rounds, and what to tell people about them.

    Raises FiddlerError where nothing was measured.
    """
    if not samples.generations:
        raise FiddlerError("nothing was measured: call measure() first")
    paced = _paced(samples)
    experts = _experts(paced, switch_tokens)
    cpu = experts.curve
    dense, kv_ns, decode = _dense(paced)
    head = at_usual_pace(
        np.ones((len(paced), 1)),
        [np.mean([laps.head_ns for laps in each.steps]) for each, _ in paced],
        [pace for _, pace in paced],
        weights=[len(each.steps) for each, _ in paced],
    )
    head_ns = float(head.values[0])
    residual = float(np.hypot(experts.residual, decode.residual))
    costs = ModelCosts(
        model=spec.name,
        shape=ModelCosts.shape_of(spec),
        cpu=cpu,
        dense=dense,
        head=Curve(
            (
                (head_ns, 0.0),
                (0.0, spec.head_flops_per_token / (1e3 * kernel_tflops(spec, cpu))),
            ),
        ),
        kv_ns=kv_ns,
        relative_error=round(max(LEAST_ERROR, 2 * residual, drift_of(samples)), 3),
        switch_tokens=switch_tokens,
    )
    form = "table" if cpu.points else f"{len(cpu.lines)} line(s)"
    readings = [
        Reading(f"CPU expert, {n} tokens", cpu(n) / 1e6, "ms", experts.residual,
                int(experts.samples.get(n, 0)), f"measured; {form}")
        for n in (1, 4, 16, 64, 256, 1024) if n <= max(experts.samples)
    ]  # fmt: skip
    if switch_tokens is not None:
        readings.append(
            Reading("CPU kernels, up to", switch_tokens, "tokens", 0.0, 0, "measured; torch beyond")
        )
    many = sum(len(each.steps) for each, _ in paced)
    last, last_ns = dense.points[-1]
    readings += [
        Reading("dense part of a layer, decode", dense(1) / 1e6, "ms", decode.residual, many,
                _MEASURED),
        Reading("KV cache, 1000 positions", kv_ns / 1e3, "ms", decode.residual, many,
                _MEASURED),
        Reading(f"dense part, {last:.0f} tokens", last_ns / 1e6, "ms", 0.0, 0,
                "measured; table"),
        Reading("output head", head_ns / 1e6, "ms", head.residual, many, _MEASURED),
    ]  # fmt: skip
    return costs, readings


Paced = list[tuple[Generation, float]]
"""Generations, each with the machine's pace at that moment."""


def _paced(samples: Samples) -> Paced:
    usual = samples.usual_ns
    return [(each, each.reading_ns / usual) for each in samples.generations]


@dataclass(frozen=True)
class _Experts:
    curve: Curve
    residual: float
    samples: dict[int, int]
    """By token count, how many experts were timed."""


def _experts(paced: Paced, switch_tokens: int | None) -> _Experts:
    """The curve whose values add up to what whole calls took."""
    sums: list[tuple[list[int], int, float, int]] = []  # token counts, ns, pace, layers
    shares: dict[int, list[int]] = {}
    for each, pace in paced:
        for steps in (each.decode, *([laps] for laps in each.prefill)):
            counts = [count for laps in steps for layer in laps.counts for count in layer]
            ns = [ns for laps in steps for layer in laps.expert_ns for ns in layer]
            sums.append((counts, sum(ns), pace, sum(laps.layers for laps in steps)))
            for count, share in zip(counts, ns, strict=True):
                shares.setdefault(count, []).append(share)
    known = np.array(sorted(shares))
    at = knots_among(known, () if switch_tokens is None else (switch_tokens, switch_tokens + 1))
    hats = {
        count: np.array([np.interp(count, at, row) for row in np.eye(len(at))])
        for count in known.tolist()
    }
    typical = np.array([float(np.median(shares[count])) for count in known.tolist()])
    made = at_usual_pace(
        [np.sum([hats[count] for count in counts], axis=0) for counts, *_ in sums],
        [ns for _, ns, _, _ in sums],
        [pace for _, _, pace, _ in sums],
        weights=[layers for *_, layers in sums],
        prior=(np.interp(at, known, typical), SHARES),
    )
    times = {count: len(found) for count, found in shares.items()}
    near = [sum(hats[count][j] * times[count] for count in times) for j in range(len(at))]
    fit = fit_curve(at, np.maximum(made.values, 1.0), np.sqrt(np.maximum(near, 1e-3)))
    return _Experts(fit.curve, made.residual, times)


def _dense(paced: Paced) -> tuple[Curve, float, Steady]:
    """The dense part of a layer by tokens, what reading a cached position takes, and how decode's
    means are off."""
    pace = np.array([pace for _, pace in paced])
    context = np.array([np.mean([laps.context for laps in each.decode]) for each, _ in paced])
    ns = [np.mean([laps.dense_ns / laps.layers for laps in each.decode]) for each, _ in paced]
    alike = [len(each.decode) for each, _ in paced]
    single = at_usual_pace(
        np.stack([np.ones_like(context), context], axis=1), ns, pace, weights=alike
    )
    base, kv_ns = single.values.tolist()
    if kv_ns <= 0 or len(np.unique(context)) < 2:
        single = at_usual_pace(np.ones((len(ns), 1)), ns, pace, weights=alike)
        base, kv_ns = float(single.values[0]), 0.0
    lengths: dict[int, list[tuple[float, float]]] = {}
    for each, now in paced:
        for laps in each.prefill:
            lengths.setdefault(laps.tokens, []).append((laps.dense_ns / laps.layers, now))
    points = [(1.0, base)]
    for tokens, found in sorted(lengths.items()):
        times, paces = zip(*found, strict=True)
        value = float(at_usual_pace(np.ones((len(times), 1)), times, paces).values[0])
        points.append((float(tokens), max(value - kv_ns * tokens, 1.0)))
    return Curve(points=tuple(points)), kv_ns, single


def drift_of(samples: Samples) -> float:
    """Half the range of a round's decode time, as a fraction: how steady the machine was."""
    rounds: dict[int, list[int]] = {}
    for each in samples.generations:
        whole = [laps.end_ns - laps.start_ns for laps in each.decode]
        rounds.setdefault(each.round, []).extend(whole)
    if len(rounds) == 1:  # its first half against its second
        (steps,) = rounds.values()
        half = max(len(steps) // 2, 1)
        found = [float(np.median(part)) for part in (steps[:half], steps[half:]) if part]
    else:
        found = [float(np.median(steps)) for steps in rounds.values()]
    return (max(found) - min(found)) / 2 / float(np.median(found))


def kernel_tflops(spec: ModelSpec, cpu: Curve) -> float:
    """Operations of the expert kernel per ns / 1000, from how its curve climbs at its end."""
    last = round(cpu.points[-1][0]) if cpu.points else 1024
    first = max(last // 4, 1)
    if first == last:
        return spec.expert_flops_per_token / max(cpu(1), 1) / 1e3
    climb = max(cpu(last) - cpu(first), 1) / (last - first)
    return spec.expert_flops_per_token / climb / 1e3
