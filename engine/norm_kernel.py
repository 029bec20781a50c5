"""Root mean square norms of few tokens on the kernels: one call instead of seven of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.expert_kernel import DTYPES, wants_gradients
from engine.kernels import Pool
from engine.takeover import Found, is_taken, take_over, usual

FEW_ROWS = 64
"""With more, torch's threads are the faster way."""


def norm_on_kernels(module: nn.Module, pool: Pool) -> bool:
    """Let a kernel compute the norm of a few rows; False, and nothing changed, where it is none.

    A module's own code says what it computes, so it is asked: it is such a norm if its answers
    are.
    """
    found = read_norm(module)
    if found is None or is_taken(module):
        return False
    take_over(module, _forward(module, pool, *found))
    return True


def read_norm(module: nn.Module) -> tuple[float, float] | None:
    """What a root mean square norm adds to its weight, and its epsilon; None where it is none."""
    weight = getattr(module, "weight", None)
    if list(dict(module.named_parameters())) != ["weight"] or list(module.buffers()):
        return None
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.dtype not in DTYPES:
        return None
    if "RMSNorm" not in type(module).__name__ or weight.device.type != "cpu":
        return None
    takes = inspect.signature(type(module).forward).parameters
    if len(takes) != 2:  # gated ones take a second input
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(eps, float):
        return None
    # Numbers as usual; so small that epsilon counts; large; with a mean, which others subtract.
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([2, eps**0.5, 100, 1])[:, None] + torch.tensor([0, 0, 0, 3])[:, None]
    x = x.to(weight.dtype)
    with torch.no_grad():
        answer = module(x)
        if not isinstance(answer, Tensor) or answer.dtype != x.dtype or answer.shape != x.shape:
            return None
        off = {
            offset: _furthest(answer, reference(x.double(), weight.double(), offset, eps))
            for offset in (0.0, 1.0)
        }
    offset = min(off, key=off.__getitem__)
    return (offset, eps) if off[offset] <= torch.finfo(x.dtype).eps * 8 else None


def _furthest(answer: Tensor, wanted: Tensor) -> float:
    """The largest difference of an element, relative to it or to what is usual of its column.

    Columns of large weights must not hide those of small ones.
    """
    usual = wanted.square().mean(0).sqrt()
    return float(((answer - wanted).abs() / torch.maximum(wanted.abs(), usual).clamp(1e-30)).max())


def reference(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """The same in torch, ``(T, H) -> (T, H)``."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (weight + offset)


def _forward(
    module: nn.Module, pool: Pool, offset: float, eps: float
) -> Callable[[Tensor], Tensor]:
    weight, found, own = module.weight, Found(module), usual(module)
    width, dtype, kind = len(weight), weight.dtype, DTYPES[weight.dtype]

    def forward(x: Tensor) -> Tensor:
        rows = x.numel() // width
        if (
            wants_gradients(x)
            or not 0 < rows <= FEW_ROWS
            or x.dtype != dtype
            or x.shape[-1] != width
            or not x.is_cpu
            or not found.still()
        ):
            return own(x)
        x = x.contiguous()
        out = torch.empty_like(x)
        pool.norm(kind, x.data_ptr(), rows, width, weight.data_ptr(), offset, eps, out.data_ptr())
        return out

    return forward
