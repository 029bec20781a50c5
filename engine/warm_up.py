"""What the dense part takes of a device's memory: measured on the longest prompt, without experts.

It also warms up what is loaded when it is first used: kernels, libraries' workspaces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.decode_graphs import LEAST_NEW, DecodeGraphs
from engine.devices.reserve import CALL_BYTES, SPARE_BYTES
from engine.devices.runtime import Runtime
from engine.recording import Silent, standing_in
from engine.store import ExpertStore


def measure_inside(
    model: nn.Module,
    store: ExpertStore,
    runtime: Runtime,
    tokens: int,
    sequences: int,
    planned: int,
    graphs: DecodeGraphs | None = None,
) -> int:
    """Bytes inside of the allocator that a step takes beyond the ``planned`` ones.

    ``planned``: what a plan counts as KV cache and activations of so many ``tokens`` for each of
    ``sequences``. One prefill and one decode step run, of random tokens, and a few that ``graphs``
    record. The modules' sessions are put back. Raises torch.OutOfMemoryError where they do not fit.
    """
    config: Any = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or tokens
    ids = torch.randint(int(config.vocab_size), (sequences, min(tokens, most) - 1))
    runtime.release()
    runtime.reset_peak()
    begin = runtime.memory().reserved
    with standing_in(store, Silent()), torch.no_grad():
        out = model(ids.to(runtime.device), use_cache=True, logits_to_keep=1)
        last = ids[:, -1:].to(runtime.device)
        model(last, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        del out
        if graphs is not None:
            _recorded(model, graphs, ids[:, :4].to(runtime.device), tokens)
    taken = runtime.memory().peak_reserved - begin
    runtime.release()
    return max(taken - planned, 0) + CALL_BYTES + SPARE_BYTES


def _recorded(model: Any, graphs: DecodeGraphs, ids: Tensor, most: int) -> None:
    """Generate a few tokens after ``ids``, ``(B, T)``, so that their steps are recorded."""
    rows, tokens = ids.shape
    new = min(LEAST_NEW, most - tokens)
    options = graphs.options(rows, tokens, new, most)
    if options:
        fixed = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new}
        model.generate(ids, attention_mask=torch.ones_like(ids), **options, **fixed)
