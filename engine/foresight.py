"""Foresight: which experts a layer will use, asked of its router before its input is known."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from engine.routers import Routers
from engine.store import ExpertStore


class Foresight:
    """The next layer's router, applied to this layer's hidden state (arXiv 2312.17238, 3.2).

    Hidden states change little from layer to layer, so most of its choices come true.
    """

    def __init__(self, store: ExpertStore) -> None:
        routers = Routers(store)
        self._routers = [routers.get(layer) for layer in range(len(routers))]
        reasons = (routers.why_not(layer) for layer in range(1, len(routers)))
        self.why_not = next((why for why in reasons if why), "there is no second MoE layer")
        """Why a layer cannot be foreseen, where one cannot."""
        self.seen: dict[int, Tensor] = {}
        """By layer: what its router was given last, where that is not what the experts were."""
        self._watches = [
            router.watch(partial(self.seen.__setitem__, layer))
            for layer, router in enumerate(self._routers)
            if router is not None and not router.same_input
        ]

    def __repr__(self) -> str:
        return f"Foresight({sum(map(self.can, range(len(self._routers))))} layers)"

    def __bool__(self) -> bool:
        """Whether any layer can be foreseen."""
        return any(map(self.can, range(len(self._routers))))

    def close(self) -> None:
        """Watch no router any more, and foresee nothing."""
        for watch in self._watches:
            watch.remove()
        self._watches, self._routers, self.seen = [], [], {}

    def can(self, layer: int) -> bool:
        """Whether ``layer`` can be foreseen from the one before it."""
        return 0 < layer < len(self._routers) and self._routers[layer] is not None

    def __call__(self, layer: int, hidden: Tensor) -> Tensor | None:
        """What ``layer`` would choose, ``(T, K)``, by the hidden states ``(T, H)`` before it.

        ``hidden`` is what the experts of the layer before were given. None where it cannot be said.
        """
        router = self._routers[layer] if self.can(layer) else None
        if router is None:
            return None
        if not router.same_input:  # the router is given another state than the experts
            if layer - 1 not in self.seen:
                return None
            hidden = self.seen[layer - 1]
        with torch.no_grad():
            return router.choose(hidden)
