"""The executor against transformers' eager experts where a token names one expert twice.

Routers that take the top-k cannot do that. One that looks experts up by token id can
(``deepseek_v4``, whose table is part of the checkpoint), and nobody checks its table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import fiddler_viz as fv
from engine import popularity
from engine.decision import Decision
from engine.devices import VirtualDevice
from engine.events import Action
from engine.executor import Executor, active_experts, added_up
from engine.hybrid import HybridEngine
from engine.loader import load_model
from engine.policies import LIVE
from engine.replay import replay
from engine.store import ExpertStore
from engine.trace import Trace
from tests.engine.tiny_models import save_tiny

PROMPT = [3, 14, 15, 92, 65, 35]
POLICIES = [name for name, policy in LIVE.items() if not policy.wants_predictions]
AT_MOST = 1e-4


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_active_experts_and_their_weights(tokens: int) -> None:
    """Against a plain loop; 4 choices of 5 experts are rarely four different ones."""
    rng = np.random.default_rng(tokens)
    for _ in range(200):
        chosen = rng.integers(5, size=(tokens, 4))
        routed = rng.random((tokens, 4), dtype=np.float32)
        pairs = list(zip(chosen.ravel().tolist(), routed.ravel().tolist(), strict=True))
        experts, counts = active_experts(chosen)
        assert experts == sorted({expert for expert, _ in pairs})
        assert counts == [sum(expert == other for other, _ in pairs) for expert in experts]
        sums = [sum(weight for other, weight in pairs if other == expert) for expert in experts]
        assert added_up(chosen, routed, experts) == pytest.approx(sums)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("chosen", [[[5, 2]], [[4, 4]], [[4, 4], [1, 4], [4, 1]]], ids=str)
def test_one_layer_is_what_eager_computes(
    tmp_path: Path, chosen: list[list[int]], action: Action
) -> None:
    """Each choice has a weight of its own, also of the same expert."""
    save_tiny(tmp_path, "mixtral")
    store = ExpertStore(load_model(tmp_path, "float32"))
    device = VirtualDevice(store)
    index = torch.tensor(chosen)  # (T, 2)
    hidden = torch.randn(len(index), 32)  # (T, H)
    weights = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])[: len(index)]
    experts, counts = active_experts(index.numpy())
    device.resize(len(experts))
    if action == Action.RESIDENT:
        for expert in experts:
            device.put(expert, store.weights(0, expert))
    many = len(experts)
    decision = Decision(8, experts, counts, [int(action)] * many, [False] * many)
    module = store.modules[0]
    module.config._experts_implementation = "eager"
    with torch.no_grad():
        out, spans = Executor(store, device).run(0, hidden, index, weights, decision)
        expected = module(hidden, index, weights)
    assert (out - expected).abs().max().item() <= 1e-6
    assert expected.abs().max().item() > 0.01
    assert len(spans) == many


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose table names one expert twice for two tokens of three."""
    folder = tmp_path_factory.mktemp("twice")
    plain = save_tiny(folder, "deepseek_v4")
    table = torch.tensor([[3, 3], [5, 0], [0, 0]])
    for name, part in plain.state_dict().items():
        if name.endswith("tid2eid"):
            part.copy_(table[torch.arange(len(part)) % 3])
    plain.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> HybridEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popularity, "WINDOWS", 1)
        patch.setattr(popularity, "WINDOW_TOKENS", 32)
        return fv.load(folder, gpu_memory="50%")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()


@pytest.mark.parametrize("policy", POLICIES)
def test_an_expert_named_twice_counts_twice(
    engine: HybridEngine, plain: PreTrainedModel, policy: str, tmp_path: Path
) -> None:
    """Logits of each decode step are eager's, and a replay of the file gives the run's events."""
    engine.replan(policy=policy, cache_slots=0)
    if LIVE[policy].admits:
        engine.replan(cache_slots=engine.plan.room // 2)
    run = engine.generate(PROMPT, 12, do_sample=False)
    routing = run.trace.routing
    assert (routing.experts[:, 0] == routing.experts[:, 1]).any()
    tokens = torch.tensor([[*PROMPT, *run.tokens[0]]])
    with torch.no_grad():
        expected = plain(tokens).logits  # (1, T, V)
        cache = engine.model(tokens[:, :1], use_cache=True)
        found = [cache.logits]
        for at in range(1, tokens.shape[1]):
            cache = engine.model(
                tokens[:, at : at + 1], past_key_values=cache.past_key_values, use_cache=True
            )
            found.append(cache.logits)
    assert (torch.cat(found, dim=1) - expected).abs().max().item() <= AT_MOST
    again = replay(Trace.load(run.trace.save(tmp_path / "run.safetensors"))).trace
    for name in ("step_rows", "work_rows", "move_rows"):
        ours, theirs = getattr(run.trace, name), getattr(again, name)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
