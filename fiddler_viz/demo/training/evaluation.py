"""Run the model on validation text: bits a byte, sums got right, experts chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

from .generated import is_held_out

WINDOW = 256
STRIDE = 128


@torch.inference_mode()
def bits_per_byte(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, blocks: tuple[str, ...]
) -> float:
    """Mean over all bytes of `blocks`; each block follows end-of-text, and a token sees at least
    128 before it (fewer at a block's start), at most 255."""
    nats, size = 0.0, 0
    for block in blocks:
        ids = torch.tensor([0, *tokenizer.encode(block)])
        size += len(block.encode())
        scored = 1
        for start in range(0, len(ids), STRIDE):
            window = ids[start : start + WINDOW]
            if start + len(window) <= scored:
                break
            logits = model(window[None], use_cache=False).logits[0, :-1]
            losses = functional.cross_entropy(logits, window[1:], reduction="none")
            nats += losses[scored - start - 1 :].sum().item()
            scored = start + len(window)
    return nats / math.log(2) / size


@torch.inference_mode()
def sums_right(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[int, int]]
) -> float:
    """Share of `pairs` whose sum greedy decoding writes, digits and line end, after ``23+45=``."""
    right = 0
    groups: dict[tuple[int, int], list[list[int]]] = {}
    for left, r in pairs:
        prompt = tokenizer.encode(f"{left}+{r}=")
        answer = tokenizer.encode(f"{left + r}\n")
        groups.setdefault((len(prompt), len(answer)), []).append(prompt + answer)
    for (_, answer_length), rows in groups.items():
        for ids in torch.tensor(rows).split(256):
            logits = model(ids[:, :-1], use_cache=False).logits[:, -answer_length:]
            right += int((logits.argmax(-1) == ids[:, -answer_length:]).all(1).sum())
    return right / len(pairs)


def two_digit_pairs(held_out: bool) -> list[tuple[int, int]]:
    """All pairs of 10 to 99 that no text ever shows, or those that some may."""
    numbers = range(10, 100)
    return [(a, b) for a in numbers for b in numbers if is_held_out(a, b) == held_out]


def one_digit_pairs() -> list[tuple[int, int]]:
    """All pairs of 0 to 9."""
    return [(a, b) for a in range(10) for b in range(10)]


@dataclass(frozen=True)
class Routing:
    """The experts that tokens chose, and those that the layer before would have guessed."""

    choices: np.ndarray
    """(S, T, L, K)."""
    guesses: np.ndarray
    """(S, T, L - 1, K), for layers 1 to L - 1: that layer's norm and router applied to the residual
    that the experts of the layer before are about to be added to."""


class _Recorder:
    """While entered, keeps each layer's residual before its experts, and its choices."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers
        self.residuals: list[Tensor] = []
        self.choices: list[Tensor] = []

    def _residual(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.residuals.append(inputs[0])

    def _choice(self, _: nn.Module, __: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        self.choices.append(output[2])

    def __enter__(self) -> _Recorder:
        self._handles = [
            handle
            for layer in self._layers
            for handle in (
                layer.post_attention_layernorm.register_forward_pre_hook(self._residual),
                layer.mlp.gate.register_forward_hook(self._choice),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _route_batch(model: MixtralForCausalLM, windows: Tensor) -> Routing:
    layers = list(model.model.layers)
    with _Recorder(layers) as recorder:
        model(windows, use_cache=False)
    guesses = [
        layer.mlp.gate(layer.post_attention_layernorm(residual))[2]
        for layer, residual in zip(layers[1:], recorder.residuals[:-1], strict=True)
    ]
    stacked = (torch.stack(found, 1) for found in (recorder.choices, guesses))  # (S * T, L, K)
    return Routing(*(found.unflatten(0, windows.shape).numpy() for found in stacked))


@torch.inference_mode()
def route(
    model: MixtralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    blocks: tuple[str, ...],
    sequences: int,
) -> Routing:
    """Run the first `sequences` windows of 256 tokens of `blocks` and record their routing."""
    ids = torch.tensor([i for block in blocks for i in tokenizer.encode(block)])
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)[:sequences]
    parts = [_route_batch(model, batch) for batch in windows.split(8)]
    return Routing(
        np.concatenate([part.choices for part in parts]),
        np.concatenate([part.guesses for part in parts]),
    )
