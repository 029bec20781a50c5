"""How long `import fiddler_viz`, loading a bundled trace and drawing it take, without torch.

Each run is a fresh interpreter with warm file caches; the time starts before the import and ends
when the figure is JSON, as a notebook would send it. Last line of the output: JSON.

    python benchmarks/imports.py [--runs 5] [--trace FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT / "fiddler_viz" / "demo" / "traces"
BELOW = ("torch", "transformers")

CHILD = """
import json, sys, time
start = time.perf_counter()
import fiddler_viz as fv
imported = time.perf_counter()
trace = fv.Trace.load(sys.argv[1])
loaded = time.perf_counter()
size = len(fv.heatmap(trace).to_json())
drawn = time.perf_counter()
print(json.dumps({
    "import_s": imported - start,
    "load_s": loaded - imported,
    "draw_s": drawn - loaded,
    "import_load_draw_s": drawn - start,
    "figure_bytes": size,
    "below_torch_line": sorted(m for m in sys.argv[2:] if m in sys.modules),
}))
"""


def bundled_trace() -> Path | None:
    """The first trace that comes with the package."""
    return next(iter(sorted(TRACES.glob("*.safetensors"))), None)


def measure(trace: Path) -> dict[str, Any]:
    """One run in a fresh interpreter. Raises CalledProcessError with the child's output."""
    command = [sys.executable, "-c", CHILD, str(trace), *BELOW]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="fresh interpreters (default 5)")
    parser.add_argument("--trace", type=Path, default=bundled_trace(), help="a trace's file")
    args = parser.parse_args(argv)
    if args.trace is None:
        parser.error(f"no trace in {TRACES.relative_to(ROOT)}; give one with --trace")
    if args.runs < 1:
        parser.error(f"--runs must be at least 1, not {args.runs}")
    measure(args.trace)  # warms the file caches
    runs = [measure(args.trace) for _ in range(args.runs)]
    for run in runs:
        parts = (f"{part} {run[part + '_s']:.3f} s" for part in ("import", "load", "draw"))
        print(f"{', '.join(parts)}: {run['import_load_draw_s']:.3f} s in all")
    times = [run["import_load_draw_s"] for run in runs]
    result = {
        "benchmark": "imports",
        "import_load_draw_s": round(statistics.median(times), 3),
        "slowest_s": round(max(times), 3),
        "runs": args.runs,
        "below_torch_line": runs[0]["below_torch_line"],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
