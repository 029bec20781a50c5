"""A layer's keys and values in memory with room for more: a new token is not a copy of all."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 256
"""Positions of room, at least; a quarter of what is there, where that is more."""


class GrowingLayer(DynamicLayer):
    """transformers' own cache of a layer, which it copies whole for each token.

    Here ``keys`` and ``values``, ``(sequences, heads, positions, head size)``, are the first
    positions of larger tensors. Who puts others in their place (a crop, a reorder) finds those
    copied to memory of their own at the next token.
    """

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, layer: DynamicLayer) -> Self:
        """With the content of another."""
        made = cls()
        made.dtype, made.device = layer.dtype, layer.device
        made.keys, made.values = layer.keys, layer.values
        made.is_initialized = True
        return made

    def reserve(self, more: int) -> tuple[Tensor, Tensor]:
        """Keys' and values' memory, with room for so many ``more`` positions behind those there."""
        room = self._room
        count = self.keys.shape[2]
        if room is None or not (
            _begins(room[0], self.keys, count + more)
            and _begins(room[1], self.values, count + more)
        ):
            room = _copied(self.keys, more), _copied(self.values, more)
            self._room = room
            self._show(count)
        return room

    def grown(self, more: int) -> None:
        """``more`` positions were written behind those there."""
        self._show(self.keys.shape[2] + more)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values."""
        if not self.is_initialized or key_states.dtype != self.keys.dtype:
            return super().update(key_states, value_states, *args, **kwargs)
        count, more = self.keys.shape[2], key_states.shape[2]
        keys, values = self.reserve(more)
        keys[:, :, count : count + more] = key_states
        values[:, :, count : count + more] = value_states
        self._show(count + more)
        return self.keys, self.values

    def _show(self, count: int) -> None:
        assert self._room is not None
        keys, values = self._room
        self.keys, self.values = keys.narrow(2, 0, count), values.narrow(2, 0, count)


def _begins(room: Tensor, part: Tensor, count: int) -> bool:
    """Whether ``part`` is the first positions of ``room``, which holds ``count`` or more."""
    return (
        room.data_ptr() == part.data_ptr()
        and room.shape[2] >= count
        and room.shape[:2] == part.shape[:2]
        and room.stride() == part.stride()
    )


def _copied(part: Tensor, more: int) -> Tensor:
    sequences, heads, count, size = part.shape
    room = more + max(ROOM, count // 4)
    made = torch.empty(sequences, heads, count + room, size, dtype=part.dtype, device=part.device)
    made[:, :, :count] = part
    return made
