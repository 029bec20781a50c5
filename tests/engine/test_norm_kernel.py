"""Norms of few tokens on the kernels against the modules' own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm

from engine.kernels import open_pool
from engine.native.build import compiler
from engine.norm_kernel import FEW_ROWS, norm_on_kernels, read_norm

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


class OddRMSNorm(nn.Module):
    """A norm by the mean of magnitudes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(64)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize("kind", [MixtralRMSNorm, GemmaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [64, 300, 2048])
def test_as_the_modules_own(kind: type[nn.Module], dtype: torch.dtype, width: int) -> None:
    pool = open_pool(1)
    module = kind(width).to(dtype).requires_grad_(False)
    module.weight.add_(torch.randn(width).to(dtype) * 0.3)
    inputs = [
        torch.randn(1, 1, width).to(dtype) * 3,
        torch.randn(width, 7).to(dtype).T,
        torch.randn(FEW_ROWS + 1, width).to(dtype),
        torch.full((2, width), torch.nan).to(dtype),
        torch.zeros(2, width).to(dtype),
        torch.empty(0, width).to(dtype),
    ]
    expected = [module(x) for x in inputs]
    assert read_norm(module) == (float(kind is GemmaRMSNorm), 1e-6)
    assert pool is not None and norm_on_kernels(module, pool)
    for x, wanted in zip(inputs, expected, strict=True):
        got = module(x)
        assert got.shape == wanted.shape and got.dtype == dtype
        close = torch.finfo(dtype).eps * 4
        torch.testing.assert_close(got, wanted, rtol=close, atol=close, equal_nan=True)
    assert not norm_on_kernels(module, pool)


class OtherRMSNorm(MixtralRMSNorm):
    """Nearly a norm like others: by its name, and its answers to numbers that are not special."""

    def __init__(self, what: str, width: int = 4096) -> None:
        super().__init__(width)
        self.what = what

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.float()
        if self.what == "centred":
            x = x - x.mean(-1, keepdim=True)
        size = x.square().mean(-1, keepdim=True)
        if self.what == "another epsilon":
            x = x * torch.rsqrt(size + 2 * self.variance_epsilon)
        elif self.what == "epsilon outside":
            x = x / (size.sqrt() + self.variance_epsilon)
        else:
            x = x * torch.rsqrt(size + self.variance_epsilon)
        return self.weight * x.to(hidden_states.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norms_of_another_kind(dtype: torch.dtype) -> None:
    assert read_norm(OddRMSNorm()) is None
    assert read_norm(nn.LayerNorm(64)) is None
    for what in ("centred", "another epsilon", "epsilon outside"):
        assert read_norm(OtherRMSNorm(what).to(dtype)) is None, what
    assert read_norm(OtherRMSNorm("as others").to(dtype)) is not None


@pytest.mark.parametrize("kind", [MixtralRMSNorm, GemmaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("most", [1.0, 60.0, 1000.0])
def test_large_weights_do_not_hide_what_is_added_to_them(
    kind: type[nn.Module], dtype: torch.dtype, most: float
) -> None:
    module = kind(2048).to(dtype).requires_grad_(False)
    module.weight.copy_(torch.linspace(0.5, 1, 2048) * min(most, 60))
    module.weight[7] = most
    assert read_norm(module) == (float(kind is GemmaRMSNorm), 1e-6)
