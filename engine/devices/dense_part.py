"""The dense part of a model on its way to a device. Experts stay in host memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.store import ExpertStore


def move_dense(model: nn.Module, store: ExpertStore, device: torch.device) -> int:
    """Move every parameter and buffer that is not an expert's; returns the bytes moved.

    They stay the same objects, which routers and hooks already hold. Host memory of each is let go
    as it is moved.
    """
    experts = {id(part) for module in store.modules for part in module.parameters()}
    experts |= {id(part) for module in store.modules for part in module.buffers()}
    moved = 0
    with torch.no_grad():
        for part in _parts(model):
            if id(part) not in experts and part.device != device:
                part.data = part.data.to(device)
                moved += part.nbytes
    return moved


def _parts(model: nn.Module) -> list[Tensor]:
    """Each once, also where several modules share it."""
    return [*model.parameters(), *model.buffers()]
