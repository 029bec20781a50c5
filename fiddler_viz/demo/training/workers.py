"""The worker processes of a training run, which average their gradients once a step."""

from __future__ import annotations

from multiprocessing.sharedctypes import Synchronized

import torch
from torch import Tensor, distributed, nn

Claims = Synchronized
"""A counter that all workers share: pieces of work taken since the start."""


class Workers:
    """This process among `count`, met through the file `meeting`.

    All methods but `claim` wait for every worker.
    """

    def __init__(self, rank: int, count: int, meeting: str, claimed: Claims) -> None:
        self.rank, self.count = rank, count
        self._claimed = claimed
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )

    def agree(self, value: float) -> float:
        """Worker 0's value, on all."""
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return shared.item()

    def claim(self, limit: int) -> bool:
        """Take one piece of work, if fewer than `limit` have been taken since the start."""
        with self._claimed.get_lock():
            if self._claimed.value >= limit:
                return False
            self._claimed.value += 1
            return True

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its sum over the workers; one without any counts as zero."""
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in model.parameters()]
        flat = torch.cat([g.view(-1) for g in grads])
        distributed.all_reduce(flat)
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
