"""A module that kernels took over, changed by its user: what counts is what it is now."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    DynamicCache,
    MixtralConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine import dense
from engine.kernels import open_pool
from engine.native.build import compiler
from engine.takeover import Found, is_taken, take_over, usual

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")

CONFIG = MixtralConfig(
    hidden_size=96,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=64,
    vocab_size=50,
    num_local_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Adapted(nn.Module):
    """A layer with something added to what it gives, as adapters do."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.added = base, nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.added


def loud_attention(module: nn.Module, *args: Tensor, **kwargs: object) -> tuple[Tensor, None]:
    out, _ = sdpa_attention_forward(module, *args, **kwargs)
    return 2 * out, None


def doubled(part: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(2 * part, requires_grad=False)


def attention_of(model: PreTrainedModel) -> list[nn.Module]:
    return [layer.self_attn for layer in model.model.layers]


def give_projection(model: PreTrainedModel) -> None:
    for module in attention_of(model):
        module.q_proj.weight = doubled(module.q_proj.weight)


def adapt_projection(model: PreTrainedModel) -> None:
    for module in attention_of(model):
        module.v_proj = Adapted(module.v_proj)


def parametrise_projection(model: PreTrainedModel) -> None:
    parametrize.register_parametrization(attention_of(model)[0].k_proj, "weight", Twice())


def replace_forward(model: PreTrainedModel) -> None:
    part = attention_of(model)[0].v_proj
    before = part.forward
    part.forward = lambda x: 2 * before(x)


def others(model: PreTrainedModel) -> dict[str, Tensor]:
    """Other weights of the same size: larger ones make attention sharper, and that makes more of
    how a sum was rounded than the bound allows for."""
    return {name: part.roll(1, 0) for name, part in model.state_dict().items()}


def assign_all(model: PreTrainedModel) -> None:
    model.load_state_dict(others(model), assign=True)


def load_all(model: PreTrainedModel) -> None:
    model.load_state_dict(others(model))


def give_norm(model: PreTrainedModel) -> None:
    model.model.norm.weight = doubled(model.model.norm.weight)


def give_head(model: PreTrainedModel) -> None:
    model.lm_head.weight = doubled(model.lm_head.weight)


def give_routers(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        layer.mlp.gate.weight = nn.Parameter(-layer.mlp.gate.weight, requires_grad=False)


def fewer_experts(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        layer.mlp.gate.top_k = 1


def other_scale(model: PreTrainedModel) -> None:
    for module in attention_of(model):
        module.scaling = 2.0


def other_epsilon(model: PreTrainedModel) -> None:
    model.model.norm.variance_epsilon = 1.0


def other_attention(model: PreTrainedModel) -> None:
    AttentionInterface.register("loud_for_a_test", loud_attention)
    model.set_attn_implementation("loud_for_a_test")


def in_bfloat16(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16)


def norm_in_bfloat16(model: PreTrainedModel) -> None:
    model.model.norm.to(torch.bfloat16)


CHANGES: list[Callable[[PreTrainedModel], None]] = [
    *(give_projection, adapt_projection, parametrise_projection, replace_forward, assign_all),
    *(load_all, give_norm, give_head, give_routers, fewer_experts, other_scale, other_epsilon),
    *(other_attention, in_bfloat16, norm_in_bfloat16),
]


@pytest.fixture(autouse=True)
def all_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "LEAST_BYTES", 0)


@pytest.fixture
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same twice; the second on the kernels."""
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32).eval()
    for name, part in plain.requires_grad_(False).named_parameters():
        noise = torch.randn_like(part)
        part.copy_(noise / part.shape[-1] ** 0.5 if part.ndim > 1 else part + 0.1 * noise)
        assert "bias" not in name
    ours = copy.deepcopy(plain)
    assert len(dense.onto_kernels(ours, open_pool(1))) > 10
    return plain, ours


def answer(model: PreTrainedModel) -> Tensor:
    """Logits of a prompt, and of two steps."""
    ids = torch.tensor([[3, 14, 15, 9, 26, 5]])
    cache = DynamicCache()
    found = [model(input_ids=ids[:, :4], past_key_values=cache).logits]
    found += [model(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in (4, 5)]
    return torch.cat(found, 1).float()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_it_is_now_counts(
    models: tuple[PreTrainedModel, PreTrainedModel], change: Callable[[PreTrainedModel], None]
) -> None:
    plain, ours = models
    before = answer(plain)
    torch.testing.assert_close(answer(ours), before, rtol=1e-4, atol=1e-5)
    for model in models:
        change(model)
    after = answer(plain)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(answer(ours), after, rtol=1e-4, atol=1e-5)


def test_autocast_is_as_with_the_modules_own(
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ours = map(answer, models)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate", "model.norm", "lm_head"],
)
def test_a_part_alone_can_be_trained(
    models: tuple[PreTrainedModel, PreTrainedModel], name: str
) -> None:
    gradients = []
    for model in models:
        weight = model.get_submodule(name).weight.requires_grad_(True)
        answer(model)[:, -1].square().sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_copies_run_their_own_code(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    plain, ours = models
    x = torch.randn(1, 1, 96)
    for name in ("model.norm", "model.layers.0.mlp.gate", "lm_head"):
        mine, expected = ours.get_submodule(name), plain.get_submodule(name)
        assert is_taken(mine)
        for made in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
            for each in (made, changed := copy.deepcopy(expected)):
                each.weight.mul_(2)
            got, wanted = made(x), changed(x)
            torch.testing.assert_close(got, wanted)
            assert not torch.equal(mine.weight, made.weight)
    other = copy.deepcopy(ours)
    for part in other.parameters():
        part.copy_(part.roll(1, 0))
    torch.testing.assert_close(answer(ours), answer(plain), rtol=1e-4, atol=1e-5)
    load_all(plain)
    torch.testing.assert_close(answer(other), answer(plain), rtol=1e-4, atol=1e-5)


def test_hidden_states_that_are_not_theirs_raise_as_in_the_modules_own(
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    _, ours = models
    for wrong in (torch.randn(1, 1, 95), torch.randn(1, 1, 96, device="meta")):
        with pytest.raises(RuntimeError):
            ours.lm_head(wrong).tolist()


def test_found_and_changed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    found = Found(module)
    assert found.still()
    handle = module[0].register_forward_hook(lambda *_: None)
    assert not found.still()
    handle.remove()
    assert found.still()
    module[0].weight.requires_grad_(True)
    assert not found.still()
    with torch.no_grad():
        assert found.still()
    module.requires_grad_(False)
    module.train(False)
    assert not found.still()
    found = Found(module)
    module[1].running_mean = torch.ones(4)
    assert not found.still()


def test_its_own_code_stays_at_hand() -> None:
    module = nn.ReLU()
    take_over(module, lambda x: x + 1)
    one = -torch.ones(1)
    assert is_taken(module) and module(one) == 0 and usual(module)(2 * one) == 0
    assert module(2 * one) == -1
