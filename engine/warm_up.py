"""What the dense part takes of a device's memory: measured on the longest prompt, without experts.

It also warms up what is loaded when it is first used: kernels, libraries' workspaces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.devices.reserve import CALL_BYTES, SPARE_BYTES
from engine.devices.runtime import Runtime
from engine.store import ExpertStore


class _Silent:
    """Stands in for a session: experts answer zero."""

    def layer(self, number: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """``(T, H)``."""
        return torch.zeros_like(hidden)


def measure_inside(
    model: nn.Module,
    store: ExpertStore,
    runtime: Runtime,
    tokens: int,
    sequences: int,
    planned: int,
) -> int:
    """Bytes inside of the allocator that a step takes beyond the ``planned`` ones.

    ``planned``: what a plan counts as KV cache and activations of so many ``tokens`` for each of
    ``sequences``. One prefill and one decode step run, of random tokens; the modules' sessions are
    put back. Raises torch.OutOfMemoryError where they do not fit.
    """
    config: Any = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or tokens
    ids = torch.randint(int(config.vocab_size), (sequences, min(tokens, most) - 1))
    before = [getattr(module, "fiddler_session", None) for module in store.modules]
    runtime.release()
    runtime.reset_peak()
    begin = runtime.memory().reserved
    try:
        for module in store.modules:
            module.fiddler_session = _Silent()
        with torch.no_grad():
            out = model(ids.to(runtime.device), use_cache=True, logits_to_keep=1)
            last = ids[:, -1:].to(runtime.device)
            model(last, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    finally:
        for module, session in zip(store.modules, before, strict=True):
            module.fiddler_session = session
    taken = runtime.memory().peak_reserved - begin
    del out
    runtime.release()
    return max(taken - planned, 0) + CALL_BYTES + SPARE_BYTES
