"""One model's costs on a GPU beside the host, out of traces of its own runs.

Each lane's rows give the times of experts, copies and activations. What a layer takes beyond these
laid on the lanes (:mod:`engine.timeline`) is its dense part: that holds the host's time to decide
and to submit, too, which no row tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Decision
from engine.errors import FiddlerError
from engine.events import Lane, Why, Work
from engine.fitting import Fit, fit_curve
from engine.latency import Curve
from engine.measured import DeviceCosts
from engine.timeline import Timeline
from engine.trace import Trace

_NONE = Curve(((0.0, 0.0),))


@dataclass(frozen=True)
class DeviceTimes:
    """What came of the traces."""

    cpu: Curve
    device: DeviceCosts
    residual: float
    """Of whole decode layers, root mean square, as a fraction."""
    samples: dict[str, int]


def device_times(traces: Sequence[Trace], costs: CostModel) -> DeviceTimes:
    """Fit all parts. ``costs`` give bytes; their times do not count.

    Raises FiddlerError where a part was never measured: runs under ``cpu`` and ``stream``, of
    several prompt lengths, measure all of them.
    """
    work = {name: np.concatenate([trace.work[name] for trace in traces]) for name in traces[0].work}
    ns = work["end_ns"] - work["start_ns"]
    expert = work["kind"] == Work.EXPERT
    weights = (work["kind"] == Work.WEIGHTS) & (work["layer"] >= 0)
    crossing = work["kind"] == Work.ACTIVATIONS
    parts = {
        "cpu": expert & (work["lane"] == Lane.CPU),
        "gpu": expert & (work["lane"] == Lane.GPU),
        "to_host": crossing & (work["lane"] == Lane.D2H),
        "to_device": crossing & (work["lane"] == Lane.H2D),
        "head": (work["kind"] == Work.DENSE) & (work["layer"] < 0),
    }
    for name, rows in {**parts, "copies": weights}.items():
        if not rows.any():
            raise FiddlerError(
                f"device_times: no {name} in these runs; run under policies 'cpu' and 'stream'"
            )
    fits = {name: by_tokens(work["tokens"][rows], ns[rows]) for name, rows in parts.items()}
    beside = np.concatenate([_beside_cpu(trace) for trace in traces])
    alone, contended = ns[weights & ~beside], ns[weights & beside]
    copy = float(np.median(alone if len(alone) else ns[weights]))
    slower = max(float(np.median(contended)) if len(contended) else copy, copy)
    laid = replace(
        costs, gpu=fits["gpu"].curve, cpu=fits["cpu"].curve, to_host=fits["to_host"].curve,
        to_device=fits["to_device"].curve, dense=_NONE, kv_ns=0.0, copy_ns=round(copy),
        overlap=True,
    )  # fmt: skip
    dense, kv_ns, residual = _dense(traces, laid)
    device = DeviceCosts(
        gpu=fits["gpu"].curve,
        dense=dense,
        head=fits["head"].curve,
        to_host=fits["to_host"].curve,
        to_device=fits["to_device"].curve,
        kv_ns=kv_ns,
        copy_ns=round(copy),
        copy_contended_ns=round(slower),
        cpu_contended=copy / slower,
    )
    return DeviceTimes(
        fits["cpu"].curve, device, residual, {name: fit.samples for name, fit in fits.items()}
    )


def by_tokens(tokens: NDArray[np.int64], ns: NDArray[np.int64]) -> Fit:
    """A curve through the median at each token count."""
    known, of = np.unique(tokens, return_inverse=True)
    typical = [max(float(np.median(ns[of == at])), 1.0) for at in range(len(known))]
    many = np.bincount(of)
    fit = fit_curve(known, typical, np.sqrt(many))
    return replace(fit, samples=len(ns))


def _beside_cpu(trace: Trace) -> NDArray[np.bool_]:
    """Per row of work: whether the CPU had experts in its layer."""
    work = trace.work
    layers = trace.model.layers + 1
    place = work["step"] * layers + np.maximum(work["layer"], -1) + 1
    return np.isin(place, place[work["lane"] == Lane.CPU])


def _dense(traces: Iterable[Trace], costs: CostModel) -> tuple[Curve, float, float]:
    """The dense part by tokens, what reading a cached position takes, and the residual of layers
    of decode steps."""
    found: list[tuple[int, int, int, int]] = []  # tokens, context, ns beyond, ns of the layer
    for trace in traces:
        for step, layer, start, end, decision in layers_of(trace):
            if not trace.steps["complete"][step]:
                continue
            tokens, context = (int(trace.steps[name][step]) for name in ("tokens", "context"))
            timeline = Timeline(costs)
            timeline.lay(step, layer, tokens, context, decision, None)
            found.append((tokens, context, end - start - timeline.now_ns, end - start))
    table: NDArray[np.float64] = np.array(found, dtype=np.float64)
    tokens, context, beyond, whole = table[:, 0], table[:, 1], table[:, 2], table[:, 3]
    decode = tokens == tokens.min()
    kv_ns, base = 0.0, max(float(np.median(beyond[decode])), 1.0)
    if len(set(context[decode].tolist())) > 1:
        slope, fixed = _line(context[decode], beyond[decode])
        if slope > 0 and fixed > 0:
            kv_ns, base = slope, fixed
    points = [(float(tokens.min()), base)]
    for count in sorted(set(tokens[~decode].tolist())):
        rest = beyond[tokens == count] - kv_ns * context[tokens == count]
        points.append((count, max(float(np.median(rest)), 1.0)))
    off = np.abs((base + kv_ns * context - beyond)[decode] / np.maximum(whole[decode], 1.0))
    inner = off <= np.quantile(off, 0.9)  # pauses are no error of a model
    return Curve(points=tuple(points)), kv_ns, float(np.sqrt(np.mean(off[inner] ** 2)))


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and value at 0 of a line through points, robust: through the medians at each ``x``.

    A pause in one step would bend a plain least-squares line.
    """
    at = np.unique(x)
    typical = np.array([np.median(y[x == each]) for each in at])
    centre = at - at.mean()
    slope = float((centre * typical).sum() / (centre**2).sum())
    return slope, float(typical.mean() - slope * at.mean())


def layers_of(trace: Trace) -> Iterable[tuple[int, int, int, int, Decision]]:
    """Step, layer, start, end and decision of each layer, as its rows of work tell them.

    Experts fetched ahead are left out: under the policies that measure there are none.
    """
    work, columns = trace.work, trace.model.experts
    kept = {
        (step, layer, expert)
        for step, layer, expert, why in zip(
            *(trace.moves[name].tolist() for name in ("step", "layer", "expert", "why")),
            strict=True,
        )
        if why == Why.ADMIT
    }
    place = work["step"] * (trace.model.layers + 1) + work["layer"]
    inside = np.flatnonzero(work["layer"] >= 0)
    order = inside[np.argsort(place[inside], kind="stable")]
    bounds = np.flatnonzero(np.diff(place[order])) + 1
    for rows in np.split(order, bounds) if len(order) else ():
        ran = rows[work["kind"][rows] == Work.EXPERT]
        if not len(ran):
            continue
        step, layer = int(work["step"][rows[0]]), int(work["layer"][rows[0]])
        ran = ran[np.argsort(work["expert"][ran])]
        experts = work["expert"][ran].tolist()
        decision = Decision(
            columns,
            experts,
            work["tokens"][ran].tolist(),
            work["action"][ran].tolist(),
            [(step, layer, expert) in kept for expert in experts],
        )
        yield (
            step,
            layer,
            int(work["start_ns"][rows].min()),
            int(work["end_ns"][rows].max()),
            decision,
        )
