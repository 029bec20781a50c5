"""Attention of decode steps on the kernels against transformers' own layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mixtral.modeling_mixtral import MixtralAttention

from engine.attention_kernel import attention_on_kernels
from engine.growing import GrowingLayer
from engine.kernels import Pool, isas, open_pool
from engine.native.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")

SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 512,
    "num_experts_per_tok": 2,
    "eos_token_id": 2,
}
CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=2),
    "qwen2": Qwen2MoeConfig(**SIZES, num_experts=2, moe_intermediate_size=64),  # biases
    "qwen3": Qwen3MoeConfig(**SIZES, num_experts=2, moe_intermediate_size=64, head_dim=32),
    "olmoe": OlmoeConfig(**SIZES, num_experts=2),  # norms of all heads together
}


@pytest.fixture(scope="module", params=isas() or ["portable"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(2, isa=request.param)
    yield made
    made.close()


def model_of(config: object, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def steps(model: nn.Module, sequences: int, cache: DynamicCache | None = None) -> list[Tensor]:
    """Logits of a prompt of five tokens and of four more."""
    ids = torch.randint(50, (sequences, 9), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache() if cache is None else cache
    found = [model(input_ids=ids[:, :5], past_key_values=cache).logits]
    found += [
        model(input_ids=ids[:, at : at + 1], past_key_values=cache).logits for at in range(5, 9)
    ]
    return found


@pytest.mark.parametrize("sequences", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_as_the_layers_own(pool: Pool, name: str, dtype: torch.dtype, sequences: int) -> None:
    model = model_of(CONFIGS[name], dtype)
    expected = steps(model, sequences)
    assert len(attention_on_kernels(model, pool)) == 2
    cache = DynamicCache()
    got = steps(model, sequences, cache)
    assert all(type(layer) is GrowingLayer for layer in cache.layers)
    assert cache.get_seq_length() == 9
    for a, b in zip(got, expected, strict=True):
        close = 1e-5 if dtype == torch.float32 else 40 * torch.finfo(dtype).eps
        assert float((a - b).float().norm()) <= close * float(b.float().norm())


@pytest.fixture
def pair() -> tuple[PreTrainedModel, Pool]:
    made = open_pool(1)
    assert made is not None
    return model_of(CONFIGS["mixtral"], torch.float32), made


def test_long_contexts(pair: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = pair
    ids = torch.randint(50, (1, 300), generator=torch.Generator().manual_seed(2))
    expected = model(input_ids=ids).logits[:, -1]
    assert attention_on_kernels(model, pool)
    cache = DynamicCache()
    model(input_ids=ids[:, :20], past_key_values=cache)
    for at in range(20, 300):
        got = model(input_ids=ids[:, at : at + 1], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_cache_that_others_change(pair: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = pair

    def play() -> list[Tensor]:
        cache = DynamicCache()
        found = steps(model, 2, cache)
        cache.reorder_cache(torch.tensor([1, 1]))
        found.append(model(input_ids=torch.tensor([[3], [4]]), past_key_values=cache).logits)
        cache.crop(-3)
        found.append(model(input_ids=torch.tensor([[5], [6]]), past_key_values=cache).logits)
        found.append(model(input_ids=torch.ones(2, 3).long(), past_key_values=cache).logits)
        cache.batch_select_indices(torch.tensor([0]))
        found.append(model(input_ids=torch.tensor([[7]]), past_key_values=cache).logits)
        return found

    expected = play()
    assert attention_on_kernels(model, pool)
    for a, b in zip(play(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_stays_with_the_layer(pair: tuple[PreTrainedModel, Pool]) -> None:
    """Padding, and someone who watches a projection, and other weights in a layer's place."""
    model, pool = pair
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(3))

    def play() -> Tensor:
        cache = DynamicCache()
        model(input_ids=ids[:, :8], attention_mask=mask[:, :8], past_key_values=cache)
        return model(input_ids=ids[:, 8:], attention_mask=mask, past_key_values=cache).logits

    expected = play()
    assert attention_on_kernels(model, pool)
    torch.testing.assert_close(play(), expected)
    seen: list[Tensor] = []
    watched = model.model.layers[0].self_attn.q_proj
    handle = watched.register_forward_hook(lambda _, __, out: seen.append(out))
    steps(model, 1)
    handle.remove()
    assert len(seen) == 5
    kept = watched.weight.data
    watched.weight.data = torch.zeros_like(kept)
    changed = steps(model, 1)[-1]
    del model.model.layers[0].self_attn.forward
    torch.testing.assert_close(changed, steps(model, 1)[-1], rtol=1e-4, atol=1e-5)


def test_a_cache_that_was_reset(pair: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = pair

    def play() -> list[Tensor]:
        cache = DynamicCache()
        steps(model, 1, cache)
        cache.reset()
        ids = torch.tensor([[3], [4], [5]])
        return [model(input_ids=each[None], past_key_values=cache).logits for each in ids]

    expected = play()
    assert attention_on_kernels(model, pool)
    for a, b in zip(play(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_positions_of_the_users_own(pair: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = pair
    asked = [torch.tensor([[40], [3]]), torch.tensor([[7]]), torch.tensor([[2.5], [-3.0]])]

    def play() -> list[Tensor]:
        cache = DynamicCache()
        steps(model, 2, cache)
        ids = torch.tensor([[3], [4]])
        return [model(input_ids=ids, position_ids=at, past_key_values=cache).logits for at in asked]

    expected = play()
    assert attention_on_kernels(model, pool)
    for a, b in zip(play(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_stay_possible(pair: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = pair
    assert attention_on_kernels(model, pool)
    cache = DynamicCache()
    model(input_ids=torch.ones(1, 3).long(), past_key_values=cache)
    embeds = torch.zeros(1, 1, 96, requires_grad=True)
    assert model(inputs_embeds=embeds, past_key_values=cache).logits.requires_grad


@pytest.mark.parametrize("refused", ["clip", "eager", "part"])
def test_layers_of_another_kind(refused: str) -> None:
    pool = open_pool(1)
    assert pool is not None
    config = OlmoeConfig(**SIZES, num_experts=2, clip_qkv=1.0 if refused == "clip" else None)
    model = model_of(config, torch.float32)
    if refused == "eager":
        model.set_attn_implementation("eager")
    if refused == "part":
        for layer in model.model.layers:
            layer.self_attn.register_parameter("sinks", nn.Parameter(torch.zeros(6)))
    assert attention_on_kernels(model, pool) == []


class Softer(MixtralAttention):
    """With a cap on what queries give keys, as nothing in its configuration says."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        def capped(_: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **__: Any):
            each = self.num_key_value_groups
            k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
            scores = q @ k.transpose(-1, -2) * self.scaling
            after = torch.ones(scores.shape[-2:]).tril(scores.shape[-1] - scores.shape[-2])
            scores = (50 * (scores / 50).tanh()).masked_fill(after == 0, -torch.inf)
            return (scores.softmax(-1) @ v).transpose(1, 2), None

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", capped)
            return super().forward(*args, **kwargs)


def test_a_cap_shows_however_small_the_weights() -> None:
    pool = open_pool(1)
    assert pool is not None
    model = model_of(CONFIGS["mixtral"], torch.float32)
    model.model.layers[1].self_attn.__class__ = Softer
    assert attention_on_kernels(model, pool) == [model.model.layers[0].self_attn]


class Louder(MixtralAttention):
    """Made of the same parts, but not the same."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        out, weights = super().forward(*args, **kwargs)
        return 1.1 * out, weights


def test_a_layer_that_answers_otherwise() -> None:
    pool = open_pool(1)
    assert pool is not None
    model = model_of(CONFIGS["mixtral"], torch.float32)
    model.model.layers[1].self_attn.__class__ = Louder
    assert attention_on_kernels(model, pool) == [model.model.layers[0].self_attn]
