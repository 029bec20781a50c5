"""The hybrid engine computes what transformers computes, wherever the experts run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import fiddler_viz as fv
from engine.hybrid import HybridEngine
from engine.policies import LIVE
from fiddler_viz import demo

PROMPT = "ROMEO:\nBut soft, what light through yonder window breaks?\n"
BUDGETS = ("0%", "10%", "50%", "100%")
NEW_TOKENS = 64


def eager(dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        demo.model_folder(), dtype=dtype, experts_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def reference(loaded: HybridEngine) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' own greedy tokens (1, T) and the logits (1, T, V) along them."""
    model = eager(torch.float32)
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    with torch.no_grad():
        return tokens, model(tokens).logits


@pytest.fixture(params=[(p, b) for p in LIVE for b in BUDGETS], ids="-".join)
def planned(request: pytest.FixtureRequest, engine: HybridEngine) -> Iterator[HybridEngine]:
    policy, budget = request.param
    # half of the room as cache where the policy fills one, so that hits, admissions, evictions
    # and pinned experts all happen
    engine.replan(policy=policy, gpu_memory=budget, cache_slots=0)
    if LIVE[policy].admits:
        engine.replan(cache_slots=engine.plan.room // 2)
    yield engine


def test_logits_and_greedy_text(
    planned: HybridEngine, reference: tuple[torch.Tensor, torch.Tensor]
) -> None:
    tokens, logits = reference
    with torch.no_grad():
        ours = planned.model(tokens).logits  # (1, T, V)
    assert (ours - logits).abs().max().item() <= 1e-4
    run = planned.generate(PROMPT, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert list(run.tokens[0]) == tokens[0, -len(run.tokens[0]) :].tolist()
    assert len(run.tokens[0]) == NEW_TOKENS


def test_bfloat16() -> None:
    engine = fv.load("demo", dtype="bfloat16", gpu_memory="50%")
    model = eager(torch.bfloat16)
    ids = engine.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        exact = model(ids).logits.double()
        for policy in LIVE:
            engine.replan(policy=policy)
            ours = engine.model(ids).logits.double()
            nmse = ((ours - exact) ** 2).sum() / (exact**2).sum()
            assert nmse.item() <= 5e-4, policy


def test_host_device(reference: tuple[torch.Tensor, torch.Tensor]) -> None:
    tokens, logits = reference
    engine = fv.load("demo", device="host")
    with torch.no_grad():
        assert (engine.model(tokens).logits - logits).abs().max().item() <= 1e-4
    run = engine.generate(PROMPT, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert list(run.tokens[0]) == tokens[0, -NEW_TOKENS:].tolist()
    assert run.summary.clock == "measured"


def test_batch_and_beams() -> None:
    engine = fv.load("demo", gpu_memory="40%", policy="lru", max_sequences=4)
    model = eager(torch.float32)
    texts = ["To be, or not to be", "En el principio"]
    made = engine.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    exact = model.generate(**made, max_new_tokens=12, do_sample=False)
    run = engine.generate(texts, max_new_tokens=12, do_sample=False)
    assert [list(row) for row in run.tokens] == exact[:, -12:].tolist()

    ids = engine.tokenizer(texts[0], return_tensors="pt")["input_ids"]
    exact = model.generate(ids, max_new_tokens=12, do_sample=False, num_beams=4)
    run = engine.generate(texts[0], max_new_tokens=12, do_sample=False, num_beams=4)
    assert list(run.tokens[0]) == exact[0, ids.shape[1] :].tolist()
