"""Mixtral-8x7B's shape with random weights: made on the meta device, filled in host memory.

Nothing is read from or written to a disk. Random numbers are drawn once, a tile of 8 MB, and laid
at changing places: drawing ninety gigabytes would take minutes.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MixtralConfig

from engine.hook import IMPLEMENTATION, register
from engine.pages import own

TILE = 1 << 22
SPARE_BYTES = 14 * 10**9
"""Host memory left for the rest: libraries, pinned buffers, the system."""

LEAST_FREE_BYTES = 3 * 10**9
WAIT_SECONDS, MOST_WAITS = 0.05, 20
"""How long a thread waits at most, now and then, for a virtual machine's memory to grow."""


@dataclass(frozen=True)
class Shape:
    """A Mixtral."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    experts: int = 8
    top_k: int = 2
    dtype: torch.dtype = torch.bfloat16

    @property
    def layer_bytes(self) -> int:
        """One layer in host memory."""
        size = self.hidden // self.heads
        attention = 2 * self.hidden * (self.hidden + size * self.kv_heads)
        experts = self.experts * 3 * self.hidden * self.inner
        return (attention + experts) * self.dtype.itemsize

    @property
    def other_bytes(self) -> int:
        """Embedding and head."""
        return 2 * self.vocabulary * self.hidden * self.dtype.itemsize

    def fitting(self, host_bytes: int) -> int:
        """Layers that fit in so much host memory, at most all."""
        room = host_bytes - SPARE_BYTES - self.other_bytes
        return max(min(room // self.layer_bytes, self.layers), 0)


MIXTRAL = Shape("mixtral-8x7b", 32, 4096, 14336, 32, 8, 32000)
TINY = Shape("tiny", 3, 64, 96, 4, 2, 128)
"""For a dry run."""


def host_bytes() -> int:
    """Host memory that may be used: what the system calls available, or the container's limit."""
    known = []
    for line in _meminfo():
        if line.startswith("MemAvailable:"):
            known.append(int(line.split()[1]) * 1024)
    for line in _lines(Path("/sys/fs/cgroup/memory.max")):
        if line.strip().isdecimal():
            known.append(int(line))
    return min(known) if known else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def build(shape: Shape, layers: int, experts: str | None = IMPLEMENTATION) -> Any:
    """A model of ``layers`` layers, in evaluation, without gradients.

    ``experts``: the name of the experts function that it calls; None: transformers' own choice.
    """
    register()
    config = MixtralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        named = {} if experts is None else {"experts_implementation": experts}
        model: Any = AutoModelForCausalLM.from_config(config, dtype=shape.dtype, **named)
    tile = (torch.randn(TILE, generator=torch.Generator().manual_seed(0)) * 0.02).to(shape.dtype)
    names = [name for name, _ in model.named_parameters()]
    usual = torch.get_num_threads()
    with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1), initializer=_alone) as pool:
        made = dict(pool.map(lambda item: _filled(model, tile, *item), enumerate(names)))
    torch.set_num_threads(usual)
    for name, part in made.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, nn.Parameter(part, requires_grad=False))
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):  # angles: no weights
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, type(module)(config=config))
    assert not any(part.is_meta for part in (*model.parameters(), *model.buffers()))
    return model.eval().requires_grad_(False)


def _wait_for_room() -> None:
    """A virtual machine's memory may grow while it is used, slower than threads can fill it."""
    for _ in range(MOST_WAITS):
        known = [line.split()[1] for line in _meminfo() if line.startswith("MemAvailable:")]
        if not known or int(known[0]) * 1024 >= LEAST_FREE_BYTES:
            return
        time.sleep(WAIT_SECONDS)


def _meminfo() -> list[str]:
    return _lines(Path("/proc/meminfo"))


def _alone() -> None:
    """Threads fill a parameter each; torch's own would only stand in their way."""
    torch.set_num_threads(1)


def _filled(model: nn.Module, tile: Tensor, number: int, name: str) -> tuple[str, Tensor]:
    """A parameter of the shape that it has on the meta device."""
    like = model.get_parameter(name)
    part = own(tuple(like.shape), like.dtype)
    if "norm" in name:
        part.fill_(1.0)
        return name, part
    flat, half = part.view(-1), len(tile) // 2
    for turn, start in enumerate(range(0, flat.numel(), half)):
        if turn % 64 == 0:
            _wait_for_room()
        piece = flat[start : start + half]
        shift = (977 * number + 131 * turn) % half  # no two pieces alike
        piece.copy_(tile[shift : shift + piece.numel()])
    return name, part
