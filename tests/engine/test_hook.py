"""What the hooks hand on: the output head's input. For the rest see test_hybrid, test_parity."""

from __future__ import annotations

import torch
from torch import nn

from engine.hook import _plain_strides

HEAD = nn.Linear(4, 3)


def test_a_slice_comes_with_strides_of_its_own() -> None:
    """Same values: only how they lie is told differently."""
    whole = torch.arange(24.0).reshape(1, 6, 4)
    last = whole[:, -1:, :]
    assert last.stride() == (24, 4, 1)
    given = _plain_strides(HEAD, (last, "more"))
    assert given is not None
    assert given[0].shape == (1, 1, 4) and given[0].stride() == (4, 4, 1)
    assert torch.equal(given[0], last) and given[1] == "more"
    batch = torch.arange(48.0).reshape(2, 6, 4)[:, -1:, :]
    (found,) = _plain_strides(HEAD, (batch,)) or (None,)
    assert torch.equal(found, batch) and found.stride() == (4, 4, 1)


def test_all_else_is_left_alone() -> None:
    for args in ((), ("x",), (torch.zeros(2, 4),), (torch.zeros(1, 2, 4),)):
        assert _plain_strides(HEAD, args) is None
