"""Dense layers of few tokens on the kernels: in decode they only read weights, as experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.attention_kernel import attention_on_kernels
from engine.expert_kernel import linear, takes_dtype, wants_gradients
from engine.kernels import Pool
from engine.norm_kernel import norm_on_kernels
from engine.rotary import rotary_from_table
from engine.router_kernel import router_on_kernels
from engine.takeover import Found, is_taken, take_over, usual

FEW_TOKENS = 32
"""Up to so many a layer reads weights more than it computes, and the kernels are the faster way."""
LEAST_BYTES = 1 << 20
"""Smaller weights are in a cache, or not worth waking threads for."""


def onto_kernels(model: nn.Module, pool: Pool | None) -> list[nn.Module]:
    """Let the kernels compute a model's dense layers where they are given few tokens.

    That is attention of a decode step, routers, norms, and large linear layers. Those that are not
    plain, or not on the CPU, stay as they are, and so do all without a pool. Returns those that
    changed.
    """
    if pool is None:
        return []
    rotary_from_table(model)
    changed: list[nn.Module] = []
    for module in model.modules():
        if _fits(module):
            take_over(module, _forward(module, pool))
            changed.append(module)
        elif norm_on_kernels(module, pool) or router_on_kernels(module, pool):
            changed.append(module)
    return [*attention_on_kernels(model, pool), *changed]  # which looks at its parts as they are


def _forward(module: nn.Module, pool: Pool) -> Callable[[Tensor], Tensor]:
    weight, bias, found, own = module.weight, module.bias, Found(module), usual(module)

    def forward(x: Tensor) -> Tensor:
        tokens = x.numel() // x.shape[-1] if x.ndim and x.shape[-1] == weight.shape[1] else 0
        if (
            wants_gradients(x)
            or not 0 < tokens <= FEW_TOKENS
            or x.dtype != weight.dtype
            or not x.is_cpu
            or not found.still()
        ):
            return own(x)
        flat = x.reshape(tokens, x.shape[-1])
        flat = flat if flat.stride(1) == 1 else flat.contiguous()
        out = torch.empty(tokens, len(weight), dtype=x.dtype)
        return linear(pool, flat, weight, bias, out).view(*x.shape[:-1], -1)

    return forward


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear
        and not is_taken(module)
        and module.weight.device.type == "cpu"
        and takes_dtype(module.weight.dtype)
        and module.weight.is_contiguous()
        and module.weight.nbytes >= LEAST_BYTES
    )
