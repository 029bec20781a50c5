"""Runs the kernels' tests with address and undefined-behaviour checks: python -m tools.sanitize

The kernels are compiled with both, and with AMX's tiles emulated so that their code is checked on
any machine. Needs gcc or clang with its sanitizers; without, it says so and succeeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.native.build import KERNEL_SOURCES, BuildError, build, compiler

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-DFIDDLER_EMULATE_AMX",
)
LIMIT_S = 900


def runtime(cc: list[str]) -> Path | None:
    """The compiler's address sanitizer, to be loaded before Python; None where it has none."""
    for name in ("libasan.so", "libclang_rt.asan-x86_64.so"):
        command = [*cc, f"-print-file-name={name}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if Path(found).is_absolute() and Path(found).exists():
            return Path(found).resolve()
    return None


def main() -> int:
    """Build, test; 1 where either failed."""
    cc = compiler()
    if cc is None or (asan := runtime(cc)) is None:
        print("sanitize: no compiler with an address sanitizer here, nothing was checked")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = build(Path(folder) / "kernels.so", KERNEL_SOURCES, OPTIONS)
        except BuildError as error:
            print(f"sanitize: {error}", file=sys.stderr)
            return 1
        environment = {
            **os.environ,
            "FIDDLER_TEST_KERNELS": str(library),
            "LD_PRELOAD": str(asan),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "1",
        }
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
        command = [*tests, "tests/engine/test_kernels.py", *sys.argv[1:]]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            print(f"sanitize: not through after {LIMIT_S} s", file=sys.stderr)
            return 1
    print("sanitize: passed" if done.returncode == 0 else "sanitize: FAILED")
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
