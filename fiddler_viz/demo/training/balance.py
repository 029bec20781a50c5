"""The load-balance loss, for one layer at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def load_balance(router_logits: Tensor, top_k_index: Tensor) -> Tensor:
    """Switch Transformer's auxiliary loss (equations 4-6) for one layer; a scalar.

    ``router_logits`` is (T, E), ``top_k_index`` (T, K). The value is ``E * sum_e P_e N_e`` with
    ``P_e`` the mean router probability and ``N_e`` the choices per token of expert e: K when the
    load is even. Average it over layers: pooling the layers first, as transformers does, is
    content with layers whose imbalances cancel out.
    """
    experts = router_logits.shape[-1]
    share = torch.softmax(router_logits, dim=-1).mean(0)  # (E,)
    chosen = functional.one_hot(top_k_index, experts).sum(1).to(share.dtype)  # (T, E)
    return experts * (share * chosen.mean(0)).sum()
