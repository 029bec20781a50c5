"""What recording costs: decode steps with and without it, in interleaved pairs.

    python benchmarks/overhead.py [--pairs 250] [--tokens 20]

Each pair runs the same short greedy generation twice, recorded and not, in alternating order; its
ratio is that of the lower quartiles of the times from one decode step to the next (what else a
shared machine does only ever adds to a step). The figure is the median ratio, the interval a
bootstrap's over the pairs. Making the trace, once after the last step, is timed for itself and
given as a share of the steps, too. Last line: JSON with ``overhead_percent`` and ``trace_percent``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch

import fiddler_viz as fv
from engine.recorder import Recorder

PROMPT = "To be, or not to be, that is the question:"


class StepTimes:
    """Times from one forward pass's begin to the next one's, in ns."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.stamps: list[int] = []
        model.register_forward_pre_hook(lambda *_: self.stamps.append(time.perf_counter_ns()))

    def quartile_ns(self) -> float:
        """Lower quartile of the last generation's decode steps (the prefill is not one)."""
        steps = np.diff(self.stamps)[1:]
        self.stamps.clear()
        return float(np.quantile(steps, 0.25))


class TraceTimes:
    """Time spent in making traces, in ns."""

    def __init__(self) -> None:
        self.times: list[int] = []
        make = Recorder.trace

        def timed(recorder: Recorder, meta: Any) -> Any:
            start = time.perf_counter_ns()
            trace = make(recorder, meta)
            if len(trace.step_rows):  # that of a run that was not recorded is empty
                self.times.append(time.perf_counter_ns() - start)
            return trace

        Recorder.trace = timed  # type: ignore[method-assign]


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=250)
    options.add_argument("--tokens", type=int, default=20)
    chosen = options.parse_args()
    engine = fv.load("demo", as_model="mixtral-8x7b", gpu_memory="24GB")
    times, traces = StepTimes(engine.model), TraceTimes()

    def run(record: bool) -> float:
        engine.generate(PROMPT, chosen.tokens, record=record, do_sample=False)
        return times.quartile_ns()

    run(True), run(False)  # warm up
    ratios, plain = [], []
    traces.times.clear()
    for pair in range(chosen.pairs):
        order = (True, False) if pair % 2 else (False, True)
        took = {record: run(record) for record in order}
        ratios.append(took[True] / took[False])
        plain.append(took[False])
    low, high = (100 * (bound - 1) for bound in interval(np.array(ratios)))
    percent = 100 * (float(np.median(ratios)) - 1)
    print(
        f"{chosen.pairs} pairs of {chosen.tokens} tokens, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"a decode step without recording: {np.median(plain) / 1e6:.2f} ms (median of quartiles)")
    print(f"recording adds {percent:+.2f}% (95% interval {low:+.2f}% to {high:+.2f}%)")
    made = float(np.median(traces.times)) / chosen.tokens  # ns for each step
    share = 100 * made / float(np.median(plain))
    print(f"making the trace at the end: {made / 1e3:.0f} us for each step, {share:.2f}% of it")
    print(
        json.dumps(
            {
                "overhead_percent": round(percent, 2),
                "low": round(low, 2),
                "high": round(high, 2),
                "trace_percent": round(share, 2),
                "pairs": chosen.pairs,
            }
        )
    )


if __name__ == "__main__":
    main()
