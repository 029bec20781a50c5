from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers.models.aria.modeling_aria import AriaExperts
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from engine.expert_kernel import ExpertKernel, measured_switch
from engine.gate import Gate, find_gate
from engine.kernels import Act, Pool
from engine.native.build import compiler
from engine.store import ExpertStore, ExpertWeights

needs_kernels = pytest.mark.skipif(compiler() is None, reason="no C compiler")

HIDDEN, INNER, EXPERTS = 96, 72, 4
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": INNER,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS,
    "moe_latent_size": None,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "mlp_hidden_act": "relu2",
    "hidden_act": "silu",
}
FOUND = {
    MixtralExperts: Gate(Act.SWISH),
    GptOssExperts: Gate(Act.SWISH, 1.702, 1.0, 7.0, interleaved=True),
    DeepseekV4Experts: Gate(Act.SWISH, limit=7.0),
    AriaExperts: Gate(Act.SWISH),
    NemotronHExperts: Gate(Act.RELU2),
}


def experts(
    kind: type[nn.Module], dtype: torch.dtype = torch.float32, **sizes: object
) -> nn.Module:
    module = kind(SimpleNamespace(**{**SIZES, **sizes}))
    torch.manual_seed(0)
    for part in module.parameters():
        nn.init.normal_(part, std=0.1)
    return module.to(dtype).requires_grad_(False)


def weights(module: nn.Module, expert: int) -> ExpertWeights:
    fused = ExpertStore._of(module)
    return ExpertWeights(*(None if part is None else part[expert] for part in fused))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.close()


@pytest.mark.parametrize("kind", FOUND)
def test_the_module_s_own_gate_is_found(kind: type[nn.Module]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert find_gate(experts(kind, dtype)) == FOUND[kind]


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("gelu", Gate(Act.GELU)),
        ("gelu_pytorch_tanh", Gate(Act.GELU_TANH)),
        ("gelu_new", Gate(Act.GELU_TANH)),
        ("quick_gelu", Gate(Act.SWISH, 1.702)),
        ("relu", Gate(Act.RELU)),
        ("relu2", Gate(Act.RELU2)),
        ("swish", Gate(Act.SWISH)),
        ("mish", None),
        ("leaky_relu", None),
        ("tanh", None),
        ("linear", None),
    ],
)
def test_activations_by_what_they_answer(name: str, gate: Gate | None) -> None:
    assert find_gate(experts(MixtralExperts, hidden_act=name)) == gate
    assert find_gate(experts(NemotronHExperts, mlp_hidden_act=name)) == gate


def test_a_gate_that_is_none_of_ours_is_not_taken() -> None:
    module = experts(MixtralExperts)
    for wrong in (
        lambda h: torch.tanh(h.chunk(2, -1)[0]) * h.chunk(2, -1)[1],
        lambda h: h.chunk(2, -1)[0] * nn.functional.silu(h.chunk(2, -1)[1]),  # halves swapped
        lambda h: nn.functional.silu(h.chunk(2, -1)[0]).clamp(max=7) * h.chunk(2, -1)[1],
        lambda h: 2 * nn.functional.silu(h.chunk(2, -1)[0]) * h.chunk(2, -1)[1],
    ):
        module._apply_gate = wrong
        assert find_gate(module) is None


def reference(
    module: nn.Module, hidden: Tensor, groups: list[tuple[int, Tensor | None, Tensor | None]]
) -> Tensor:
    """transformers' own forward, in float64, one expert at a time."""
    double = type(module)(module.config)
    double.load_state_dict(module.state_dict())
    double = double.double().requires_grad_(False)
    module.config._experts_implementation = "eager"
    out = torch.zeros(hidden.shape, dtype=torch.float64)
    for expert, tokens, by in groups:
        tokens = torch.arange(len(hidden)) if tokens is None else tokens
        by = torch.ones(len(tokens)) if by is None else by
        index = torch.full((len(tokens), 1), expert)
        y = double(hidden[tokens].double(), index, by.double()[:, None])
        out.index_add_(0, tokens, y)
    return out


@needs_kernels
@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("switch", [None, 3, 0])
def test_a_module_s_experts(
    kind: type[nn.Module], dtype: torch.dtype, switch: int | None, pool: Pool
) -> None:
    """On the kernels, on torch beyond the switch, or on both."""
    module = experts(kind, dtype)
    kernel = ExpertKernel.of(module, weights(module, 0), pool, switch_tokens=switch)
    assert kernel is not None
    hidden = torch.randn(6, HIDDEN).to(dtype)
    groups = [
        (0, None, None),
        (3, torch.tensor([5, 0]), torch.tensor([0.25, 0.75])),
        (1, torch.tensor([], dtype=torch.int64), torch.tensor([])),
    ]
    start = torch.randn(6, HIDDEN)
    out = start.clone()
    kernel.run(hidden, [(weights(module, e), t, by) for e, t, by in groups], out)
    want = reference(module, hidden, groups)
    error = ((out - start - want) ** 2).sum() / (want**2).sum()
    assert error <= {torch.float32: 1e-7, torch.bfloat16: 5e-4, torch.float16: 1e-6}[dtype]


@needs_kernels
def test_what_does_not_fit_is_left_to_torch(pool: Pool) -> None:
    module = experts(MixtralExperts)
    first = weights(module, 0)
    assert ExpertKernel.of(module, first, pool) is not None
    assert ExpertKernel.of(module, first, None) is None
    other = ExpertWeights(first.up.double(), first.down.double())
    assert ExpertKernel.of(module, other, pool) is None
    mixed = ExpertWeights(first.up, first.down.half())
    assert ExpertKernel.of(module, mixed, pool) is None
    turned = ExpertWeights(first.up.T.contiguous().T, first.down)
    assert ExpertKernel.of(module, turned, pool) is None
    module.has_post_expert_norm = True
    assert ExpertKernel.of(module, first, pool) is None
    assert ExpertKernel.of(experts(MixtralExperts, hidden_act="mish"), first, pool) is None


@needs_kernels
def test_the_switch_is_measured(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = experts(MixtralExperts)
    kernel = ExpertKernel.of(module, weights(module, 0), pool)
    assert kernel is not None
    now = [0.0]
    costs = {"kernel": 1.0, "torch": 1.0}
    monkeypatch.setattr("engine.expert_kernel.time.perf_counter", lambda: now[0])

    def pay(name: str, tokens: int) -> None:
        now[0] += costs[name] * (tokens if name == "kernel" else 100)

    monkeypatch.setattr(ExpertKernel, "run", lambda _, x, *__: pay("kernel", len(x)))
    monkeypatch.setattr(ExpertKernel, "run_torch", lambda _, x, *__: pay("torch", len(x)))
    some = [weights(module, e) for e in range(EXPERTS)]
    assert measured_switch(kernel, some, (16, 32, 64, 128, 256, 512)) == 64
    costs["kernel"] = 100.0
    assert measured_switch(kernel, some, (16, 32, 64)) == 0
    costs["kernel"] = 0.01
    assert measured_switch(kernel, some, (16, 32, 64)) is None
