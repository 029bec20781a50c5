"""Routers of few tokens on the kernels against the modules' own code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from engine.kernels import open_pool
from engine.native.build import compiler
from engine.router_kernel import FEW_TOKENS, read_router, router_on_kernels

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def routers() -> dict[str, nn.Module]:
    many = {"hidden_size": 200, "num_experts": 70, "num_experts_per_tok": 8}
    return {
        "mixtral": MixtralTopKRouter(MixtralConfig(hidden_size=200, num_local_experts=8)),
        "qwen3": Qwen3MoeTopKRouter(Qwen3MoeConfig(**many, norm_topk_prob=False)),
        "qwen3 normalised": Qwen3MoeTopKRouter(Qwen3MoeConfig(**many, norm_topk_prob=True)),
    }


@pytest.mark.parametrize("name", list(routers()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS + 1])
def test_as_the_modules_own(name: str, dtype: torch.dtype, tokens: int) -> None:
    pool = open_pool(2)
    module = routers()[name].to(dtype).requires_grad_(False)
    nn.init.normal_(module.weight)
    x = torch.randn(1, tokens, 200).to(dtype)
    expected = module(x)
    assert pool is not None and router_on_kernels(module, pool)
    logits, weights, chosen = module(x)
    assert [part.dtype for part in (logits, weights)] == [part.dtype for part in expected[:2]]
    close = torch.finfo(dtype).eps * 8
    torch.testing.assert_close(logits, expected[0], rtol=close, atol=close * 16)
    if dtype == torch.float32:  # elsewhere two experts may be as likely
        assert chosen.tolist() == expected[2].tolist()
        torch.testing.assert_close(weights, expected[1], rtol=1e-4, atol=1e-6)
    by_own = logits.float().softmax(-1).topk(chosen.shape[1])
    torch.testing.assert_close(logits.gather(1, chosen), logits.gather(1, by_own.indices))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(20))
def test_whether_weights_are_made_to_add_up_to_1_is_read_whatever_the_weights(
    scale: float, seed: int
) -> None:
    """Where one expert takes nearly all, both kinds answer alike."""
    torch.manual_seed(seed)
    for name, normalised in (("qwen3", False), ("qwen3 normalised", True)):
        module = routers()[name].requires_grad_(False)
        nn.init.normal_(module.weight, std=scale)
        found = read_router(module)
        assert found is not None and found[1] == normalised


def test_not_a_number_chooses_someone() -> None:
    pool = open_pool(1)
    module = routers()["mixtral"].requires_grad_(False)
    nn.init.normal_(module.weight)
    assert pool is not None and router_on_kernels(module, pool)
    _, weights, chosen = module(torch.full((1, 200), torch.nan))
    assert weights.isnan().all() and all(0 <= expert < 8 for expert in chosen[0].tolist())


def test_routers_of_another_kind() -> None:
    class Sigmoid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.top_k = nn.Parameter(torch.randn(8, 16)), 2

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = x @ self.weight.T
            weights, chosen = logits.sigmoid().topk(2)
            return logits, weights, chosen

    assert read_router(Sigmoid()) is None
    assert read_router(nn.Linear(4, 4)) is None


class Nearly(Qwen3MoeTopKRouter):
    """Weights a little larger, or experts only of the better groups."""

    def __init__(self, what: str, experts: int) -> None:
        many = {"hidden_size": 200, "num_experts": experts, "num_experts_per_tok": 8}
        super().__init__(Qwen3MoeConfig(**many, norm_topk_prob=False))
        self.what = what
        nn.init.normal_(self.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, weights, chosen = super().forward(hidden_states)
        if self.what == "louder":
            return logits, weights * 1.1, chosen
        if self.what == "groups":
            kept = logits.unflatten(-1, (8, -1)).clone()
            worst = kept.amax(-1).topk(4, largest=False).indices
            kept[torch.arange(len(kept))[:, None], worst] = -torch.inf
            chosen = kept.flatten(1).topk(self.top_k).indices
            return logits, logits.softmax(-1).gather(1, chosen), chosen
        if self.what == "shape":
            return logits.view(*hidden_states.shape[:-1], -1), weights, chosen
        return logits, weights, chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("experts", [16, 64, 512])
def test_routers_of_nearly_that_kind(dtype: torch.dtype, experts: int) -> None:
    for what in ("louder", "shape", "groups"):
        assert read_router(Nearly(what, experts).to(dtype)) is None, what
    assert read_router(Nearly("as others", experts).to(dtype)) is not None
