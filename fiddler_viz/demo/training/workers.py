"""The worker processes of a training run, which average their gradients once a step."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class Workers:
    """This process among `count`, met through the file `meeting`; every method waits for all."""

    def __init__(self, rank: int, count: int, meeting: str) -> None:
        self.rank, self.count = rank, count
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )

    def agree(self, value: float) -> float:
        """Worker 0's value, on all."""
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return shared.item()

    def average_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its mean over the workers."""
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.view(-1) for g in grads])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = flat.split([g.numel() for g in grads])
        torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])

    def gather(self, mine: Tensor, lengths: list[int]) -> Tensor:
        """Every worker's rows, in order of rank; worker i brings `lengths[i]` of them."""
        all_rows = mine.new_zeros(sum(lengths), *mine.shape[1:])
        all_rows.split(lengths)[self.rank].copy_(mine)
        distributed.all_reduce(all_rows)
        return all_rows

    def leave(self) -> None:
        """Part from the others."""
        distributed.destroy_process_group()
