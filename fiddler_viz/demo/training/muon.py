"""Muon for the hidden matrices: momentum whose every update is made orthogonal.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Experts
are stored fused, (E, 2I, H) and (E, H, I); each expert's gate, up and down is its own matrix here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .workers import Workers

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_CHUNK = 26


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Roughly the nearest orthogonal matrix to each of (N, R, C), R <= C; result in bfloat16.

    Newton-Schulz; singular values end between about 0.7 and 1.2, which is near enough.
    """
    a, b, c = _COEFFICIENTS
    x = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then `orthogonal`; decay as in AdamW. Shares the work among `workers`.

    `matrices` are (R, C) or fused (E, R, C); `pieces` maps a parameter to how many matrices its
    rows hold (2 for gate and up), 1 where it is absent. R <= C for each matrix.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        pieces: dict[nn.Parameter, int],
        workers: Workers | None = None,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(matrices), defaults)
        self._pieces, self._workers = pieces, workers

    def _split(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:
        rows = parameter.shape[-2] // self._pieces.get(parameter, 1)
        return tensor.view(-1, rows, parameter.shape[-1])  # (matrices, R, C)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter in place."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            wanted: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                buffer = self.state[p]["momentum"]
                buffer.lerp_(p.grad, 1 - momentum)
                parts = self._split(torch.lerp(p.grad, buffer, momentum), p)
                wanted.setdefault((parts.shape[1], parts.shape[2]), []).append((p, parts))
            for pairs in wanted.values():
                updates = self._orthogonal(torch.cat([parts for _, parts in pairs]))
                sizes = [len(parts) for _, parts in pairs]
                for (p, _), update in zip(pairs, updates.split(sizes), strict=True):
                    p.mul_(1 - rate * group["weight_decay"])
                    p.add_(update.reshape(p.shape), alpha=-rate)

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        count, rank = (1, 0) if self._workers is None else (self._workers.count, self._workers.rank)
        mine = matrices.tensor_split(count)[rank]
        done = torch.cat([orthogonal(chunk) for chunk in mine.split(_CHUNK)])
        if self._workers is None:
            return done
        return self._workers.gather(done, [len(part) for part in matrices.tensor_split(count)])
