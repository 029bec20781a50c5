"""transformers' side: one experts function, and the hooks that mark where a step begins and ends.

Nothing is global but the function's name in transformers' registry: each experts module carries
the session it belongs to, so several engines live side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations.moe import ExpertsInterface

from engine.errors import FiddlerError
from engine.lineage import Lineage
from engine.session import Session
from engine.step import Texts, step_input

IMPLEMENTATION = "fiddler_viz"
"""The name under which transformers knows our experts function."""


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
        lineage = session.recorder.lineage if session.recorder is not None else None
        session.begin_step(step_input(args, kwargs, texts, lineage))

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


def detach(session: Session) -> None:
    """Let the experts of a session's model go; its step hooks end by their handles."""
    for module in session.store.modules:
        if getattr(module, "fiddler_session", None) is session:
            del module.fiddler_session, module.fiddler_layer


def _plain_strides(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Give the head its last position ``(1, 1, H)`` with the strides of a tensor of its own.

    After a prefill it is a slice that keeps the strides of the whole prompt. torch calls that
    contiguous, and then takes a path that is 40 times slower in bfloat16 on the CPU.
    """
    if not args or not torch.is_tensor(args[0]) or args[0].ndim != 3 or args[0].shape[1] != 1:
        return None
    hidden = args[0]  # (sequences, 1, H)
    return (hidden.reshape(-1, hidden.shape[-1]).contiguous()[:, None], *args[1:])


@contextmanager
def following(model: nn.Module, lineage: Lineage) -> Iterator[None]:
    """While it holds, ``lineage`` is told how beam search moves rows about.

    transformers asks the model to reorder its cache, where the model has a method for it, and
    else the cache itself: so the model is given one that does as the cache would.
    """
    before = getattr(model, "_reorder_cache", None)

    def reorder(cache: Any, chosen: Tensor) -> Any:
        lineage.reorder(chosen.cpu().numpy())
        if before is not None:
            return before(cache, chosen)
        cache.reorder_cache(chosen)
        return cache

    model._reorder_cache = reorder  # on this model only, hides its class's
    try:
        yield
    finally:
        del model._reorder_cache
