"""From a moved slider to all views updated, kernel side: what a reader waits for besides the wire.

Opens the bundled run (256 tokens on 32 x 8 experts) in an explorer, moves the memory slider and the
cache slider under every policy, and times each move: from the value arriving as the browser sends
it until the replay is done and every view's messages are written. Messages go through
jupyter_client's own ``Session.serialize`` (JSON, signature, buffers) as in a kernel; only the
socket is missing.

    python benchmarks/replan.py [--moves 240]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from itertools import cycle
from typing import Any

import comm
import numpy as np
from comm.base_comm import BaseComm
from jupyter_client.session import Session

from engine.events import StepKind
from engine.policies import POLICIES
from fiddler_viz import demo
from fiddler_viz.explorer import Explorer

WARM_UP = 20


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


def moves(explorer: Explorer, count: int) -> list[tuple[str, Any, Any]]:
    """``(what, widget, value)``: policies take turns; under each, both sliders move."""
    controls = explorer.screen.controls
    plan = explorer.plan
    low, high = plan.minimum_bytes, plan.full_bytes
    budgets = np.linspace(low + 4 * plan.expert_bytes, high, 23)
    found: list[tuple[str, Any, Any]] = []
    for budget, policy in zip(cycle(budgets.tolist()), cycle(POLICIES), strict=False):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--moves", type=int, default=240)
    count = parser.parse_args().moves
    wire = Wire()
    comm.create_comm = wire.create
    trace = demo.trace()
    explorer = Explorer(trace)
    times: dict[str, list[float]] = {}
    cpu: list[float] = []
    size: list[int] = []
    for number, (what, widget, value) in enumerate(moves(explorer, count + WARM_UP)):
        before = wire.bytes
        began, began_cpu = time.perf_counter(), time.process_time()
        widget.set_state({"index" if what == "policy" else "value": value})
        explorer.flush()
        ended, ended_cpu = time.perf_counter(), time.process_time()
        if number >= WARM_UP:
            times.setdefault(what, []).append((ended - began) * 1e3)
            cpu.append((ended_cpu - began_cpu) * 1e3)
            size.append(wire.bytes - before)
        time.sleep(0.02)
    shown = explorer.screen.status.text
    explorer.close()
    layers, experts = trace.model.grid
    decode = int((trace.steps["kind"] == StepKind.DECODE).sum())
    print(f"{trace.model.name}, {layers} x {experts} experts, {decode} decode steps; last: {shown}")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    every = np.concatenate([np.array(values) for values in times.values()])
    print(f"{'moved':8} {'moves':>6} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8}")
    for what, values in [*times.items(), ("all", every)]:
        row = np.percentile(values, (50, 95, 100))
        print(f"{what:8} {len(values):6} " + " ".join(f"{value:8.1f}" for value in row))
    print(
        f"of the process's CPU time per move: p50 {np.percentile(cpu, 50):.1f} ms, "
        f"p95 {np.percentile(cpu, 95):.1f} ms; on the wire: {np.median(size) / 1e3:.0f} kB"
    )
    p50, p95 = np.percentile(every, (50, 95))
    print(
        json.dumps(
            {"p95_ms": round(float(p95), 1), "p50_ms": round(float(p50), 1), "moves": len(every)}
        )
    )


if __name__ == "__main__":
    main()
