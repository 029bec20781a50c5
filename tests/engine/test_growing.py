"""A cache layer that grows in place against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from engine.growing import ROOM, GrowingLayer


def part(length: int, sequences: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(sequences, 3, length, 4), torch.randn(sequences, 3, length, 4)


def both() -> tuple[DynamicLayer, GrowingLayer]:
    plain = DynamicLayer()
    plain.update(*part(5))
    return plain, GrowingLayer.of(copy.copy(plain))


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
    growing.reset()
    assert not growing.holds and growing.get_seq_length() == 0


def test_it_is_the_same_layer_whoever_holds_it() -> None:
    plain, _ = both()
    growing = GrowingLayer.of(plain)
    assert growing is plain
    growing.update(*part(1))
    assert plain.get_seq_length() == 6


def test_who_kept_an_earlier_state_finds_it_as_it_was() -> None:
    """A branch kept, another one taken from where it began, and the first one again."""
    _, growing = both()
    begun = growing.keys, growing.values
    growing.update(*part(1))
    first = growing.keys, growing.values
    as_it_was = first[0].clone()
    growing.keys, growing.values = begun
    growing.update(*part(1))
    assert torch.equal(first[0], as_it_was)
    growing.crop(-1)
    growing.update(*part(1))
    growing.keys, growing.values = first
    assert torch.equal(growing.update(*part(1))[0][:, :, :-1], as_it_was)


def test_copies_do_not_write_into_each_other() -> None:
    plain, growing = both()
    growing.update(*part(1))
    other = copy.copy(growing)
    growing.update(torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 4))
    other.update(torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 4))
    assert (growing.keys[:, :, -1] == 1).all() and (other.keys[:, :, -1] == 0).all()
    assert torch.equal(other.keys[:, :, :5], plain.keys)


def test_begun_in_inference_mode_it_goes_on_outside() -> None:
    with torch.inference_mode():
        _, growing = both()
        growing.update(*part(1))
    begins = growing.keys.clone()
    new = part(2)
    assert torch.equal(growing.update(*new)[0], torch.cat([begins, new[0]], 2))


def test_another_number_of_sequences_is_refused_as_by_the_other() -> None:
    for each in both():
        with pytest.raises(RuntimeError, match="must match"):
            each.update(*part(1, 1))


def test_gradients_are_followed_through_it() -> None:
    _, growing = both()
    kept, added = growing.keys, torch.ones(2, 3, 1, 4, requires_grad=True)
    growing.update(added, added)
    growing.update(added, added)
    growing.keys.square().sum().backward()
    assert added.grad is not None and (added.grad == 4).all()
    assert torch.equal(growing.keys[:, :, :5], kept)
