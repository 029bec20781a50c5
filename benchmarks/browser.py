"""What a reader feels in a real Chromium: keys answered, frames, and the price of looking.

In JupyterLab:

- Key to page: an arrow key on the memory slider of a long run of a large model (that of
  benchmarks/replay.py: 2,000 tokens on 48 x 128 experts, top-8), until the page has painted the
  new plan: the memory bar and, before it, the timeline. Timed in the page, by its own clock.
- The same on the demo model while its engine generates.
- Live: how often the page shows the timeline anew in a second while a cell generates.
- Slowdown: the engine's own decode speed by the wall clock, a page with the explorer open against
  no explorer at all, in turns. And against a process that has nothing to do with it and computes
  half of the time, about what browser and server take: what two cores can spare.

    python benchmarks/browser.py [--presses 60] [--rounds 5] [--tokens 200]

Last line: JSON with ``key_to_page_p95_ms``, ``key_to_page_live_p95_ms``, ``live_fps``,
``engine_slowdown_percent`` (median of the rounds' ratios) and its range, and
``slowdown_beside_half_a_core_percent``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.driving import SLOW_MS, Driver  # noqa: E402
from tools.browser import ensure_chromium  # noqa: E402
from tools.serving import browser, evaluate, kernel_of, lab, write_notebook  # noqa: E402

LARGE = """
from benchmarks.replay import large_trace
from fiddler_viz.explorer import Explorer
explorer = Explorer(large_trace())
explorer
"""
ENGINE = """
import fiddler_viz as fv
if "engine" not in globals():
    engine = fv.load("demo", gpu_memory="24GB", as_model="mixtral-8x7b")
"""
OPEN = """
explorer = fv.Explorer(engine)
explorer
"""
GENERATE = """
import threading
import time

def generate(tokens):
    began = time.perf_counter()
    engine.generate("To be, or not to be, that is the question:", tokens, eos_token_id=None)
    return tokens / (time.perf_counter() - began)

def keep_on():
    while not over.is_set():
        generate(600)

over = threading.Event()
keep = threading.Thread(target=keep_on)
"""
KEY = """() => {
  if (globalThis.fvKeys) return;
  const keys = globalThis.fvKeys = { pressed: 0, took: [] };
  const shown = () => document.querySelector('.fv-root [role=img]')?.getAttribute('aria-label');
  document.addEventListener('keydown', () => {
    const at = performance.now();
    const before = shown();
    const number = ++keys.pressed;
    const look = () => {
      if (keys.pressed !== number) return;
      if (shown() === before) return void requestAnimationFrame(look);
      requestAnimationFrame(() => { keys.took[number - 1] = performance.now() - at; });
    };
    look();
  }, true);
}"""
COUNT = """() => {
  const view = document.querySelector('.fv-timeline');
  let drawn = 0;
  view.querySelector('.js-plotly-plot').on('plotly_afterplot', () => drawn++);
  view.addEventListener('fv-painted', () => drawn++);
  globalThis.fvFrames = () => drawn;
}"""
"""How often the timeline is drawn from now on, by plotly or as a frame of a run under way."""
HALF_A_CORE = """
import time
while True:
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.02:
        pass
    time.sleep(0.02)
"""
PRESS_TIMEOUT_MS = 20_000
PAUSE_S = 0.25
REST_S = 1.5


@contextmanager
def half_a_core() -> Iterator[None]:
    """Within it another process computes half of the time."""
    process = subprocess.Popen([sys.executable, "-c", HALF_A_CORE])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def notebook(page: Any, *cells: str) -> Iterator[Any]:
    """A notebook in JupyterLab with all cells run, and a client of its kernel."""
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        path = write_notebook(Path(folder) / "bench.ipynb", *cells)
        with lab(path, Path(folder)) as served:
            page.goto(served.url, timeout=SLOW_MS)
            run_all(page)
            with kernel_of(served) as kernel:
                yield kernel
            page.goto("about:blank")


def run_all(page: Any) -> None:
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=SLOW_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def key_to_page(driver: Driver, presses: int) -> list[float]:
    """Milliseconds from each key press until the page has painted what it changed."""
    driver.page.evaluate(KEY)
    handle = driver.root.locator(".noUi-handle").first
    handle.focus()
    done = driver.page.evaluate("fvKeys.pressed")
    for number in range(presses):
        handle.press("ArrowRight" if number // 20 % 2 == 0 else "ArrowLeft")
        driver.page.wait_for_function(
            "(n) => fvKeys.took[n] !== undefined", arg=done + number, timeout=PRESS_TIMEOUT_MS
        )
        time.sleep(PAUSE_S)
    return [float(value) for value in driver.page.evaluate(f"fvKeys.took.slice({done})")]


def large(page: Any, presses: int) -> list[float]:
    with notebook(page, LARGE):
        driver = Driver(page)
        driver.opened()
        key_to_page(driver, 6)  # warm
        return key_to_page(driver, presses)


def warm(kernel: Any, tokens: int) -> None:
    """A run, and a rest: what is drawn of a run's end is no part of the next one."""
    evaluate(kernel, f"result = generate({tokens})")
    time.sleep(REST_S)


def live(
    page: Any, presses: int, rounds: int, tokens: int
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Key presses while generating; frames a second; the engine's speed, open / without, and
    beside another process / without."""
    with notebook(page, ENGINE, GENERATE, OPEN) as kernel:
        driver = Driver(page)
        driver.opened()
        evaluate(kernel, "keep.start()")
        driver.until("s.state == 'running' && s.title.includes('live, after step')")
        key_to_page(driver, 6)
        keys = key_to_page(driver, presses)
        evaluate(kernel, "over.set(); engine.stop(); keep.join()")
        driver.until("s.state == 'ready'")
        frames: list[float] = []
        ratios: list[float] = []
        besides: list[float] = []
        address = page.url
        for number in range(rounds):
            warm(kernel, tokens // 4)
            page.evaluate(COUNT)
            opened = evaluate(kernel, f"result = generate({tokens})")
            fps = page.evaluate("fvFrames()") * opened / tokens
            page.goto("about:blank")
            evaluate(kernel, "explorer.close()")
            warm(kernel, tokens // 4)
            alone = evaluate(kernel, f"result = generate({tokens})")
            with half_a_core():
                beside = evaluate(kernel, f"result = generate({tokens})")
            frames.append(fps)
            ratios.append(opened / alone)
            besides.append(beside / alone)
            print(
                f"round {number + 1}: {opened:.1f} tokens/s open, {alone:.1f} without, "
                f"{beside:.1f} beside half a core; "
                f"{fps:.1f} frames/s",
                file=sys.stderr,
                flush=True,
            )
            if number + 1 < rounds:
                page.goto(address, timeout=SLOW_MS)
                run_all(page)
                driver.opened()
                time.sleep(2)
        return keys, frames, ratios, besides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    chosen = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    with browser(ensure_chromium()) as opened:
        page = opened.new_page(viewport={"width": 1440, "height": 1000})  # all panels in view
        page.set_default_timeout(60_000)
        print(f"Chromium {opened.version}, software rendering")
        finished = large(page, chosen.presses)
        keys, frames, ratios, besides = live(page, chosen.presses, chosen.rounds, chosen.tokens)
    for what, values in (("large run", finished), ("while generating", keys)):
        row = np.percentile(values, (50, 95, 100))
        print(f"key to page, {what:17}" + "".join(f"{value:8.0f}" for value in row) + "  (ms)")
    print(f"frames/s while generating: {min(frames):.1f} to {max(frames):.1f}")
    slow = 100 * (1 - np.array(ratios))
    print(f"slower by {min(slow):.1f}% to {max(slow):.1f}% with the explorer open")
    figures = {
        "key_to_page_p95_ms": np.percentile(finished, 95),
        "key_to_page_live_p95_ms": np.percentile(keys, 95),
        "live_fps": np.median(frames),
        "engine_slowdown_percent": np.median(slow),
        "engine_slowdown_least": slow.min(),
        "engine_slowdown_most": slow.max(),
        "slowdown_beside_half_a_core_percent": 100 * (1 - np.median(besides)),
    }
    print(json.dumps({name: round(float(value), 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
