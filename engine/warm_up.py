"""What a step takes of a device's memory besides experts: measured on the longest prompt.

It also warms up what is loaded when it is first used: kernels, libraries' workspaces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.decode_graphs import LEAST_NEW, DecodeGraphs
from engine.device_rows import DeviceRows, rows_at_once
from engine.devices.cuda import CudaDevice
from engine.devices.reserve import SPARE_BYTES
from engine.expert import run_expert
from engine.recording import Silent, standing_in
from engine.store import ExpertStore
from engine.stream_executor import there


class _OneCall:
    """Experts that take as much memory as a layer's do: one call, of as many rows as one may have.

    Their weights are zero, in a staging buffer.
    """

    def __init__(self, store: ExpertStore, device: CudaDevice) -> None:
        self._device = device
        self._rows = rows_at_once(store)
        self._modules = [there(module, device.runtime.device) for module in store.modules]
        self._weights = device.arena.view(0)
        for part in self._weights.parts:
            part.zero_()

    def layer(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """``(T, H)``."""
        runtime, crossing = self._device.runtime, self._device.crossing
        out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        count = min(index.numel(), self._rows)
        pairs = torch.arange(count, device=hidden.device)
        rows = DeviceRows(hidden, weights.reshape(-1).float(), pairs, index.shape[1], out)
        tokens, x, by = rows.take(0, count)
        rows.add(tokens, run_expert(self._modules[layer], self._weights, x), by)
        back, _, end = crossing.back(torch.zeros(hidden.shape), hidden.dtype)
        runtime.wait(runtime.current(), end)
        return out.add_(back).to(hidden.dtype)


def measure_inside(
    model: nn.Module,
    store: ExpertStore,
    device: CudaDevice,
    tokens: int,
    sequences: int,
    planned: int,
    graphs: DecodeGraphs | None = None,
) -> int:
    """Bytes inside of the allocator that a step takes beyond the ``planned`` ones.

    ``planned``: what a plan counts without experts, for so many ``tokens`` of each of
    ``sequences``; the dense part is on the device already, in blocks that it may not fill. One
    prefill and one decode step run, of random tokens, and a few that ``graphs`` record. The
    modules' sessions are put back. Raises torch.OutOfMemoryError where they do not fit.
    """
    config: Any = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or tokens
    runtime = device.runtime
    ids = torch.randint(int(config.vocab_size), (sequences, min(tokens, most) - 1))
    runtime.release()
    runtime.reset_peak()
    with torch.no_grad(), device.computing():
        with standing_in(store, _OneCall(store, device)):
            out = model(ids.to(runtime.device), use_cache=True, logits_to_keep=1)
            last = ids[:, -1:].to(runtime.device)
            model(last, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
            del out
        if graphs is not None:
            with standing_in(store, Silent()):
                _recorded(model, graphs, ids[:, :4].to(runtime.device), tokens)
    taken = runtime.memory().peak_reserved - device.before_bytes
    runtime.release()
    return max(taken - planned, 0) + SPARE_BYTES


def _recorded(model: Any, graphs: DecodeGraphs, ids: Tensor, most: int) -> None:
    """Generate a few tokens after ``ids``, ``(B, T)``, so that their steps are recorded."""
    rows, tokens = ids.shape
    new = min(LEAST_NEW, most - tokens)
    options = graphs.options(rows, tokens, new, most)
    if options:
        fixed = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new}
        model.generate(ids, attention_mask=torch.ones_like(ids), **options, **fixed)
