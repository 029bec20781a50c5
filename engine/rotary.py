"""Rotary angles of decode steps, from a table: each is six operations of torch's otherwise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.expert_kernel import wants_gradients
from engine.takeover import Found, is_taken, take_over, usual

BLOCK = 64
"""Positions whose angles are computed together."""
_STEADY = ("default", "linear", "llama3", "yarn")
"""Kinds of which a position's angles never change, however long the text."""

Turn = tuple[Tensor, Tensor]
"""Cosines and sines, ``(1, positions, elements)`` each."""


def rotary_from_table(model: nn.Module) -> bool:
    """Look the angles of single positions up; False, and nothing changed, where they may change."""
    decoder = getattr(model, "get_decoder", lambda: None)()
    module = getattr(decoder, "rotary_emb", None)
    if not isinstance(module, nn.Module) or is_taken(module):
        return False
    if getattr(module, "rope_type", None) not in _STEADY:
        return False
    if any(buffer.device.type != "cpu" for buffer in module.buffers()):
        return False
    take_over(module, _forward(module))
    return True


def _forward(module: nn.Module) -> Callable[..., Turn]:
    found, own = Found(module), usual(module)
    tables: dict[tuple[torch.dtype, int], Turn] = {}

    def forward(x: Tensor, *args: Tensor, **kwargs: Tensor) -> Turn:
        position = kwargs.get("position_ids", args[0] if args else None)
        if position is None or position.shape != (1, 1) or len(args) + len(kwargs) != 1:
            return own(x, *args, **kwargs)
        if position.is_floating_point() or not found.still():
            return own(x, *args, **kwargs)
        if not x.is_cpu or wants_gradients(x):
            return own(x, *args, **kwargs)
        block, at = divmod(int(position), BLOCK)
        table = tables.get((x.dtype, block))
        if table is None:
            positions = torch.arange(block * BLOCK, (block + 1) * BLOCK)[None]  # (1, BLOCK)
            with torch.inference_mode(False):  # whoever comes later may be in another mode
                table = own(x, positions)
            if not _is_turn(table):
                return own(x, *args, **kwargs)
            tables[x.dtype, block] = table
        cos, sin = table
        return cos.narrow(1, at, 1), sin.narrow(1, at, 1)

    return forward


def _is_turn(found: object) -> bool:
    """Whether angles are cosines and sines: some models turn by complex numbers."""
    return (
        isinstance(found, tuple)
        and len(found) == 2
        and all(isinstance(part, Tensor) and part.ndim == 3 for part in found)
    )
