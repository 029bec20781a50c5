"""How long a what-if takes on a long run of a large model, policy by policy.

Made-up routing of 2,000 decoded tokens on 48 layers x 128 experts, top-8 (Qwen3-30B-A3B's grid),
with predicted experts. A replay decides and times everything and adds up the summary; its rows of
work and moves are made when somebody asks for them, which is timed apart. What does not change
between replays of a trace (its batch of active experts) is worked out once, before.

    python benchmarks/replay.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

from engine.native import library
from engine.policies import POLICIES
from engine.replay import Replay, replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace

TOKENS = 2000
CLOSED_FORMS = (
    "fiddler", "stream", "lru", "cpu", "layers", "stream_all", "fiddler_released",
)  # fmt: skip
"""Policies whose choice depends on nothing but the plan and token counts, and LRU."""


def large_trace() -> Trace:
    """The run that is replayed; the same every time."""
    return synthetic_trace(
        "qwen3-30b-a3b", prompt_tokens=0, decode_tokens=TOKENS, accuracy=0.8, gpu_memory="40%"
    )


def timed(trace: Trace, policy: str) -> tuple[float, Replay]:
    """Milliseconds for the replay and its summary."""
    began = time.perf_counter()
    made = replay(trace, policy=policy)
    assert made.summary.tokens_per_s > 0
    return (time.perf_counter() - began) * 1e3, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    trace = large_trace()
    began = time.perf_counter()
    assert len(trace.batch.flat) and len(trace.outline.batch.first)
    once = (time.perf_counter() - began) * 1e3
    print(trace)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"helper library {'present' if library() else 'absent'}"
    )
    print(f"once per trace: {once:.0f} ms")
    print(f"{'policy':18} {'bar ms':>7} {'median ms':>10} {'worst ms':>9} {'all rows ms':>12}")
    found: dict[str, float] = {}
    for policy in POLICIES:
        closed = policy in CLOSED_FORMS
        runs = [timed(trace, policy) for _ in range(rounds if closed else 2)]
        times = sorted(ms for ms, _ in runs)
        began = time.perf_counter()
        rows = "too many" if policy == "stream_all" else str(len(runs[0][1].trace.work_rows))
        rows_ms = (time.perf_counter() - began) * 1e3
        found[policy] = round(times[len(times) // 2], 1)
        print(
            f"{policy:18} {300 if closed else 3000:7} {found[policy]:10.1f} {times[-1]:9.1f} "
            f"{rows_ms:12.0f}  {rows} rows"
        )
    worst = max(found[policy] for policy in found if policy in CLOSED_FORMS)
    others = max(found[policy] for policy in found if policy not in CLOSED_FORMS)
    print(
        json.dumps(
            {
                "ms_per_policy": found,
                "closed_forms_worst_ms": worst,
                "others_worst_ms": others,
                "once_ms": round(once, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
