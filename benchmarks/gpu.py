"""Mixtral-8x7B's shape on a real GPU under 24 GB: speeds by policy, against Accelerate's
offloading and the bound, predictions against measurements.

    python benchmarks/gpu.py                 # all parts that are not measured yet, one by one
    python benchmarks/gpu.py --next          # the next of them; --part NAME: this one; --list
    python benchmarks/gpu.py --minutes 9     # as many of them as fit, with one set-up
    python benchmarks/gpu.py --dry-run       # a tiny model without a GPU: measures nothing

Needs torch with CUDA, transformers, numpy, safetensors and pandas, a C compiler for the CPU's
kernels, and no network. Weights are random, in host memory, and never on a disk. Each part ends
within 8 minutes, set-up included, and goes on from the results file
`benchmarks/results/<gpu>-<date>.json`. `--write PAGE` puts the tables of all results into a page.

Prints a table and, last line, JSON with ``tokens_per_s`` (decode, by policy), ``vs_accelerate``,
``vs_released``, ``fraction_of_bound`` and ``fidelity_mape_percent``; null is what is not measured.
Exits with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

BEGAN = time.perf_counter()
"""Before torch is imported, which takes its time on a bare machine."""
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # nothing is installed on a bare machine

from benchmarks.on_gpu.bench import Bench, missing  # noqa: E402
from benchmarks.on_gpu.parts import ALONE, PARTS  # noqa: E402
from benchmarks.on_gpu.table import table, write  # noqa: E402
from engine.native.build import LIBRARIES, BuildError, build, fingerprint  # noqa: E402

LEAST_SECONDS = 60
"""With less time left no other part is begun."""
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None, began: float | None = None) -> int:
    began = time.perf_counter() if began is None else began
    chosen = _options().parse_args(arguments)
    if chosen.write is not None:
        write(chosen.write, chosen.results or RESULTS)
        return 0
    why = missing(chosen.device, dry=chosen.dry_run)
    if why is not None and not chosen.list:
        print(why)
        return 2
    if chosen.list and why is not None:
        print("\n".join(f"{name}: {_summary(name)}" for name in PARTS))
        return 0
    folder = chosen.results or RESULTS
    if chosen.dry_run and chosen.results is None:
        folder = Path(tempfile.gettempdir()) / "fiddler-viz-dry-run"
    memory = None if chosen.host_memory_gb is None else round(chosen.host_memory_gb * 1e9)
    try:
        bench = Bench.opened(
            folder, dry=chosen.dry_run, fresh=chosen.new, device=chosen.device, memory_bytes=memory
        )
    except ValueError as error:
        print(error)
        return 2
    left = [name for name in PARTS if name not in bench.results.parts]
    if chosen.list:
        for name in PARTS:
            print(f"{name}: {_summary(name)} [{'left' if name in left else 'done'}]")
        return 0
    complete = True
    if chosen.minutes is not None:
        alike = [name for name in left if name not in ALONE]
        complete = _several(bench, alike, began + chosen.minutes * 60)
    elif chosen.part is not None or chosen.next:
        name = chosen.part or (left[0] if left else None)
        if name is not None:
            _run(bench, name)
    else:
        complete = _all(bench, left, folder, memory)
    bench = Bench.opened(
        folder, dry=chosen.dry_run, fresh=False, device=chosen.device, memory_bytes=memory
    )
    if chosen.dry_run:
        print("\nDRY RUN: a tiny model without a GPU. Nothing here is a measurement.")
    print("\n" + "\n".join(table(bench.results)))
    if bench.results.path.exists():
        print(f"\nin {bench.results.path}; left: {_left(bench)}")
    print(bench.results.headline.to_json(bench.results))
    return 0 if complete else 1


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    which = options.add_mutually_exclusive_group()
    which.add_argument("--part", choices=PARTS, help="run this part, whether it is done or not")
    which.add_argument("--next", action="store_true", help="run the first part that is left")
    which.add_argument(
        "--minutes", type=float, help="run what is left, one set-up for all, about so long"
    )
    which.add_argument("--list", action="store_true", help="name the parts")
    which.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    options.add_argument("--device", default="cuda", help="cuda:1 is the second GPU")
    options.add_argument("--new", action="store_true", help="begin another results file")
    options.add_argument("--results", type=Path, help="folder of the results files")
    options.add_argument(
        "--host-memory-gb",
        type=float,
        help="host memory to fill at most; the default is what the system calls available, which "
        "on some virtual machines is less than they can grow to",
    )
    options.add_argument("--dry-run", action="store_true", help="a tiny model, without a GPU")
    return options


def _run(bench: Bench, name: str) -> None:
    _compile()
    print(f"{name}: {_summary(name)}", flush=True)
    figures = PARTS[name](bench)
    bench.results.keep(name, figures, time.perf_counter() - bench.began)


def _several(bench: Bench, names: list[str], until: float) -> bool:
    """Parts in this process, with one model, as long as there is time for another.

    One that fails does not take the others with it; whether none did.
    """
    complete = True
    for name in names:
        left = until - time.perf_counter()
        if left < LEAST_SECONDS:
            print(f"{left:.0f} s are left: {name} is for another time")
            break
        bench.begin(left - LEAST_SECONDS / 2)
        try:
            _run(bench, name)
        except Exception:  # noqa: BLE001 (a visit to a GPU is short: what else can be measured, is)
            traceback.print_exc()
            print(f"{name} failed; the parts before it are in {bench.results.path}", flush=True)
            complete = False
    return complete


def _all(bench: Bench, left: list[str], folder: Path, memory: int | None) -> bool:
    """Every part that is left in a process of its own, so that each begins with all memory.

    One that fails does not take the others with it; whether none did.
    """
    bench.results.keep_about()
    complete = True
    for name in left:
        command = [sys.executable, __file__, "--part", name, "--results", str(folder)]
        command += ["--device", bench.device, *(["--dry-run"] if bench.dry else [])]
        command += [] if memory is None else ["--host-memory-gb", str(memory / 1e9)]
        if subprocess.run(command, check=False).returncode:
            print(f"{name} failed; the parts before it are in {bench.results.path}", flush=True)
            complete = False
    return complete


def _left(bench: Bench) -> str:
    return ", ".join(name for name in PARTS if name not in bench.results.parts) or "nothing"


def _summary(name: str) -> str:
    return (PARTS[name].__doc__ or "").split("\n\n")[0].replace("\n    ", " ")


def _compile() -> None:
    """The CPU's kernels and the helper, where they are not compiled yet."""
    for target, sources in LIBRARIES:
        if not target.exists() and fingerprint(sources):
            try:
                build(target, sources)
            except BuildError as error:
                print(f"  without compiled kernels torch runs the CPU's experts: {error}")


if __name__ == "__main__":
    sys.exit(main(began=BEGAN))
