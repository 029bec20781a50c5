"""A cache layer that grows in place against transformers' own."""

from __future__ import annotations

import copy

import torch
from transformers.cache_utils import DynamicLayer

from engine.growing import ROOM, GrowingLayer


def part(length: int, sequences: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(sequences, 3, length, 4), torch.randn(sequences, 3, length, 4)


def both() -> tuple[DynamicLayer, GrowingLayer]:
    plain = DynamicLayer()
    plain.update(*part(5))
    return plain, GrowingLayer.of(plain)


def assert_alike(plain: DynamicLayer, growing: GrowingLayer) -> None:
    assert torch.equal(plain.keys, growing.keys) and torch.equal(plain.values, growing.values)
    assert plain.get_seq_length() == growing.get_seq_length()


def test_appends_as_the_other() -> None:
    plain, growing = both()
    for length in (1, 1, 7, ROOM, 1):
        new = part(length)
        for a, b in zip(plain.update(*new), growing.update(*new), strict=True):
            assert torch.equal(a, b)
        assert_alike(plain, growing)


def test_in_place_while_there_is_room() -> None:
    _, growing = both()
    growing.update(*part(1))
    begins = growing.keys.data_ptr()
    growing.update(*part(ROOM - 10))
    assert growing.keys.data_ptr() == begins
    growing.update(*part(ROOM))
    assert growing.keys.data_ptr() != begins


def test_changed_by_others() -> None:
    plain, growing = both()
    for each in (plain, growing):
        each.update(*(torch.ones(2, 3, 1, 4),) * 2)
        each.crop(-2)
        each.reorder_cache(torch.tensor([1, 0]))
        each.update(*(torch.ones(2, 3, 2, 4),) * 2)
        each.batch_select_indices(torch.tensor([1]))
        each.update(*(torch.zeros(1, 3, 1, 4),) * 2)
    assert_alike(plain, growing)
    other = copy.deepcopy(growing)
    other.update(*part(1, 1))
    assert growing.get_seq_length() == plain.get_seq_length() == other.get_seq_length() - 1


def test_emptied_it_begins_again() -> None:
    _, growing = both()
    growing.reset()
    new = part(3)
    assert torch.equal(growing.update(*new)[0], new[0])
