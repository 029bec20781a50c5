"""Weights on large pages, of 2 MB instead of 4 kB: the CPU looks up fewer addresses.

Linux gives them to who asks (``madvise``), on most machines. Elsewhere everything stays as it is.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

PAGE = 2 << 20
LEAST_BYTES = 4 * PAGE
"""Smaller tensors stay where they are."""
ALONE_BYTES = 32 << 20
"""Tensors of so much begin pages that nobody shares: glibc's DEFAULT_MMAP_THRESHOLD_MAX."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@cache
def may_ask() -> bool:
    """Whether asking changes something: large pages are neither off nor everywhere already."""
    try:
        return "[madvise]" in _SETTING.read_text(encoding="ascii")
    except OSError:
        return False


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty`` on the CPU, on large pages where there are some to be had."""
    count = math.prod(shape)
    n_bytes = count * dtype.itemsize
    if n_bytes < LEAST_BYTES or not may_ask():
        return torch.empty(shape, dtype=dtype)
    return _mapped(shape, dtype, PAGE, huge=True)


def own(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of the system's own pages, shared with nothing else: it can be pinned by itself.

    On large pages where there are some to be had.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    huge = n_bytes >= LEAST_BYTES and may_ask()
    return _mapped(shape, dtype, PAGE if huge else mmap.PAGESIZE, huge=huge)


def _mapped(shape: tuple[int, ...], dtype: torch.dtype, align: int, *, huge: bool) -> Tensor:
    """Anonymous memory; an ordinary tensor where that is refused."""
    count = math.prod(shape)
    n_bytes = count * dtype.itemsize
    if not n_bytes:
        return torch.empty(shape, dtype=dtype)
    try:
        # private: shared memory, the default, has another setting
        memory = mmap.mmap(-1, n_bytes + align, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge:
            memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, ValueError):  # refused: address space is limited, or no such advice
        return torch.empty(shape, dtype=dtype)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % align
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(shape)


def onto_own_pages(parameters: Iterable[Tensor]) -> int:
    """Move what could not be pinned by itself: mapped files, and small tensors that share pages.

    Each is for a moment there twice; they stay the same objects. Returns the bytes moved.
    """
    files, moved = _mapped_files(), 0
    for parameter in parameters:
        begin, end = parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes
        shares = bool(begin % mmap.PAGESIZE) and parameter.nbytes <= ALONE_BYTES
        if shares or any(first < end and begin < last for first, last in files):
            made = own(tuple(parameter.shape), parameter.dtype)
            made.copy_(parameter.detach())
            parameter.data = made
            moved += made.nbytes
    return moved


def _mapped_files() -> list[tuple[int, int]]:
    """Addresses at which files of data are mapped into this process; none where nobody says."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fields = (line.split(maxsplit=5) for line in lines)
    ranges = (field[0].split("-") for field in fields if len(field) == 6 and field[5][0] == "/")
    return [(int(first, 16), int(last, 16)) for first, last in ranges]


def onto_large_pages(model: nn.Module) -> int:
    """Move a model's large parameters, one after the other; returns the bytes moved.

    Each is for a moment there twice. Parameters stay the same objects.
    """
    moved = 0
    for parameter in model.parameters():
        small = parameter.nbytes < LEAST_BYTES or not may_ask()
        if small or parameter.device.type != "cpu" or not parameter.is_contiguous():
            continue
        made = empty(tuple(parameter.shape), parameter.dtype)
        made.copy_(parameter.detach())
        parameter.data = made
        moved += made.nbytes
    return moved
