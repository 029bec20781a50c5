"""From a moved slider to all views updated, kernel side: what a reader waits for besides the wire.

Opens the bundled run (256 tokens on 32 x 8 experts) in an explorer, moves the memory slider and the
cache slider under every policy, and times each move: from the value arriving as the browser sends
it until the explorer's own thread has replayed the run and written every view's messages. These go
through jupyter_client's own ``Session.serialize`` (JSON, signature, buffers) as in a kernel; only
the socket and the browser are missing: every frame counts as painted at once.

Then the same on a long run of a large model (``benchmarks/replay.py``'s: 2,000 tokens on 48 x 128
experts, top-8), under the policies that have a closed form: until the plan, the summary and the
visible timeline are drawn, exact, and until all the rest is.

    python benchmarks/replan.py [--moves 240]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import comm
import numpy as np
from comm.base_comm import BaseComm
from jupyter_client.session import Session
from replay import CLOSED_FORMS, large_trace

from engine.events import StepKind
from engine.policies import POLICIES
from fiddler_viz import demo
from fiddler_viz.explorer import Explorer

WARM_UP = 20
PAUSE_S = 0.1
"""Between a frame and the next move: the explorer draws a frame every 0.08 s at most."""
NO_FRAME_S = 0.6
"""After so long without a frame a move changed nothing."""


class Wire:
    """Serialises every message as a kernel would, and counts bytes."""

    def __init__(self) -> None:
        self.session = Session(key=b"benchmark")
        self.bytes = 0
        self.messages = 0

    def create(self, **options: Any) -> BaseComm:
        wire = self

        class Comm(BaseComm):
            def publish_msg(
                self,
                msg_type: str,
                data: Any = None,
                metadata: Any = None,
                buffers: Any = None,
                **keys: Any,
            ) -> None:
                content = {"data": data or {}, "comm_id": self.comm_id, **keys}
                message = wire.session.msg(msg_type, content, metadata=metadata)
                parts = [*wire.session.serialize(message), *(buffers or ())]
                wire.bytes += sum(memoryview(part).nbytes for part in parts)
                wire.messages += 1

        return Comm(**options)


def moves(explorer: Explorer, count: int, policies: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """``(what, widget, value)``: policies take turns; under each, both sliders move."""
    controls = explorer.screen.controls
    plan = explorer.plan
    low, high = plan.minimum_bytes, plan.full_bytes
    budgets = np.linspace(low + 4 * plan.expert_bytes, high, 23)
    found: list[tuple[str, Any, Any]] = []
    for budget, policy in zip(cycle(budgets.tolist()), cycle(policies), strict=False):
        found.append(("policy", controls.policy, list(POLICIES).index(policy)))
        for shift in (0.0, 0.13, 0.29):
            value = low + (budget - low + shift * (high - low)) % (high - low)
            value = max(value, low + 4 * plan.expert_bytes)
            found.append(("memory", controls.memory, value / controls.unit))
        if POLICIES[policy].admits:
            found += [("cache", controls.cache, slots) for slots in (0, 2, 3)]
        if len(found) >= count:
            return found[:count]
    return found


class Frames:
    """When an explorer's frames were sent, as its own thread draws them."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._sent: queue.SimpleQueue[float] = queue.SimpleQueue()
        explorer.screen.beat.observe(self._frame, "sent")

    def _frame(self, change: Any) -> None:
        self._sent.put(time.perf_counter())
        change["owner"].shown = change["new"]

    def move(self, widget: Any, key: str, value: Any) -> list[float]:
        """Milliseconds from the value's arrival to each frame, to the one that leaves nothing."""
        time.sleep(PAUSE_S)
        while not self._sent.empty():  # what was worked out beside the last move's drawing
            self._sent.get()
        began = time.perf_counter()
        widget.set_state({key: value})
        found: list[float] = []
        while not found or self._explorer.screen.owes:
            try:
                found.append((self._sent.get(timeout=NO_FRAME_S) - began) * 1e3)
            except queue.Empty:
                break
        return found


def large(count: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds until the first frame, and until the last, of moves on the large run.

    The third: until the first frame of moves of the link's bandwidth.
    """
    explorer = Explorer(large_trace())
    frames, controls = Frames(explorer), explorer.screen.controls
    low, high = explorer.plan.minimum_bytes, explorer.plan.full_bytes
    first: list[float] = []
    whole: list[float] = []
    links: list[float] = []
    policies = cycle(("fiddler", "lru", "stream", "cpu", "layers", "fiddler_released"))
    for number, budget in enumerate(np.linspace(low, high, count + 5)):
        if number % 5 == 0:
            frames.move(controls.policy, "index", list(POLICIES).index(next(policies)))
        value = low + (budget - low) * 0.98 + (number % 5) / 5 * 0.02 * (high - low)
        drawn = frames.move(controls.memory, "value", value / controls.unit)
        if number >= 5 and drawn:
            first.append(drawn[0])
            whole.append(drawn[-1])
    link = explorer.screen.what_if.link
    for number in range(count // 2):
        drawn = frames.move(link, "index", 5 + number % (len(link.options) - 5))
        links += drawn[:1]
    explorer.close()
    return first, whole, links


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--moves", type=int, default=240)
    count = parser.parse_args().moves
    wire = Wire()
    comm.create_comm = wire.create
    trace = demo.trace()
    explorer = Explorer(trace)
    frames = Frames(explorer)
    times: dict[str, list[float]] = {}
    cpu: list[float] = []
    size: list[int] = []
    others = [name for name in POLICIES if name not in CLOSED_FORMS]
    asked = moves(explorer, count + WARM_UP, CLOSED_FORMS)
    asked += [("others", *move[1:]) for move in moves(explorer, count // 2, others)]
    for number, (what, widget, value) in enumerate(asked):
        before, began_cpu = wire.bytes, time.process_time()
        key = "index" if widget is explorer.screen.controls.policy else "value"
        drawn = frames.move(widget, key, value)
        if number >= WARM_UP and drawn:
            times.setdefault(what, []).append(drawn[-1])
            cpu.append((time.process_time() - began_cpu) * 1e3)
            size.append(wire.bytes - before)
    shown = explorer.screen.status.text
    explorer.close()
    layers, experts = trace.model.grid
    decode = int((trace.steps["kind"] == StepKind.DECODE).sum())
    print(f"{trace.model.name}, {layers} x {experts} experts, {decode} decode steps; last: {shown}")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    every = np.concatenate([np.array(times[what]) for what in times if what != "others"])
    print(f"{'moved':8} {'moves':>6} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8}")
    for what, values in [*times.items(), ("all", every)]:
        row = np.percentile(values, (50, 95, 100))
        print(f"{what:8} {len(values):6} " + " ".join(f"{value:8.1f}" for value in row))
    print(
        f"of the process's CPU time per move: p50 {np.percentile(cpu, 50):.1f} ms, "
        f"p95 {np.percentile(cpu, 95):.1f} ms; on the wire: {np.median(size) / 1e3:.0f} kB"
    )
    first, whole, links = large(count // 3)
    print("the large run, closed forms:")
    for what, values in (("first frame", first), ("everything", whole), ("link, first", links)):
        row = np.percentile(values, (50, 95, 100))
        print(f"{what:12} {len(values):6} " + " ".join(f"{value:8.1f}" for value in row))
    figures = {
        "p95_ms": np.percentile(every, 95),
        "p50_ms": np.percentile(every, 50),
        "others_p95_ms": np.percentile(times["others"], 95),
        "large_p95_ms": np.percentile(first, 95),
        "large_whole_p95_ms": np.percentile(whole, 95),
        "large_link_p95_ms": np.percentile(links, 95),
    }
    rounded = {name: round(float(value), 1) for name, value in figures.items()}
    print(json.dumps(rounded | {"moves": len(every), "large_moves": len(first)}))


if __name__ == "__main__":
    main()
