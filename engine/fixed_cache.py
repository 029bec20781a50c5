"""A KV cache whose memory stays where it is, for steps that are recorded once and given again."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
)


class FixedLayer(StaticLayer):
    """transformers' static layer, whose first prompt attends to itself alone.

    A static layer answers with all its positions, most of them empty after a prompt, and so needs a
    mask and the slow path of attention. Here the first call is answered with what came, as a cache
    that grows does; only later ones with all positions. A layer with a sliding window keeps all
    positions, too: a window that moves would be code of the host, and the mask leaves out what is
    behind it. (Plans count all positions of every layer.)
    """

    def __init__(self, max_cache_len: int, *, sliding: bool) -> None:
        super().__init__(max_cache_len=max_cache_len)
        self.is_sliding = sliding
        self.length = 0
        """Positions taken, known to the host: to read the device's would be to wait for it."""
        self.recording = False
        """Whether the length has to be the device's own, since what is done now is done again."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep ``(B, heads, T, size)``; what to attend to, ``(B, heads, T or positions, size)``."""
        first = self.length == 0
        self.length += key_states.shape[-2]
        kept = super().update(key_states, value_states, *args, **kwargs)
        return (key_states, value_states) if first else kept

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Positions that are attended to, and the first of them."""
        return (query_length if self.length == 0 else self.max_cache_len), 0

    def get_seq_length(self) -> Any:
        """Positions taken."""
        return self.cumulative_length if self.recording else self.length

    def rewind(self, length: int) -> None:
        """As it was with so many positions; what is in the others is masked."""
        self.length = length
        self.cumulative_length.fill_(length)


class FixedCache(Cache):
    """Of one model and so many positions. Made by :meth:`of`."""

    layers: list[FixedLayer]  # type: ignore[assignment]

    @classmethod
    def of(cls, config: Any, positions: int) -> Self:
        """For a model of that configuration; check :func:`why_not_fixed` before."""
        kinds = DynamicCache(config=config).layers
        return cls(
            layers=[
                FixedLayer(positions, sliding=getattr(each, "is_sliding", False)) for each in kinds
            ]
        )

    @property
    def length(self) -> int:
        """Positions taken, as far as the host knows."""
        return self.layers[0].length

    def recording(self, on: bool) -> None:
        """See :attr:`FixedLayer.recording`."""
        for layer in self.layers:
            layer.recording = on

    def advanced(self, positions: int) -> None:
        """The device took so many more, without the host's code having run."""
        for layer in self.layers:
            layer.length += positions

    def empty(self) -> None:
        """As it was made: nothing is left that, even masked, could spoil a sum (0 x inf)."""
        self.rewind(0)
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys.zero_()
                layer.values.zero_()

    def rewind(self, length: int) -> None:
        """As it was with so many positions."""
        with torch.no_grad():
            for layer in self.layers:
                layer.rewind(length)


def why_not_fixed(config: Any) -> str | None:
    """Why a model of that configuration has no fixed cache; None where it has one.

    Its layers have to keep keys and values of every position. Others (states of linear attention,
    indices of positions) change by code of the host, which no recording holds.
    """
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    others = kinds - {DynamicLayer, DynamicSlidingWindowLayer}
    if others:
        return f"its cache has layers that are a {sorted(each.__name__ for each in others)[0]}"
    return None if kinds else "its configuration does not say what layers its cache has"
