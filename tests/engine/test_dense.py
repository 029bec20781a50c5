"""Dense layers on the kernels against the same layers in torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from engine.dense import FEW_TOKENS, onto_kernels
from engine.kernels import Pool, open_pool
from engine.native.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool | None]:
    made = open_pool(2)
    yield made
    if made is not None:
        made.close()


class Scaled(nn.Linear):
    """A layer with a forward pass of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def layers(dtype: torch.dtype) -> nn.ModuleDict:
    made = {
        "large": nn.Linear(1000, 900),
        "plain": nn.Linear(1024, 1100, bias=False),
        "small": nn.Linear(64, 64),
        "own": Scaled(1000, 900),
    }
    return nn.ModuleDict(made).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 3), (FEW_TOKENS + 1,), (0, 4)], ids=str)
def test_large_layers_answer_as_torch_does(
    pool: Pool, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    model = layers(dtype)
    inputs = {name: torch.randn(*shape, of.in_features).to(dtype) for name, of in model.items()}
    expected = {name: of(inputs[name]) for name, of in model.items()}
    assert onto_kernels(model, pool) == [model["large"], model["plain"]]
    for name, of in model.items():
        got = of(inputs[name])
        assert got.shape == expected[name].shape and got.dtype == dtype
        torch.testing.assert_close(got, expected[name])


def test_a_view_with_gaps_between_its_elements(pool: Pool) -> None:
    model = layers(torch.float32)
    x = torch.randn(1000, 3).T
    expected = model["large"](x)
    onto_kernels(model, pool)
    torch.testing.assert_close(model["large"](x), expected)


def test_a_second_time_leaves_the_first(pool: Pool) -> None:
    model = layers(torch.float32)
    assert len(onto_kernels(model, pool)) == 2 and not onto_kernels(model, pool)


def test_without_a_pool_nothing_changes() -> None:
    model = layers(torch.float32)
    assert not onto_kernels(model, None)
    assert "forward" not in vars(model["large"])
