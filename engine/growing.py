"""A layer's keys and values in memory with room for more: a new token is not a copy of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 256
"""Positions of room, at least; a quarter of what is there, where that is more."""


@dataclass(eq=False)
class _Room:
    """Keys' and values' memory, and how many of its positions anyone may have been shown.

    Those are never written again: who kept an earlier state of the cache finds it as it was, as
    with transformers' own.
    """

    keys: Tensor
    values: Tensor
    shown: int

    def takes(self, keys: Tensor, values: Tensor, more: int) -> bool:
        """Whether ``more`` positions can be written right behind these."""
        count = keys.shape[2]
        return (
            self.shown == count
            and _begins(self.keys, keys, count + more)
            and _begins(self.values, values, count + more)
            and (torch.is_inference_mode_enabled() or not self.keys.is_inference())
        )


class GrowingLayer(DynamicLayer):
    """transformers' own cache of a layer, which it copies whole for each token.

    Here ``keys`` and ``values``, ``(sequences, heads, positions, head size)``, are the first
    positions of larger tensors. Who puts others in their place (a crop, a reorder) finds those
    copied to memory of their own at the next token.
    """

    _room: _Room | None = None

    @classmethod
    def of(cls, layer: DynamicLayer) -> Self:
        """The same layer, whoever else holds it, as one that grows in place."""
        layer.__class__ = cls
        assert isinstance(layer, cls)
        return layer

    @property
    def holds(self) -> bool:
        """Whether it has keys and values: not before the first, nor after a reset."""
        return self.is_initialized and self.keys is not None and self.keys.ndim == 4

    def reserve(self, more: int) -> tuple[Tensor, Tensor]:
        """Keys' and values' memory, with room for so many ``more`` positions behind those there."""
        room = self._room
        if room is None or not room.takes(self.keys, self.values, more):
            count = self.keys.shape[2]
            self._room = None  # before memory is taken for the next
            room = _Room(_copied(self.keys, more), _copied(self.values, more), count)
            self._room = room
            self._show(room, count)
        return room.keys, room.values

    def grown(self, more: int) -> None:
        """``more`` positions were written behind those there, into what was reserved."""
        assert self._room is not None
        self._show(self._room, self.keys.shape[2] + more)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values."""
        if not (
            self.holds
            and _continues(key_states, self.keys)
            and _continues(value_states, self.values)
        ):
            return super().update(key_states, value_states, *args, **kwargs)
        count, more = self.keys.shape[2], key_states.shape[2]
        keys, values = self.reserve(more)
        keys[:, :, count : count + more] = key_states
        values[:, :, count : count + more] = value_states
        self.grown(more)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """As transformers' own."""
        super().reorder_cache(beam_idx)
        self._room = None

    def reset(self) -> None:
        """As transformers' own."""
        super().reset()
        self._room = None

    def _show(self, room: _Room, count: int) -> None:
        self.keys, self.values = room.keys.narrow(2, 0, count), room.values.narrow(2, 0, count)
        room.shown = count


def _begins(room: Tensor, part: Tensor, count: int) -> bool:
    """Whether ``part`` is the first positions of ``room``, which holds ``count`` or more."""
    return (
        room.data_ptr() == part.data_ptr()
        and room.shape[2] >= count
        and room.shape[:2] == part.shape[:2]
        and room.shape[3] == part.shape[3]
        and room.stride() == part.stride()
    )


def _continues(new: Tensor, old: Tensor) -> bool:
    """Whether positions can be appended by writing: of the same kind, and without gradients."""
    return (
        new.ndim == 4
        and new.dtype == old.dtype
        and new.device == old.device
        and new.shape[:2] == old.shape[:2]
        and new.shape[3] == old.shape[3]
        and not (torch.is_grad_enabled() and (new.requires_grad or old.requires_grad))
    )


def _copied(part: Tensor, more: int) -> Tensor:
    sequences, heads, count, size = part.shape
    room = more + max(ROOM, count // 4)
    made = torch.empty(sequences, heads, count + room, size, dtype=part.dtype, device=part.device)
    made[:, :, :count] = part
    return made
