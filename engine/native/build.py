"""Compiles ``src/*.c`` into a shared library. Standard library only: ``setup.py`` runs it too.

There are two: the helper of this package, and the kernels of ``engine.kernels``. A library carries
a number made of its sources, so that a library of other sources is noticed
(:func:`engine.native.library`) and nobody keeps a version by hand.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARY = Path(__file__).parent / "libfiddler.so"
"""``.so`` on macOS too: loaded by its path, so the name is ours to choose."""

KERNEL_SOURCES = Path(__file__).parent.parent / "kernels" / "src"
KERNEL_LIBRARY = Path(__file__).parent.parent / "kernels" / "libkernels.so"
LIBRARIES = ((LIBRARY, SOURCES), (KERNEL_LIBRARY, KERNEL_SOURCES))

FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
EXACT = ("-ffp-contract=off", "-pthread")
"""No fused multiply-add: floating point gives what numpy gives. Nor any -march: it may travel. What
needs a newer CPU says so in its source, and is only called where there is one."""


class BuildError(Exception):
    """There is no C compiler, or it failed; the message holds what it printed."""


def fingerprint(sources: Path = SOURCES) -> int:
    """A number of 63 bits made of the names and contents of all sources; 0 without sources."""
    digest = hashlib.sha256()
    found = sorted(sources.glob("*.[ch]"))
    for path in found:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return int.from_bytes(digest.digest()[:8]) >> 1 if found else 0


def compiler() -> list[str] | None:
    """The C compiler as words of a command: ``$CC``, or the first of cc, gcc and clang."""
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build(target: Path = LIBRARY, sources: Path = SOURCES, options: tuple[str, ...] = ()) -> Path:
    """Compile all sources into ``target`` and return it; raises BuildError.

    ``options`` of the compiler come after our own. The file is put in place at once, so that who
    has the old one open keeps it whole.
    """
    files = sorted(str(path) for path in sources.glob("*.c"))
    if not files:
        raise BuildError(f"no C sources in {sources}")
    cc = compiler()
    if cc is None:
        named = os.environ.get("CC")
        raise BuildError(f"no C compiler found ({f'CC={named}' if named else 'cc, gcc or clang'})")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        number = f"-DFIDDLER_FINGERPRINT={fingerprint(sources)}LL"
        command = [*cc, *FLAGS, *EXACT, *options, number, "-o", str(made), *files, "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{cc[0]} did not run: {error}") from error
        if done.returncode:
            raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr}")
        os.replace(made, target)
    return target
