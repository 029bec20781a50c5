"""The routers of a model's MoE layers, callable on any hidden state: where would it go?

A prefetching policy asks the next layer's router about this layer's hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from engine.errors import UnsupportedModelError
from engine.probe import Route
from engine.store import ExpertStore


class Router:
    """One layer's router: transformers' own module, with what its layer gives it besides."""

    def __init__(self, route: Route, experts: int) -> None:
        self.module = route.module
        self.same_input = route.same_input
        """Whether the experts are given the hidden state that the router is given."""
        self._route = route
        self._experts = experts
        self._asked = False
        """Whether we call it, not its model."""
        self._args = [value for key, value in route.extras if isinstance(key, int)]
        self._named: dict[str, Any] = {
            key: value for key, value in route.extras if isinstance(key, str)
        }

    def __repr__(self) -> str:
        return f"Router({type(self.module).__name__})"

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Where hidden states ``(T, H)`` would go.

        Returns the chosen experts ``(T, K)``, exactly as the layer chooses them, and the router's
        probabilities ``(T, E)`` in float32: the softmax of its logits, also where the layer uses
        another function or a correction for its choice.
        """
        out = self._run(hidden)
        index = out[self._route.position].reshape(len(hidden), -1)  # (T, K)
        logits = out[0].reshape(len(hidden), -1).float()  # (T, E), or with a way past all experts
        if not _are_probabilities(logits):
            logits = logits.softmax(dim=-1)
        return index, logits[:, : self._experts]

    def choose(self, hidden: Tensor) -> Tensor:
        """Only the chosen experts ``(T, K)``: on a device of its own nothing is waited for."""
        return self._run(hidden)[self._route.position].reshape(len(hidden), -1)

    def _run(self, hidden: Tensor) -> Any:
        given = hidden if self._route.dimensions == 2 else hidden[None]  # (T, H) or (1, T, H)
        self._asked = True
        try:
            with torch.no_grad():
                return self.module(given, *self._args, **self._named)
        finally:
            self._asked = False

    def watch(self, see: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``see`` with the hidden states ``(T, H)`` that its model gives it, from now on.

        Returns the handle that ends it.
        """

        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._asked:
                return
            hidden = args[0] if args else next(iter(kwargs.values()))
            see(hidden.reshape(-1, hidden.shape[-1]))

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)


class Routers:
    """The routers of all MoE layers, in order."""

    def __init__(self, store: ExpertStore) -> None:
        self._routes = store.probe.routes
        self._experts = store.experts

    def __len__(self) -> int:
        return len(self._routes)

    def __repr__(self) -> str:
        return f"Routers({sum(self.why_not(at) is None for at in range(len(self)))}/{len(self)})"

    def why_not(self, layer: int) -> str | None:
        """Why a layer's router cannot be called on a hidden state alone; None where it can."""
        route = self._routes[layer]
        if route is None:
            return "its choices are made inside the layer, not by a module beside the experts"
        if route.foreign:
            return (
                f"{type(route.module).__name__} needs more than the hidden state (argument "
                f"{route.foreign}: token ids, or a state of the layer before)"
            )
        return None

    def get(self, layer: int) -> Router | None:
        """A layer's router, or None where :meth:`why_not` has a reason."""
        route = self._routes[layer]
        if route is None or self.why_not(layer) is not None:
            return None
        return Router(route, self._experts)

    def __getitem__(self, layer: int) -> Router:
        """A layer's router; raises UnsupportedModelError with :meth:`why_not`."""
        router = self.get(layer)
        if router is None:
            raise UnsupportedModelError(
                f"the router of MoE layer {layer} cannot be asked ahead: {self.why_not(layer)}"
            )
        return router


def _are_probabilities(logits: Tensor) -> bool:
    """Whether a router returned probabilities where others return logits."""
    ones = torch.ones(len(logits), device=logits.device)
    return bool((logits >= 0).all()) and torch.allclose(logits.sum(dim=-1), ones, atol=1e-4)
