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
time. What an expert took in them, by its median over all rounds, is the machine's pace beside the
case. A case's time at the usual pace comes of its rounds' times and paces by the very fit with
which the calibration brings its own parts to the usual pace (:mod:`engine.steady`): robust, with
the share of the time that follows the pace fitted along. No prediction enters it. Beside it stands
what was measured as it is, the median over rounds.

Last line: JSON with ``mape_percent`` and ``worst_percent`` (decode tokens/s over the cases),
``prefill_worst_percent``, the same three with ``as_measured`` (medians, the machine's drift in
them), and how large that was: ``drift_percent``, half the range over the rounds of the time that
one and the same decode work took, and ``pace``, the least and the most of an expert's time by the
usual one.
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
from engine.calibrate import Calibrator
from engine.costing import drift_of
from engine.dense import FEW_TOKENS
from engine.generated import generated_model
from engine.machine import this_machine
from engine.profile import Profile
from engine.run import Run
from engine.steady import at_usual_pace
from engine.timing import Generation

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
    times: list[tuple[float, list[int]]] = field(default_factory=list)
    """By round: ns for a token in decode, and each prefill's ns."""
    beside: list[tuple[Generation, Generation]] = field(default_factory=list)
    """By round: the calibration's generations before and after."""

    def run(self, engine: fv.HybridEngine) -> None:
        """One round's."""
        run = self._generate(engine, self.new)
        self.trace, found = run.trace, run.trace.summary
        prefills = [found.prefill_ns]
        while sum(prefills) < PREFILL_S * 1e9:
            prefills.append(self._generate(engine, 1).trace.summary.prefill_ns)
        self.times.append((1e9 / found.tokens_per_s, prefills))

    def _generate(self, engine: fv.HybridEngine, new: int) -> Run:
        generator = torch.Generator().manual_seed(1000 + self.prompt)
        ids = torch.randint(32000, (self.prompt,), generator=generator).tolist()
        return engine.generate(ids, new, do_sample=False, eos_token_id=None)

    def decode_ns(self, usual_ns: float | None) -> float:
        """For a token, at the usual pace (None: the median as it is)."""
        return self._typical([(ns, 1) for ns, _ in self.times], usual_ns)

    def prefill_ns(self, usual_ns: float | None) -> float:
        """Of the prompt, at the usual pace (None: the median as it is)."""
        return self._typical([(float(np.mean(ns)), len(ns)) for _, ns in self.times], usual_ns)

    def _typical(self, found: list[tuple[float, int]], usual_ns: float | None) -> float:
        ns = [time for time, _ in found]
        if usual_ns is None:
            return float(np.median(ns))
        pace = [(a.reading_ns + b.reading_ns) / 2 / usual_ns for a, b in self.beside]
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
        done = 0
        before = calibrator.measure_one(CALIBRATION[0])
        for place, length in enumerate((*CALIBRATION[1:], CALIBRATION[0])):
            if done < len(cases) * (place + 1) // len(CALIBRATION):
                cases[done].run(engine)
                after = calibrator.measure_one(length)
                cases[done].beside.append((before, after))
                done += 1
            else:
                after = calibrator.measure_one(length)
            before = after
        calibrator.rounds += 1
        took, load = time.perf_counter() - began, os.getloadavg()[0]
        print(f"round {number + 1}: {took:.0f} s, load {load:.1f}", file=sys.stderr, flush=True)
    spec = calibrator.spec("fidelity")
    if save:
        spec.save(save)
    print(f"\n{spec.calibration!r}\n")
    report(spec, cases, calibrator)


def report(spec: fv.HardwareSpec, cases: list[Case], calibrator: Calibrator) -> None:
    usual = calibrator.samples.usual_ns
    print(
        f"{'':15}decode, tokens/s{'':26}prefill, ms\n{'prompt':>6} {'new':>4}"
        + 2 * f"{'measured':>10} {'at usual pace':>13} {'predicted':>9} {'error':>7}"
    )
    errors: list[list[float]] = []
    inside = 0
    for case in cases:
        assert case.trace is not None
        told = fv.replay(case.trace, hardware=spec).summary
        decode, prefill = 1e9 / told.tokens_per_s, told.prefill_ns
        as_is = case.decode_ns(None), case.prefill_ns(None)
        at_usual = case.decode_ns(usual), case.prefill_ns(usual)
        errors.append(
            [100 * (ns / decode - 1) for ns in (at_usual[0], as_is[0])]  # of speeds
            + [100 * (prefill / ns - 1) for ns in (at_usual[1], as_is[1])]  # of times
        )
        inside += told.tokens_per_s_low <= 1e9 / at_usual[0] <= told.tokens_per_s_high
        print(
            f"{case.prompt:6} {case.new:4}{1e9 / as_is[0]:10.2f} {1e9 / at_usual[0]:13.2f} "
            f"{told.tokens_per_s:9.2f} {errors[-1][0]:+6.1f}%{as_is[1] / 1e6:10.0f} "
            f"{at_usual[1] / 1e6:13.0f} {prefill / 1e6:9.0f} {errors[-1][2]:+6.1f}%"
        )
    stated = spec.calibration.models[0].relative_error if spec.calibration else 0.0
    print(f"{inside} of {len(cases)} speeds within the stated interval of {stated:.1%}")
    size = np.abs(np.array(errors))  # (cases, 4)
    mean, worst = size.mean(axis=0), size.max(axis=0)
    reading = [each.reading_ns / usual for each in calibrator.samples.generations]
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
    rounded = {name: round(float(value), 2) for name, value in figures.items()}
    print(json.dumps(rounded | {"pace": [round(min(reading), 2), round(max(reading), 2)]}))


if __name__ == "__main__":
    main()
