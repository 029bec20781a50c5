"""How many CPU threads torch uses while an engine generates."""

from __future__ import annotations

import ctypes
import os
import reprlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from engine.errors import InputError
from engine.strict import plain

SMALL_EXPERT_BYTES = 1_000_000
"""Below this an expert fits in one core's cache: threads would wait for each other, not work.

Measured on two cores with the demo (0.1 MB an expert): one thread decodes as fast as two on an
idle machine, and twenty times as fast as two on a busy one, where each of a token's hundreds of
parallel regions waits for a thread that does not run.
"""

MOST_THREADS_PER_CORE = 16
"""More than this never helps, and far more end the process: a thread is memory of the system's."""


def check_threads(wanted: object) -> int | None:
    """``wanted``, None or a number of threads this machine can carry; InputError for others."""
    wanted = plain(wanted)
    cores = os.cpu_count() or 1
    most = MOST_THREADS_PER_CORE * cores
    if wanted is not None and (type(wanted) is not int or not 1 <= wanted <= most):
        raise InputError(
            f"threads: expected a whole number from 1 to {most} ({MOST_THREADS_PER_CORE} for each "
            f"of this machine's {cores} cores), got {reprlib.repr(wanted)}; leave it out for what "
            "suits the model"
        )
    return wanted


def choose_threads(wanted: int | None, expert_bytes: int) -> int:
    """The number asked for, or one for small experts, or torch's own."""
    if wanted is not None:
        return wanted
    return 1 if expert_bytes < SMALL_EXPERT_BYTES else torch.get_num_threads()


@contextmanager
def torch_threads(count: int, usual: int) -> Iterator[None]:
    """Use ``count`` threads in this block, ``usual`` after it.

    The number belongs to the calling thread (and to threads that torch sees first later), so
    engines that generate in different threads do not disturb each other.
    """
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@cache
def torch_team() -> int:
    """The address of ``GOMP_parallel`` in the OpenMP runtime that torch uses; 0 where it has none.

    Work that is given to it runs on torch's own threads, of the calling thread's team.
    """
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    try:  # symbols are looked up in what the library was linked with, too
        found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name)).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(found, ctypes.c_void_p).value or 0
