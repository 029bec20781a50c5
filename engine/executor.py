"""The execution pipeline: computes one layer's experts where they were decided to run."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.decision import Decision
from engine.devices.base import Device
from engine.events import Action
from engine.notes import Span
from engine.store import ExpertStore, ExpertWeights

_RESIDENT, _STREAM = int(Action.RESIDENT), int(Action.STREAM)


def active_experts(chosen: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Active experts (ascending) and their token counts, from choices ``(tokens, top_k)``.

    A token that names an expert twice counts twice: it is computed twice, as transformers does.
    """
    if len(chosen) == 1:  # decode
        experts = sorted(set(chosen[0].tolist()))
        if len(experts) == chosen.shape[1]:  # every chosen expert has the one token
            return experts, [1] * len(experts)
    experts, counts = np.unique(chosen, return_counts=True)
    return experts.tolist(), counts.tolist()


def added_up(
    chosen: NDArray[np.int64], routed: NDArray[np.float32], experts: list[int]
) -> list[float]:
    """Of each active expert: its weights, summed over tokens; both ``(tokens, top_k)``."""
    sums = np.bincount(chosen.ravel(), weights=routed.ravel())
    return sums[experts].tolist()


def run_expert(module: nn.Module, weights: ExpertWeights, x: Tensor) -> Tensor:
    """One expert's feed-forward network: ``(tokens, H) -> (tokens, H)``.

    Layout flags and the gate are the module's own, as transformers' registry sets them.
    """
    up, down, up_bias, down_bias = weights
    if module.is_transposed:
        up, down = up.T, down.T
    h = F.linear(x, up, up_bias)  # (tokens, 2I), or (tokens, I) without a gate
    h = module._apply_gate(h) if module.has_gate else module.act_fn(h)  # (tokens, I)
    y = F.linear(h, down, down_bias)  # (tokens, H)
    return module.post_expert_norm(y) if module.has_post_expert_norm else y


class Executor:
    """Runs decisions on a device: resident and streamed experts from its memory, the rest here."""

    def __init__(self, store: ExpertStore, device: Device) -> None:
        self.store = store
        self.device = device

    def __repr__(self) -> str:
        return f"Executor({self.store!r} on {self.device.name})"

    def run(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, decision: Decision
    ) -> tuple[Tensor, list[Span]]:
        """Compute one layer's routed experts.

        ``hidden`` is ``(T, H)``, ``index`` and ``weights`` ``(T, K)``. Returns the weighted sum
        ``(T, H)`` and each active expert's real start and end (``time.perf_counter_ns``).
        Evicted experts leave the device first; kept ones stay.
        """
        module = self.store.modules[layer]
        for flat in decision.evict:
            self.device.drop(flat)
        out = torch.zeros_like(hidden)  # (T, H)
        # decode of one sequence, each expert named once: no look-up of tokens
        ranks = index[0].tolist() if index.shape == (1, len(decision.experts)) else None
        spans: list[Span] = []
        for expert, action, keep in zip(
            decision.experts, decision.actions, decision.keep, strict=True
        ):
            start = time.perf_counter_ns()
            fetched = self._fetch(layer, expert, action, keep)
            if ranks is not None:
                y = run_expert(module, fetched, hidden)  # (1, H)
                out += (y * weights[:, ranks.index(expert), None]).to(out.dtype)
            else:
                token, rank = torch.where(index == expert)  # (tokens,), (tokens,)
                y = run_expert(module, fetched, hidden[token])  # (tokens, H)
                out.index_add_(0, token, (y * weights[token, rank, None]).to(out.dtype))
            spans.append((start, time.perf_counter_ns()))
        for flat in decision.unused:
            self.device.stage(self.store.weights(*divmod(flat, self.store.experts)))
        for flat in decision.fetch:
            self.device.put(flat, self.store.weights(*divmod(flat, self.store.experts)))
        return out, spans

    def _fetch(self, layer: int, expert: int, action: int, keep: bool) -> ExpertWeights:
        """The weights to compute from: on the device if resident or copied there, else here."""
        flat = layer * self.store.experts + expert
        if action == _RESIDENT:
            return self.device.get(flat)
        weights = self.store.weights(layer, expert)
        if action != _STREAM:
            return weights
        if not keep:
            return self.device.stage(weights)
        self.device.put(flat, weights)
        return self.device.get(flat)
