"""Routers of few tokens on the kernels: one call instead of six of torch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor, nn

from engine.expert_kernel import DTYPES, wants_gradients
from engine.kernels import Pool

FEW_TOKENS = 32
"""With more, torch's threads are the faster way."""

Routed = tuple[Tensor, Tensor, Tensor]
"""Logits ``(T, E)``, weights ``(T, K)`` and experts ``(T, K)``."""


def router_on_kernels(module: nn.Module, pool: Pool) -> bool:
    """Let a kernel route a few tokens; False, and nothing changed, where it is no such router.

    A module's own code says how it routes, so it is asked: it takes the largest of a softmax, and
    may divide them by their sum, if its answers are those.
    """
    found = read_router(module)
    if found is None or "forward" in vars(module):
        return False
    module.forward = _forward(module, pool, *found)  # on this module only, hides its class's
    return True


def read_router(module: nn.Module) -> tuple[int, bool, torch.dtype] | None:
    """Experts of a token, whether their weights are made to add up to 1, and the weights' dtype.

    None where it routes in another way.
    """
    weight, top = getattr(module, "weight", None), getattr(module, "top_k", None)
    if list(dict(module.named_parameters())) != ["weight"] or list(module.buffers()):
        return None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not isinstance(top, int):
        return None
    if weight.dtype not in DTYPES or weight.device.type != "cpu" or weight.stride(1) != 1:
        return None
    x = torch.randn(8, weight.shape[1], generator=torch.Generator().manual_seed(0))
    # Logits so small that no expert takes it all: where one does, the chosen add up to 1 anyway.
    spread = F.linear(x, weight.detach().float()).std().clamp(min=1e-6)
    x = (x * (0.5 / spread)).to(weight.dtype)
    with torch.no_grad():
        try:
            answer = module(x)
        except (RuntimeError, TypeError, ValueError):  # it wants something else
            return None
        if not (
            isinstance(answer, tuple) and len(answer) == 3 and all(map(torch.is_tensor, answer))
        ):
            return None
        logits, weights, chosen = answer
        if weights.shape != chosen.shape or chosen.shape != (8, top) or chosen.dtype != torch.int64:
            return None
        if logits.dtype != weight.dtype or logits.shape != (8, len(weight)):
            return None
        for normalised in (False, True):
            expected = reference(x, weight, top, normalised)
            close = [
                torch.allclose(a.float(), b.float(), rtol=0.02, atol=1e-3)
                for a, b in zip((logits, weights), expected, strict=False)
            ]  # fmt: skip
            same = torch.allclose(
                logits.gather(1, chosen).float(), logits.gather(1, expected[2]).float(), atol=1e-2
            )
            if all(close) and same:
                return top, normalised, weights.dtype
    return None


def reference(x: Tensor, weight: Tensor, top: int, normalised: bool) -> Routed:
    """The same in torch."""
    logits = F.linear(x, weight)  # (T, E)
    weights, chosen = logits.float().softmax(dim=-1).topk(top, dim=-1)  # (T, K), (T, K)
    return logits, weights / weights.sum(-1, keepdim=True) if normalised else weights, chosen


def _forward(
    module: nn.Module, pool: Pool, top: int, normalised: bool, result: torch.dtype
) -> Callable[[Tensor], Routed]:
    usual, weight = module.forward, module.weight
    experts, width = weight.shape
    kind, row = DTYPES[weight.dtype], weight.stride(0)

    def forward(hidden_states: Tensor) -> Routed:
        x = hidden_states.reshape(-1, width)
        tokens = len(x)
        if (
            wants_gradients(x)
            or not 0 < tokens <= FEW_TOKENS
            or x.dtype != weight.dtype
            or x.stride(1) != 1
        ):
            return usual(hidden_states)
        logits = torch.empty(tokens, experts, dtype=x.dtype)
        weights, chosen = torch.empty(tokens, top), torch.empty(tokens, top, dtype=torch.int64)
        pool.route(
            *(kind, x.data_ptr(), x.stride(0), tokens),
            *(weight.data_ptr(), row, experts, width, top, normalised),
            *(logits.data_ptr(), weights.data_ptr(), chosen.data_ptr()),
        )
        return logits, weights if result is torch.float32 else weights.to(result), chosen

    return forward
