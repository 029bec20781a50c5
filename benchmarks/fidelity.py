"""How well the calibrated cost model predicts this machine: a model it was calibrated with, run on
prompts and lengths it was not.

    python benchmarks/fidelity.py [--rounds 9] [--layers 8]

Writes a Mixtral of 3.2 GB with random weights to a temporary folder, loads it on the host device
(all on the CPU, policy ``cpu``), and takes turns: one prompt length for the calibration, one
held-out case, and so on, round by round, so that both see the same machine. Short prompts are run
again until they took half a second. Then the spec that the calibration fitted predicts every case:
a replay of its trace on the modelled clock.

What a shared machine does meanwhile is no error of the model, and is told apart like this. Each
case stands between two generations of the calibration, whose decode steps are the same work every
time. How long they took by how long they usually take is the machine's pace beside the case. What a
case's decode step, and its prefill, take at the usual pace comes of their times in all rounds and
the paces beside them, by the very fit with which the calibration brings its own steps to the usual
pace (:mod:`engine.steady`): robust, so that a step in which the machine paused does not count for
all of its length, with the share of the time that follows the pace fitted along, and without what
stands beside a pace of more than twice the usual, for then someone else has the cores. No
prediction enters it. Beside it stands what was measured as it is: of a run's tokens per second,
pauses and all, and of the prefill's time, the median over rounds.

Last line: JSON with ``mape_percent`` and ``worst_percent`` (decode tokens/s over the cases),
``prefill_worst_percent``, the same three with ``as_measured`` (medians, the machine's drift in
them), and how large that was: ``drift_percent``, half the range over the rounds of the time that
one and the same decode work took, ``pace``, the least and the most of a generation's, and
``left_out``, how many rounds of cases stood beside a pace too far off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
import torch

import fiddler_viz as fv
from engine.calibrator import Calibrator
from engine.costing import drift_of
from engine.dense import FEW_TOKENS
from engine.generated import generated_model
from engine.machine import this_machine
from engine.profile import Profile
from engine.steady import FAR, at_usual_pace

CALIBRATION = (1, 2, 4, 8, 16, FEW_TOKENS, FEW_TOKENS + 1, 64, 128, 256, 512, 768)
HELD_OUT = ((6, 24), (24, 16), (48, 24), (96, 16), (180, 24), (350, 16), (600, 24))
"""Prompt tokens, new tokens."""
PREFILL_S = 0.5
"""So long at least a round times a case's prefill."""


@dataclass
class Case:
    """A held-out case: its prompt is the same in every round, and in no calibration."""

    prompt: int
    new: int
    trace: fv.Trace | None = None
    speeds: list[float] = field(default_factory=list)
    """By round: decode tokens per second."""
    steps: list[list[int]] = field(default_factory=list)
    """By round: each decode step's ns."""
    prefills: list[list[int]] = field(default_factory=list)
    """By round: each prefill's ns."""
    beside: list[int] = field(default_factory=list)
    """By round: the number of the calibration's generation after it."""

    def run(self, engine: fv.HybridEngine) -> None:
        """One round's."""
        self.trace = self._generate(engine, self.new)
        first, *rest = (self.trace.steps["end_ns"] - self.trace.steps["start_ns"]).tolist()
        prefills = [first]
        while sum(prefills) < PREFILL_S * 1e9:
            prefills.append(self._generate(engine, 1).summary.prefill_ns)
        self.speeds.append(self.trace.summary.tokens_per_s)
        self.steps.append(rest)
        self.prefills.append(prefills)

    def _generate(self, engine: fv.HybridEngine, new: int) -> fv.Trace:
        generator = torch.Generator().manual_seed(1000 + self.prompt)
        ids = torch.randint(32000, (self.prompt,), generator=generator).tolist()
        return engine.generate(ids, new, do_sample=False, eos_token_id=None).trace

    def paces(self, paces: list[float]) -> list[float]:
        """By round: the machine's pace beside the case, of all generations' paces."""
        return [(paces[after - 1] + paces[after]) / 2 for after in self.beside]

    def at_usual_pace(self, times: list[list[int]], paces: list[float]) -> float:
        """Of ``steps`` or ``prefills`` what one takes at the usual pace, in ns."""
        beside = self.paces(paces)
        ns = [one for found in times for one in found]
        pace = [at for found, at in zip(times, beside, strict=True) for _ in found]
        return float(at_usual_pace(np.ones((len(ns), 1)), ns, pace).values[0])


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=9)
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
    cases = [Case(*each) for each in HELD_OUT]
    for number in range(rounds):
        began = time.perf_counter()
        left = list(cases)
        calibrator.measure_one(CALIBRATION[0])
        for place, length in enumerate((*CALIBRATION[1:], CALIBRATION[0])):
            if len(cases) - len(left) < len(cases) * (place + 1) // len(CALIBRATION):
                left[0].run(engine)
                left.pop(0).beside.append(len(calibrator.samples.generations))
            calibrator.measure_one(length)
        calibrator.rounds += 1
        took, load = time.perf_counter() - began, os.getloadavg()[0]
        print(f"round {number + 1}: {took:.0f} s, load {load:.1f}", file=sys.stderr, flush=True)
    spec = calibrator.spec("fidelity")
    if save:
        spec.save(save)
    print(f"\n{spec.calibration!r}\n")
    report(spec, cases, calibrator)


def report(spec: fv.HardwareSpec, cases: list[Case], calibrator: Calibrator) -> None:
    paces = calibrator.samples.paces()
    print(
        f"{'':13}decode, tokens/s{'':26}prefill, ms\n{'prompt':>6} {'new':>4}"
        + 2 * f"{'measured':>10} {'at usual pace':>13} {'predicted':>9} {'error':>7}"
    )
    errors: list[list[float]] = []
    inside = 0
    for case in cases:
        assert case.trace is not None
        told = fv.replay(case.trace, hardware=spec).summary
        steps = case.at_usual_pace(case.steps, paces)
        first = case.at_usual_pace(case.prefills, paces)
        speed, as_is = 1e9 / steps, float(np.median(case.speeds))
        first_as_is = float(np.median([np.mean(found) for found in case.prefills]))
        errors.append(
            [100 * (told.tokens_per_s / found - 1) for found in (speed, as_is)]
            + [100 * (told.prefill_ns / found - 1) for found in (first, first_as_is)]
        )
        inside += told.tokens_per_s_low <= speed <= told.tokens_per_s_high
        print(
            f"{case.prompt:6} {case.new:4}{as_is:10.2f} {speed:13.2f} {told.tokens_per_s:9.2f} "
            f"{errors[-1][0]:+6.1f}%{first_as_is / 1e6:10.0f} {first / 1e6:13.0f} "
            f"{told.prefill_ns / 1e6:9.0f} {errors[-1][2]:+6.1f}%"
        )
    stated = spec.calibration.models[0].relative_error if spec.calibration else 0.0
    print(f"{inside} of {len(cases)} speeds within the stated interval of {stated:.1%}")
    size = np.abs(np.array(errors))  # (cases, 4)
    mean, worst = size.mean(axis=0), size.max(axis=0)
    beside = [pace for case in cases for pace in case.paces(paces)]
    figures = {
        "mape_percent": mean[0],
        "worst_percent": worst[0],
        "prefill_worst_percent": worst[2],
        "mape_as_measured_percent": mean[1],
        "worst_as_measured_percent": worst[1],
        "prefill_worst_as_measured_percent": worst[3],
        "drift_percent": 100 * drift_of(calibrator.samples),
        "load": os.getloadavg()[0],
    }
    found: dict[str, object] = {name: round(float(value), 2) for name, value in figures.items()}
    found["pace"] = [round(min(paces), 2), round(max(paces), 2)]
    found["left_out"] = f"{sum(not 1 / FAR <= pace <= FAR for pace in beside)} of {len(beside)}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
