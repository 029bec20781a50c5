"""Weights on large pages, of 2 MB instead of 4 kB: the CPU looks up fewer addresses.

Linux gives them to who asks (``madvise``), on most machines. Elsewhere everything stays as it is.
"""

from __future__ import annotations

import math
import mmap
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

PAGE = 2 << 20
LEAST_BYTES = 4 * PAGE
"""Smaller tensors stay where they are."""
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
    try:
        # private: shared memory, the default, has another setting
        memory = mmap.mmap(-1, n_bytes + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, ValueError):  # refused: address space is limited, or no such advice
        return torch.empty(shape, dtype=dtype)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % PAGE
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(shape)


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
