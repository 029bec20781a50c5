"""One expert in torch: what every other way of computing it is compared with."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor, nn

from engine.store import ExpertWeights


def run_expert(module: nn.Module, weights: ExpertWeights, x: Tensor) -> Tensor:
    """One expert's feed-forward network: ``(tokens, H) -> (tokens, H)``.

    Layout flags and the gate are the module's own, as transformers' registry sets them.
    """
    up, down = weights.up, weights.down
    if weights.bits:
        up, down = weights.numbers(x.dtype)
    elif module.is_transposed:
        up, down = up.T, down.T
    h = F.linear(x, up, weights.up_bias)  # (tokens, 2I), or (tokens, I) without a gate
    h = module._apply_gate(h) if module.has_gate else module.act_fn(h)  # (tokens, I)
    y = F.linear(h, down, weights.down_bias)  # (tokens, H)
    return module.post_expert_norm(y) if module.has_post_expert_norm else y
