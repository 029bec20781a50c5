"""The execution pipeline: computes one layer's experts where they were decided to run."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.beside import Beside
from engine.cpu_lane import CpuLane, Part
from engine.decision import Decision
from engine.devices.base import Device
from engine.events import Action
from engine.expert import run_expert
from engine.notes import Span
from engine.store import ExpertStore, ExpertWeights

_RESIDENT, _STREAM, _CPU = (int(action) for action in Action)


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


def _parts(experts: list[int], index: Tensor, weights: Tensor) -> list[Part]:
    """Of each expert the rows of the tokens that chose it, and the weights they give it."""
    routed = weights.float()  # (T, K)
    if index.shape == (1, len(experts)):  # decode, each expert named once: no look-up of tokens
        ranks, each = index[0].tolist(), routed.view(-1, 1).unbind()
        return [(expert, None, each[ranks.index(expert)]) for expert in experts]
    parts: list[Part] = []
    for expert in experts:
        rows, rank = torch.where(index == expert)  # (tokens,), (tokens,)
        parts.append((expert, rows, routed[rows, rank]))
    return parts


def cpu_parts(experts: list[int], on_cpu: list[int], index: Tensor, weights: Tensor) -> list[Part]:
    """:func:`_parts` of some of a layer's active experts, given by their places in ``experts``."""
    if len(index) == 1:
        parts = _parts(experts, index, weights)
        return [parts[at] for at in on_cpu]
    return _parts([experts[at] for at in on_cpu], index, weights)


class Executor:
    """Runs decisions: resident and streamed experts on the device, the rest on the CPU's lane."""

    def __init__(self, store: ExpertStore, device: Device, threads: int | None = None) -> None:
        self.store = store
        self.device = device
        self.lane = CpuLane(store, threads)
        # beside a device that computes by itself, the CPU's experts get a thread of their own, and
        # the device begins with its shared experts while they run
        self._thread = ThreadPoolExecutor(1, "fiddler-viz-cpu") if device.concurrent else None
        self._shared = [
            None if module is None or not device.concurrent else Beside(module)
            for module in store.probe.beside
        ]

    def __repr__(self) -> str:
        return f"Executor({self.store!r} on {self.device.name})"

    def close(self) -> None:
        """End the threads, and give shared experts their forward pass back."""
        if self._thread is not None:
            self._thread.shutdown()
        for shared in self._shared:
            if shared is not None:
                shared.close()
        self.lane.close()

    def look(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, foreseen: Tensor | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64] | None]:
        """Choices, weights and what is foreseen, ``(T, K)`` each, as a policy is asked by them."""
        routed = weights if weights.dtype == torch.float32 else weights.float()
        ahead = None if foreseen is None else foreseen.numpy().astype(np.int64)
        return index.numpy(), routed.numpy(), ahead

    def run(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, decision: Decision
    ) -> tuple[Tensor, list[Span]]:
        """Compute one layer's routed experts.

        ``hidden`` is ``(T, H)``, ``index`` and ``weights`` ``(T, K)``. Returns the weighted sum
        ``(T, H)`` and each active expert's real start and end (``time.perf_counter_ns``).
        Evicted experts leave the device first; kept ones stay.
        """
        for flat in decision.evict:
            self.device.drop(flat)
        parts = _parts(decision.experts, index, weights)
        on_cpu = [at for at, action in enumerate(decision.actions) if action == _CPU]
        waiting = self._start(layer, hidden, [parts[at] for at in on_cpu]) if on_cpu else None
        shared = self._shared[layer]
        if shared is not None:
            shared.begin(hidden)
        if waiting is not None and len(on_cpu) == len(parts):  # all of it is the lane's
            self._copy(decision)
            out, spans = waiting()
            return self.lane.rounded(out, hidden.dtype), spans
        out = torch.zeros(hidden.shape, dtype=torch.float32)  # (T, H)
        spans = [(0, 0)] * len(parts)
        for at, (expert, rows, by) in enumerate(parts):
            if decision.actions[at] == _CPU:
                continue
            start = time.perf_counter_ns()
            fetched = self._fetch(layer, expert, decision.actions[at], decision.keep[at])
            x = hidden if rows is None else hidden[rows]  # (tokens, H)
            y = run_expert(self.store.modules[layer], fetched, x).float() * by[:, None]
            out.add_(y) if rows is None else out.index_add_(0, rows, y)
            spans[at] = start, time.perf_counter_ns()
        self._copy(decision)
        if waiting is not None:
            theirs, measured = waiting()
            out += theirs
            for at, span in zip(on_cpu, measured, strict=True):
                spans[at] = span
        return out.to(hidden.dtype), spans

    def _copy(self, decision: Decision) -> None:
        """What a decision copies besides the experts that run now."""
        for flat in decision.unused:
            self.device.stage(self.store.weights(*divmod(flat, self.store.experts)))
        for flat in decision.fetch:
            self.device.put(flat, self.store.weights(*divmod(flat, self.store.experts)))

    def _start(
        self, layer: int, hidden: Tensor, parts: list[Part]
    ) -> Callable[[], tuple[Tensor, list[Span]]]:
        """Begin with the CPU's experts; what comes back waits for them."""
        if self._thread is None:
            return partial(self.lane.run, layer, hidden, parts)
        return self._thread.submit(self.lane.run, layer, hidden, parts).result

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
