"""How well the calibrated cost model predicts this machine: a model it was calibrated with, run on
prompts and lengths it was not.

    python benchmarks/fidelity.py [--rounds 7] [--layers 8]

Writes a Mixtral of 3.2 GB with random weights to a temporary folder, loads it on the host device
(all on the CPU, policy ``cpu``), and takes turns: one prompt length for the calibration, one
held-out case, and so on, round by round, so that both see the same machine. Then the spec that
the calibration fitted predicts every case: a replay of its trace on the modelled clock. Measured is
the median over rounds of a case's tokens per second (prefill: time).

Last line: JSON with ``mape_percent`` and ``worst_percent`` (decode tokens/s over the cases),
``prefill_worst_percent``, and ``drift_percent``: half the range over the rounds of the
time that one and the same decode work took, which is the machine's share and no error of the model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time

import numpy as np
import torch

import fiddler_viz as fv
from engine.calibrate import Calibrator
from engine.costing import drift_of
from engine.generated import generated_model
from engine.machine import this_machine
from engine.profile import Profile
from engine.run import Run

CALIBRATION = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
HELD_OUT = ((6, 24), (24, 16), (48, 24), (96, 16), (180, 24), (350, 16), (600, 24))
"""Prompt tokens, new tokens."""


def case(engine: fv.HybridEngine, number: int) -> Run:
    """One held-out case: its prompt is the same in every round, and in no calibration."""
    length, new = HELD_OUT[number]
    ids = torch.randint(32000, (length,), generator=torch.Generator().manual_seed(1000 + number))
    return engine.generate(ids.tolist(), new, do_sample=False, eos_token_id=None)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--layers", type=int, default=8, help="0.4 GB each")
    options.add_argument("--save", help="write the spec to this JSON file")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        generated_model(layers=chosen.layers).save_pretrained(folder)
        engine = fv.load(
            folder, device="host", profile=Profile.uniform((chosen.layers, 8)), name="generated"
        )
    gigabytes = engine.real_spec.total_bytes / 1e9
    print(f"{gigabytes:.1f} GB, {chosen.layers} layers x 8 experts, top-2, bfloat16")
    print(f"{this_machine()}, {engine.threads} threads, load at the start {os.getloadavg()[0]:.1f}")
    measure(engine, chosen.rounds, chosen.save)


def measure(engine: fv.HybridEngine, rounds: int, save: str | None) -> None:
    calibrator = Calibrator(engine.model, engine.real_spec)
    speeds: list[list[float]] = [[] for _ in HELD_OUT]
    prefills: list[list[float]] = [[] for _ in HELD_OUT]
    traces: dict[int, fv.Trace] = {}
    for number in range(rounds):
        began = time.perf_counter()
        cases = list(range(len(HELD_OUT)))
        for place, length in enumerate(CALIBRATION):
            calibrator.measure_one(length)
            share = len(HELD_OUT) * (place + 1) // len(CALIBRATION)
            while len(HELD_OUT) - len(cases) < share:
                which = cases.pop(0)
                run = case(engine, which)
                traces[which] = run.trace
                speeds[which].append(run.trace.summary.tokens_per_s)
                prefills[which].append(run.trace.summary.prefill_ns)
        calibrator.rounds += 1
        took, load = time.perf_counter() - began, os.getloadavg()[0]
        print(f"round {number + 1}: {took:.0f} s, load {load:.1f}", file=sys.stderr, flush=True)
    spec = calibrator.spec("fidelity")
    if save:
        spec.save(save)
    print(f"\n{spec.calibration!r}\n")
    report(spec, traces, speeds, prefills, drift_of(calibrator.samples))


def report(
    spec: fv.HardwareSpec,
    traces: dict[int, fv.Trace],
    speeds: list[list[float]],
    prefills: list[list[float]],
    drift: float,
) -> None:
    print(
        f"{'prompt':>6} {'new':>4} {'measured':>9} {'range':>13} {'predicted':>9} {'error':>7}"
        f" {'prefill':>9} {'predicted':>9} {'error':>7}   (tokens/s; ms)"
    )
    decode, prefill, inside = [], [], 0
    for number, (length, new) in enumerate(HELD_OUT):
        told = fv.replay(traces[number], hardware=spec).summary
        speed, first = float(np.median(speeds[number])), float(np.median(prefills[number]))
        decode.append(100 * (told.tokens_per_s / speed - 1))
        prefill.append(100 * (told.prefill_ns / first - 1))
        inside += told.tokens_per_s_low <= speed <= told.tokens_per_s_high
        spread = f"{min(speeds[number]):.2f} - {max(speeds[number]):.2f}"
        print(
            f"{length:6} {new:4} {speed:9.2f} {spread:>13} {told.tokens_per_s:9.2f} "
            f"{decode[-1]:+6.1f}% {first / 1e6:9.0f} {told.prefill_ns / 1e6:9.0f} "
            f"{prefill[-1]:+6.1f}%"
        )
    stated = spec.calibration.models[0].relative_error if spec.calibration else 0.0
    print(f"{inside} of {len(HELD_OUT)} speeds within the stated interval of {stated:.1%}")
    print(
        json.dumps(
            {
                "mape_percent": round(float(np.mean(np.abs(decode))), 2),
                "worst_percent": round(float(np.max(np.abs(decode))), 2),
                "prefill_worst_percent": round(float(np.max(np.abs(prefill))), 2),
                "drift_percent": round(100 * drift, 2),
                "load": round(os.getloadavg()[0], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
