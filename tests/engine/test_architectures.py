"""Every model file of transformers that uses the experts interface: parity, or a reason by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny_models import VOCABULARY, model_files, model_types, save_tiny
from transformers import LogitsProcessorList, PreTrainedModel

import fiddler_viz as fv
from engine import popularity
from engine.errors import UnsupportedModelError
from engine.hybrid import HybridEngine
from engine.policies import POLICIES
from engine.routers import Routers
from engine.unsupported import UNSUPPORTED

PROMPT = [3, 14, 15, 92, 65, 35]
NEW_TOKENS = 8
BUDGETS = ("0%", "50%", "100%")
LIVE = [name for name, policy in POLICIES.items() if getattr(policy, "live", True)]

FILES = model_files()
SUPPORTED = [
    kind
    for source in FILES.values()
    for kind in dict.fromkeys(model_types(source) + model_types(source, images=True))
    if kind not in UNSUPPORTED
]


@pytest.fixture(autouse=True)
def short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popularity, "WINDOWS", 1)
    monkeypatch.setattr(popularity, "WINDOW_TOKENS", 32)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_parity(tmp_path: Path, kind: str) -> None:
    plain = save_tiny(tmp_path / kind, kind)
    ids = torch.tensor([PROMPT])
    settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    with torch.no_grad():
        exact = plain.generate(
            ids, output_logits=True, return_dict_in_generate=True, **settings
        )
        logits = plain(input_ids=exact.sequences).logits  # (1, T, V), a prefill
    engine = fv.load(tmp_path / kind, gpu_memory="0%")
    assert engine.tokenizer is None
    check_spec(engine, plain)
    check_routers(engine, exact.sequences)
    for policy in LIVE:
        for budget in BUDGETS:
            engine.replan(policy=policy, gpu_memory=budget, cache_slots=0)
            if POLICIES[policy].admits:
                engine.replan(cache_slots=engine.plan.room // 2)
            with torch.no_grad():
                ours = engine.model(input_ids=exact.sequences).logits
            assert (ours - logits).abs().max().item() <= 1e-4, (policy, budget)
            seen: list[torch.Tensor] = []
            keep = LogitsProcessorList([lambda _, scores, to=seen: to.append(scores) or scores])
            run = engine.generate(PROMPT, logits_processor=keep, **settings)
            assert list(run.tokens[0]) == exact.sequences[0, len(PROMPT) :].tolist()
            for at, step in enumerate(seen):
                assert (step - exact.logits[at]).abs().max().item() <= 1e-4, (policy, budget, at)


def check_spec(engine: HybridEngine, plain: PreTrainedModel) -> None:
    """The bytes of the spec are those of the model; the KV cache grows by what the spec says."""
    spec = engine.model_spec
    assert spec.total_bytes == 4 * sum(part.numel() for part in plain.parameters())
    assert spec.routed_bytes == engine.session.store.n_bytes
    assert spec.hidden * spec.expert_width in {
        part.numel() for part in engine.session.store.weights(0, 0).parts
    }


def check_routers(engine: HybridEngine, tokens: torch.Tensor) -> None:
    """A router, called on what its layer saw, chooses what the layer chose."""
    routers = Routers(engine.session.store)
    callable_ = [layer for layer in range(len(routers)) if routers.get(layer) is not None]
    seen: dict[int, torch.Tensor] = {}
    handles = [routers[layer].watch(partial(seen.__setitem__, layer)) for layer in callable_]
    chosen: dict[int, torch.Tensor] = {}
    original = engine.session.layer

    def layer(number: int, hidden: Any, index: Any, weights: Any) -> torch.Tensor:
        chosen[number] = index
        if number in seen and routers[number].same_input:
            assert torch.equal(seen[number], hidden)
        return original(number, hidden, index, weights)

    engine.session.layer = layer  # type: ignore[method-assign]
    with torch.no_grad():
        engine.model(input_ids=tokens)
    del engine.session.layer
    for handle in handles:
        handle.remove()
    for number in range(len(routers)):
        if number not in callable_:
            with pytest.raises(UnsupportedModelError, match="cannot be asked ahead"):
                routers[number]
            continue
        index, scores = routers[number](seen[number])
        assert torch.equal(index, chosen[number])
        assert scores.shape == (tokens.numel(), engine.model_spec.experts)
        assert scores.dtype == torch.float32
    print(len(callable_), len(routers), [routers.why_not(x) for x in range(len(routers)) if x not in callable_], [routers[x].same_input for x in callable_][:1])
