"""Stopping a run at 100 random moments, with an explorer open: how long it takes, and what is left.

Half of the runs are ended by the explorer's Stop button, half by the interrupt that a notebook's
kernel gets: a real signal while ``engine.generate`` runs in the main thread. After each of them the
engine is free again, its device holds what its ledger says, and the next run's tokens are those of
a run that was never interrupted. At the end: as many threads, open files and widgets as before.

    python benchmarks/interrupts.py [--times 100]

Last line: JSON with ``stop_worst_ms``, ``stop_p50_ms`` and what grew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import fiddler_viz as fv
from engine.residency import Place

PROMPT = "To be, or not to be, that is the question:"
TOKENS = 48


class Interrupted:
    """An engine with an explorer, stopped again and again."""

    def __init__(self) -> None:
        self.engine = fv.load("demo", gpu_memory="24GB", as_model="mixtral-8x7b", policy="lru")
        self.explorer: Any = fv.Explorer(self.engine)
        self.expected = self.tokens()

    def tokens(self) -> list[int]:
        """What an undisturbed greedy run gives."""
        return list(self.engine.generate(PROMPT, 8, do_sample=False).tokens)

    def by_button(self, after_s: float) -> float:
        """Press Run, and Stop after a while; milliseconds until it has stopped."""
        runs = self.explorer.screen.runs
        runs.tokens.value = TOKENS
        runs.run.click()
        time.sleep(after_s)
        began = time.perf_counter()
        runs.stop.click()
        self.wait()
        return (time.perf_counter() - began) * 1e3

    def by_kernel(self, after_s: float) -> float:
        """Generate as a cell does, interrupted by a signal; milliseconds until it has stopped."""
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        sent = time.perf_counter() + after_s
        try:
            signal.setitimer(signal.ITIMER_REAL, after_s)
            self.engine.generate(PROMPT, TOKENS)
        except KeyboardInterrupt:
            return (time.perf_counter() - sent) * 1e3
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return 0.0  # it was over first

    def wait(self) -> None:
        while self.explorer._runs.busy:
            time.sleep(0.001)

    def check(self) -> None:
        """Free, consistent, and as good as new. Raises AssertionError."""
        ledger = self.engine.residency
        resident = set(np.flatnonzero(ledger.places().ravel() != Place.HOST).tolist())
        assert self.engine.device.held() == resident
        assert ledger.used_bytes <= ledger.budget_bytes
        assert self.tokens() == self.expected

    def held(self) -> dict[str, int]:
        from ipywidgets.widgets.widget import _instances

        files = Path("/proc/self/fd")
        return {
            "threads": threading.active_count(),
            "files": len(list(files.iterdir())) if files.exists() else 0,
            "widgets": len(_instances),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=100)
    times = parser.parse_args().times
    it = Interrupted()
    draw = random.Random(0)
    it.by_button(0.2)
    it.by_kernel(0.2)
    it.check()
    before = it.held()
    took: dict[str, list[float]] = {"button": [], "kernel": []}
    for number in range(times):
        way = ("button", "kernel")[number % 2]
        took[way].append((it.by_button if way == "button" else it.by_kernel)(draw.uniform(0, 0.8)))
        it.check()
    after = it.held()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    for way, values in took.items():
        row = np.percentile(values, (50, 95, 100))
        words = ", ".join(f"{value:.1f}" for value in row)
        print(f"{way:7} {len(values):3} times: stopped after {words} ms (p50, p95, max)")
    every = np.concatenate([np.array(values) for values in took.values()])
    grown = {name: after[name] - before[name] for name in before}
    it.explorer.close()
    figures = {"stop_worst_ms": every.max(), "stop_p50_ms": np.median(every)}
    rounded = {name: round(float(value), 1) for name, value in figures.items()}
    print(json.dumps(rounded | {f"more_{name}": count for name, count in grown.items()}))


if __name__ == "__main__":
    main()
