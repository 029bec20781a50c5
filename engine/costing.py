"""One model's costs out of the times of its parts, with residuals, and a table for people.

**One pace.** A shared machine reads memory at 30 GB/s in one minute and at 50 in the next, so times
of one prompt length and of another are of two machines. Each generation ends in decode steps, which
are the same work every time but for the KV cache: how long they took by how long they usually take
is the machine's pace at that moment, and all parts are fitted at the usual one
(:mod:`engine.steady`).

**Steps, not experts.** A layer's experts are one call of the kernels, and threads work on several
of them side by side: one that only reads gets more of the memory's rate while its neighbour
computes, so an expert of one token has a share of 1.4 ms in a call of few tokens and of 1.1 ms in
one of many. Shares are no costs. What is fitted is that the curve's values add up to what all
layers' calls of a step took; shares only say what is left open by that, to within a tenth.

**Parts that add up.** A part now and then takes longer than usual, each at other times, and the sum
of parts' usual times is less than a whole's. So the dense part of decode is what experts and head
leave of whole steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import FiddlerError
from engine.fitting import fit_curve, hats, knots_among
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


def model_costs(
    samples: Samples, spec: ModelSpec, switch_tokens: int | None = None
) -> tuple[ModelCosts, list[Reading]]:
    """Curves fitted to all rounds, and what to tell people about them.

    Raises FiddlerError where nothing was measured.
    """
    if not samples.generations:
        raise FiddlerError("nothing was measured: call measure() first")
    paced = list(zip(samples.generations, samples.paces(), strict=True))
    experts = _experts(paced, switch_tokens)
    cpu = experts.curve
    every = [(laps, pace) for each, pace in paced for laps in each.steps]
    head = _usual([(laps.head_ns, pace) for laps, pace in every])
    head_ns = float(head.values[0])
    dense, kv_ns, decode = _dense(paced, cpu, head_ns)
    residual = max(experts.residual, decode.residual)
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
    many = len(every)
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


def _usual(found: Sequence[tuple[float, float]]) -> Steady:
    """One part, measured alone: of each measurement its ns, and the pace."""
    ns, pace = zip(*found, strict=True)
    return at_usual_pace(np.ones((len(ns), 1)), ns, pace)


@dataclass(frozen=True)
class _Experts:
    curve: Curve
    residual: float
    samples: dict[int, int]
    """By token count, how many experts were timed."""


def _experts(paced: Paced, switch_tokens: int | None) -> _Experts:
    """The curve whose values add up to what whole calls took."""
    sums: list[tuple[list[int], int, float]] = []  # of each step: token counts, ns, pace
    shares: dict[int, list[int]] = {}
    for each, pace in paced:
        for laps in each.steps:
            counts = [count for layer in laps.counts for count in layer]
            ns = [ns for layer in laps.expert_ns for ns in layer]
            sums.append((counts, sum(ns), pace))
            for count, share in zip(counts, ns, strict=True):
                shares.setdefault(count, []).append(share)
    known = np.array(sorted(shares))
    at = knots_among(known, () if switch_tokens is None else (switch_tokens, switch_tokens + 1))
    row = dict(zip(known.tolist(), hats(at, known), strict=True))
    typical = np.array([max(float(np.median(shares[count])), 1.0) for count in known.tolist()])
    made = at_usual_pace(
        [np.sum([row[count] for count in counts], axis=0) for counts, *_ in sums],
        [ns for _, ns, _ in sums],
        [pace for *_, pace in sums],
        prior=(np.interp(at, known, typical), SHARES),
    )
    times = {count: len(found) for count, found in shares.items()}
    near = np.sum([abs(row[count]) * many for count, many in times.items()], axis=0)
    fit = fit_curve(at, np.maximum(made.values, 1.0), np.sqrt(np.maximum(near, 1e-3)))
    return _Experts(fit.curve, made.residual, times)


def _dense(paced: Paced, cpu: Curve, head_ns: float) -> tuple[Curve, float, Steady]:
    """The dense part of a layer by tokens, what reading a cached position takes, and whole decode
    steps, by what they are off."""
    steps = [(laps, pace) for each, pace in paced for laps in each.decode]
    layers = steps[0][0].layers
    context = [float(laps.context) for laps, _ in steps]
    ns, pace = [laps.whole_ns for laps, _ in steps], [pace for _, pace in steps]
    whole = at_usual_pace(np.stack([np.ones_like(context), context], axis=1), ns, pace)
    if whole.values[1] <= 0 or len(set(context)) < 2:
        whole = _usual([(laps.whole_ns, pace) for laps, pace in steps])
    fixed, *slope = whole.values.tolist()
    kv_ns = slope[0] / layers if slope else 0.0
    experts = sum(cpu(count) for layer in steps[0][0].counts for count in layer)
    base = max((fixed - head_ns - experts) / layers, 1.0)
    lengths: dict[int, list[tuple[float, float]]] = {}
    for each, now in paced:
        for laps in each.prefill:
            lengths.setdefault(laps.tokens, []).append((laps.dense_ns / laps.layers, now))
    points = [(1.0, base)]
    for tokens, found in sorted(lengths.items()):
        value = float(_usual(found).values[0])
        points.append((float(tokens), max(value - kv_ns * tokens, 1.0)))
    return Curve(points=tuple(points)), kv_ns, whole


def drift_of(samples: Samples) -> float:
    """Half the range of a round's decode time, as a fraction: how steady the machine was."""
    rounds: dict[int, list[int]] = {}
    for each in samples.generations:
        whole = [laps.whole_ns for laps in each.decode]
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
