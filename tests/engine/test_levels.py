from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.errors import InputError, UnknownNameError, UnsupportedModelError
from engine.levels import GROUPS, SCHEMES, bits_of, dequantise, group_for, quantise, scheme_named


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("group", GROUPS)
def test_levels_survive_a_round_trip(scheme: Any, group: int) -> None:
    """Weights that levels can say are said exactly, each in its own place."""
    torch.manual_seed(group)
    low = 2 ** (scheme.bits - 1)
    levels = torch.randint(-low + 1, low, (3, 5, 4, group)).float()
    levels[..., 7] = -low if scheme.bits == 4 else 127  # the extreme, in every group
    scales = 2.0 ** torch.randint(-30, 30, (3, 5, 4, 1))
    weights = (levels * scales).flatten(-2)
    made, factors = quantise(weights, scheme, group)
    assert made.shape == (3, 5, 4 * group * scheme.bits // 8) and bits_of(made) == scheme.bits
    assert factors.shape == (3, 5, 4) and factors.dtype == torch.bfloat16
    assert torch.equal(dequantise(made, factors, torch.float32), weights)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_is_to_the_nearest(scheme: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = torch.randn(64, 256).to(dtype)
    levels, scales = quantise(weights, scheme, 128)
    off = dequantise(levels, scales, torch.float32) - weights.float()
    step = scales.float().abs().repeat_interleave(128, -1)
    # half a step; more only where the largest weight of the other sign has no level
    assert ((off.abs() <= 0.51 * step) | (off.abs() <= 1.02 * step) & (scheme.bits == 4)).all()
    error = float(off.square().sum() / weights.float().square().sum())
    assert error < {8: 5e-5, 4: 1.2e-2}[scheme.bits]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_groups_of_any_size_and_none_at_all(scheme: Any) -> None:
    for size in (0.0, 1e-30, 1e30):
        weights = torch.linspace(-1, 1, 64)[None] * size
        back = dequantise(*quantise(weights, scheme, 32), torch.float32)
        assert torch.allclose(back, weights, atol=0.08 * size, rtol=0)


def test_four_bits_lie_as_the_kernels_read_them() -> None:
    """Bytes 2i and 2i + 1 hold levels i, g/4 + i, g/2 + i and 3g/4 + i, lowest bits first."""
    weights = (torch.arange(32) % 16 - 8.0)[None]
    levels, scales = quantise(weights, SCHEMES["int4"], 32)
    assert scales.item() == 1
    assert levels[0, :4].tolist() == [0x80, 0x80, 0x91, 0x91]


def test_the_group_is_the_largest_that_fits() -> None:
    assert group_for(4096, 14336) == 128
    assert group_for(4096, 1408 + 64) == 64
    assert group_for(96, 128) == 32
    with pytest.raises(UnsupportedModelError, match="48 and 64 weights cannot be cut into groups"):
        group_for(64, 48)


def test_schemes_by_name() -> None:
    assert scheme_named(None) is None
    assert scheme_named("int4") is SCHEMES["int4"]
    assert SCHEMES["int4"].bytes_per_weight(128) == 0.515625
    with pytest.raises(UnknownNameError, match=r"quantize.*int3.*int4"):
        scheme_named("int3")
    wrong: Any = 8
    with pytest.raises(InputError, match="expected 'int8', 'int4' or None, got int"):
        scheme_named(wrong)
