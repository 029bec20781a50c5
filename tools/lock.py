"""Write requirements.lock: every package that this project needs, at the version installed here.

The versions come from the running environment: install the wanted set, run the tests, then
`make lock`. Walked are pyproject.toml's dependencies, extras and build requirements, and what
those need in turn. A local version (`2.13.0+cpu`) is written without its tag, so that the lock
fits every build of it. CUDA packages are never written: a GPU machine's torch brings its own.

    python tools/lock.py             # writes requirements.lock
    python tools/lock.py --check     # exit code 1 if the file differs from this environment
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
CUDA = re.compile(r"^(nvidia|cuda|triton|pytorch-triton)(-|$)")
OTHER_PLATFORMS = ("appnope==0.1.4 ; sys_platform == 'darwin'",)
"""Needed elsewhere only, so not installed where the lock is written."""
PEERS = ("diskcache==5.6.3", "gguf==0.19.0", "llama-cpp-python==0.3.36")
"""Of the extra `peers`, for one benchmark: compiled for minutes, so not installed there either."""

HEADER = """\
# Every version that `make demo`, `make test` and `make lint` install, as pip constraints.
# Written by tools/lock.py from an environment that passed the tests; do not edit.
# No CUDA package: where there is a GPU, torch brings its own.
"""


def roots() -> list[Requirement]:
    """What pyproject.toml asks for: to build, to run, and all extras but `peers`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked: list[str] = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for name, extra in project["project"]["optional-dependencies"].items():
        asked += [] if name == "peers" else extra
    return [Requirement(text) for text in asked]


def closure(asked: Iterable[Requirement]) -> dict[str, str]:
    """Name -> version of all that is needed here. Raises PackageNotFoundError if one is missing."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = list(asked)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if CUDA.match(name):
            continue
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            found[name] = distribution.version.split("+")[0]
            needs = (Requirement(text) for text in distribution.requires or ())
            queue += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    return found


def lock_text() -> str:
    """The whole file as it should be."""
    lines = [f"{name}=={version}" for name, version in closure(roots()).items()]
    return HEADER + "\n".join(sorted([*lines, *OTHER_PLATFORMS, *PEERS])) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args(argv)
    wanted = lock_text()
    current = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    if not args.check:
        LOCK.write_text(wanted, encoding="utf-8")
        print(f"{LOCK.name}: {wanted.count('==')} packages")
        return 0
    if wanted == current:
        return 0
    for line in sorted(set(wanted.splitlines()) ^ set(current.splitlines())):
        print(f"{'environment' if line in wanted else 'lock'}: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
