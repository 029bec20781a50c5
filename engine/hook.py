"""transformers' side: one experts function, and the hooks that mark where a step begins and ends.

Nothing is global but the function's name in transformers' registry: each experts module carries
the session it belongs to, so several engines live side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations.moe import ExpertsInterface

from engine.errors import FiddlerError
from engine.events import TOKENS, StepKind
from engine.session import Session, StepInput

IMPLEMENTATION = "fiddler_viz"
"""The name under which transformers knows our experts function."""

Texts = Callable[[list[int]], list[str]]
"""Token ids -> the text of each."""


def hybrid_experts(
    module: nn.Module, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The registered experts function: ``(T, H), (T, K), (T, K) -> (T, H)``."""
    session: Session | None = getattr(module, "fiddler_session", None)
    if session is None:
        raise FiddlerError(
            f"this model was set to experts_implementation={IMPLEMENTATION!r} without an engine: "
            "load it with fiddler_viz.load()"
        )
    if torch.is_grad_enabled() and hidden.requires_grad:
        raise FiddlerError(
            "a hybrid model cannot be trained: call it under torch.no_grad(), or load the "
            "checkpoint with transformers to train it"
        )
    return session.layer(module.fiddler_layer, hidden, top_k_index, top_k_weights)


def register() -> None:
    """Make the experts function known to transformers (again and again does no harm)."""
    ExpertsInterface.register(IMPLEMENTATION, hybrid_experts)


def attach(model: nn.Module, session: Session, texts: Texts) -> list[RemovableHandle]:
    """Connect a model to a session; returns the handles of the model's step hooks."""
    for layer, module in enumerate(session.store.modules):
        module.fiddler_session = session
        module.fiddler_layer = layer

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        session.begin_step(step_input(args, kwargs, texts))

    def end(_: nn.Module, __: Any, ___: Any) -> None:
        session.end_step()

    handles = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end),
    ]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(head, nn.Linear):
        handles.append(head.register_forward_pre_hook(_plain_strides))
    return handles


def _plain_strides(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Give the head its last position ``(1, 1, H)`` with the strides of a tensor of its own.

    After a prefill it is a slice that keeps the strides of the whole prompt. torch calls that
    contiguous, and then takes a path that is 40 times slower in bfloat16 on the CPU.
    """
    if not args or not torch.is_tensor(args[0]) or args[0].ndim != 3 or args[0].shape[1] != 1:
        return None
    hidden = args[0]  # (sequences, 1, H)
    return (hidden.reshape(-1, hidden.shape[-1]).contiguous()[:, None], *args[1:])


def step_input(args: tuple[Any, ...], kwargs: dict[str, Any], texts: Texts) -> StepInput:
    """Read a forward pass's size, positions and tokens off its arguments.

    Positions count from the first real token of each sequence; padding has position -1.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    embeds = kwargs.get("inputs_embeds")
    if ids is None and embeds is None:
        raise FiddlerError("the model was called without input_ids or inputs_embeds")
    sequences, length = (ids if ids is not None else embeds).shape[:2]
    cache = kwargs.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    rows = np.empty((sequences * length, len(TOKENS.names or ())), dtype=np.int64)
    rows[:, 1] = np.repeat(np.arange(sequences), length)
    positions = past + np.tile(np.arange(length), sequences)  # (sequences * length,)
    context = sequences * (past + length)
    mask = kwargs.get("attention_mask")
    if torch.is_tensor(mask) and mask.ndim == 2 and mask.shape[1] == past + length:
        padding = mask.shape[1] - mask.sum(dim=1)  # (sequences,), padded on the left
        positions = np.maximum(positions - np.repeat(padding.numpy(), length), -1)
        context = int(mask.sum())
    rows[:, 2] = positions
    flat: list[int] = [] if ids is None else ids.reshape(-1).tolist()
    rows[:, 3] = flat or -1
    return StepInput(
        kind=StepKind.DECODE if length == 1 and past else StepKind.PREFILL,
        tokens=sequences * length,
        sequences=sequences,
        context=context,
        rows=rows,
        texts=texts(flat),
    )
