"""Routers of few tokens on the kernels: one call instead of six of torch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor, nn

from engine.expert_kernel import DTYPES, wants_gradients
from engine.kernels import Pool
from engine.takeover import Found, is_taken, take_over, usual

FEW_TOKENS = 32
"""With more, torch's threads are the faster way."""

_ASKED = 64
"""Tokens of the question put to a router: among few, what seldom matters would not show."""

Routed = tuple[Tensor, Tensor, Tensor]
"""Logits ``(T, E)``, weights ``(T, K)`` and experts ``(T, K)``."""


def router_on_kernels(module: nn.Module, pool: Pool) -> bool:
    """Let a kernel route a few tokens; False, and nothing changed, where it is no such router.

    A module's own code says how it routes, so it is asked: it takes the largest of a softmax, and
    may divide them by their sum, if its answers are those.
    """
    found = read_router(module)
    if found is None or is_taken(module):
        return False
    take_over(module, _forward(module, pool, *found))
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
    x = torch.randn(_ASKED, weight.shape[1], generator=torch.Generator().manual_seed(0))
    # Logits so small that no expert takes it all: where one does, the chosen add up to 1 anyway.
    spread = F.linear(x, weight.detach().float()).std().clamp(min=1e-6)
    x = (x * (0.5 / spread)).to(weight.dtype)
    with torch.no_grad():
        try:
            answer = module(x.unflatten(0, (2, -1)))  # (2, T / 2, H), as from two sequences
        except (RuntimeError, TypeError, ValueError):  # it wants something else
            return None
        if not (
            isinstance(answer, tuple) and len(answer) == 3 and all(map(torch.is_tensor, answer))
        ):
            return None
        logits, weights, chosen = answer
        if weights.shape != chosen.shape or chosen.shape != (_ASKED, top):
            return None
        if logits.dtype != weight.dtype or logits.shape != (_ASKED, len(weight)):
            return None
        if chosen.dtype != torch.int64:
            return None
        exact = weight.dtype == torch.float32
        near = 1e-4 if exact else 4 * torch.finfo(weight.dtype).eps
        for normalised in (False, True):
            expected = reference(x, weight, top, normalised)
            # Weights are few hundredths where experts are many: only relative differences count.
            alike = (
                torch.allclose(logits.float(), expected[0].float(), rtol=near, atol=1e-3),
                torch.allclose(weights.float(), expected[1].float(), rtol=near, atol=1e-7),
                torch.allclose(
                    logits.gather(1, chosen).float(),
                    logits.gather(1, expected[2]).float(),
                    atol=1e-4 if exact else 1e-2,  # of two that are as likely, either
                ),
            )
            if all(alike):
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
    weight, found, own = module.weight, Found(module), usual(module)
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
            or not x.is_cpu
            or not found.still()
        ):
            return own(hidden_states)
        logits = torch.empty(tokens, experts, dtype=x.dtype)
        weights, chosen = torch.empty(tokens, top), torch.empty(tokens, top, dtype=torch.int64)
        pool.route(
            *(kind, x.data_ptr(), x.stride(0), tokens),
            *(weight.data_ptr(), row, experts, width, top, normalised),
            *(logits.data_ptr(), weights.data_ptr(), chosen.data_ptr()),
        )
        return logits, weights if result is torch.float32 else weights.to(result), chosen

    return forward
