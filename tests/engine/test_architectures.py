"""Every model file of transformers that uses the experts interface: parity, or a reason by name."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, LogitsProcessorList, PreTrainedModel

import fiddler_viz as fv
from engine import popularity
from engine.errors import InputError, UnsupportedModelError
from engine.hybrid import HybridEngine
from engine.policies import LIVE, POLICIES
from engine.routers import Routers
from engine.unsupported import UNCHUNKED, UNCHUNKED_BY_WINDOW, UNSUPPORTED
from tests.engine.tiny_models import (
    NOT_AHEAD,
    OWN,
    model_files,
    model_types,
    save_tiny,
    supported,
)
from tools import architectures

PROMPT = [3, 14, 15, 92, 65, 35]
NEW_TOKENS, FEW_TOKENS = 8, 3
"""Under Fiddler's policy; under each of the others."""
BUDGETS = ("0%", "50%", "100%")
CHUNK = 4
"""Tokens of a chunk of the prompt."""
AT_MOST = 1e-4


@pytest.fixture(autouse=True)
def short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popularity, "WINDOWS", 1)
    monkeypatch.setattr(popularity, "WINDOW_TOKENS", 32)


@pytest.mark.parametrize("kind", supported())
def test_architecture(tmp_path: Path, kind: str) -> None:
    """Prefill and greedy decode equal transformers' eager experts, wherever experts run."""
    plain = save_tiny(tmp_path / kind, kind)
    with torch.no_grad():
        exact = plain.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = plain(input_ids=exact.sequences).logits  # (1, T, V), all in one prefill
    engine = fv.load(tmp_path / kind, gpu_memory="0%")
    check_spec(engine, plain)
    check_routers(engine, exact.sequences, all_ahead=kind not in NOT_AHEAD)
    check_experts_matter(engine, exact.sequences, logits)
    for policy in LIVE:
        if POLICIES[policy].wants_predictions and not engine.session.foresight:
            with pytest.raises(InputError, match="can be foreseen"):
                engine.replan(policy=policy)
            continue
        tokens = NEW_TOKENS if policy == "fiddler" else FEW_TOKENS
        for budget in BUDGETS:
            engine.replan(policy=policy, gpu_memory=budget, cache_slots=0)
            if POLICIES[policy].admits:
                engine.replan(cache_slots=engine.plan.room // 2)
            check_parity(engine, exact, logits, tokens, f"{policy} at {budget}")
    check_chunks(engine, plain, exact)


def check_chunks(engine: HybridEngine, plain: PreTrainedModel, exact: Any) -> None:
    """A prompt in chunks gives the same logits, or is refused because it would not."""
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": FEW_TOKENS}
    kind = plain.config.model_type
    if kind not in UNCHUNKED:
        steps = Steps()
        run = engine.generate(
            PROMPT,
            prefill_chunk_tokens=CHUNK,
            logits_processor=LogitsProcessorList([steps]),
            **options,
        )
        assert run.trace.steps["tokens"].tolist() == [4, 2, 1, 1]
        assert list(run.tokens[0]) == exact.sequences[0, len(PROMPT) :].tolist()[:FEW_TOKENS]
        for step, expected in zip(steps.logits, exact.logits, strict=False):
            assert (step - expected).abs().max().item() <= AT_MOST
        return
    with pytest.raises(InputError, match=rf"a {kind} cannot .*Leave prefill_chunk_tokens out"):
        engine.generate(PROMPT, prefill_chunk_tokens=CHUNK, **options)
    steps = Steps()
    try:  # so it is with transformers alone
        plain.generate(
            torch.tensor([PROMPT]),
            prefill_chunk_size=CHUNK,
            logits_processor=LogitsProcessorList([steps]),
            **options,
        )
    except ValueError as error:
        assert "chunking" in str(error)
    else:
        assert (steps.logits[0] - exact.logits[0]).abs().max().item() > 100 * AT_MOST


class Steps:
    """A processor of logits that only keeps them."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores)
        return scores


@pytest.mark.parametrize("kind", UNCHUNKED_BY_WINDOW)
def test_chunks_are_refused_where_the_cache_has_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The attention of these types has none: in transformers alone chunks change the output."""
    text = CONFIG_MAPPING[kind]().get_text_config().model_type
    monkeypatch.setitem(OWN, text, {"sliding_window": 4})
    plain = save_tiny(tmp_path, kind)
    chunked, whole = Steps(), Steps()
    for steps, size in ((whole, None), (chunked, CHUNK)):
        plain.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=1,
            do_sample=False,
            prefill_chunk_size=size,
            logits_processor=LogitsProcessorList([steps]),
        )
    assert (chunked.logits[0] - whole.logits[0]).abs().max().item() > 100 * AT_MOST
    engine = fv.load(tmp_path, gpu_memory="50%")
    with pytest.raises(InputError, match=f"a {kind} cannot .* sliding_window"):
        engine.generate(PROMPT, 1, prefill_chunk_tokens=CHUNK)


def check_parity(
    engine: HybridEngine, exact: Any, logits: torch.Tensor, tokens: int, what: str
) -> None:
    """Of all logits of a prefill, the logits of each decode step, and the greedy tokens."""
    with torch.no_grad():
        ours = engine.model(input_ids=exact.sequences).logits
    assert (ours - logits).abs().max().item() <= AT_MOST, what
    steps = Steps()
    run = engine.generate(
        PROMPT, tokens, do_sample=False, logits_processor=LogitsProcessorList([steps])
    )
    assert list(run.tokens[0]) == exact.sequences[0, len(PROMPT) :].tolist()[:tokens], what
    for step, expected in zip(steps.logits, exact.logits[:tokens], strict=True):
        assert (step - expected).abs().max().item() <= AT_MOST, what


def check_spec(engine: HybridEngine, plain: PreTrainedModel) -> None:
    """The spec's bytes are the model's, counted another way."""
    spec, weights = engine.model_spec, engine.session.store.weights(0, 0)
    assert spec.total_bytes == 4 * sum(part.numel() for part in plain.parameters())
    assert spec.hidden * spec.expert_width == weights.down.numel()
    text = plain.config.get_text_config()
    assert spec.layers <= text.num_hidden_layers
    assert spec.kv_bytes_per_token > 0
    assert spec.head_bytes == 4 * plain.get_output_embeddings().weight.numel()


def check_experts_matter(engine: HybridEngine, tokens: torch.Tensor, logits: torch.Tensor) -> None:
    """Without its experts the model says something else: parity is no accident."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(engine.session, "layer", lambda _, hidden, *__: torch.zeros_like(hidden))
        without = engine.model(input_ids=tokens).logits
    assert (without - logits).abs().max().item() > 100 * AT_MOST


def check_routers(engine: HybridEngine, tokens: torch.Tensor, *, all_ahead: bool) -> None:
    """A router, called on what its layer saw, chooses what the layer chose."""
    routers = Routers(engine.session.store)
    ahead = [layer for layer in range(len(routers)) if routers.why_not(layer) is None]
    assert ahead
    assert (len(ahead) == len(routers)) == all_ahead
    seen: dict[int, torch.Tensor] = {}
    chosen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [routers[layer].watch(partial(seen.__setitem__, layer)) for layer in ahead]
    real = engine.session.layer

    def layer(number: int, hidden: Any, index: Any, weights: Any) -> torch.Tensor:
        chosen[number] = (hidden, index)
        return real(number, hidden, index, weights)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(engine.session, "layer", layer)
        engine.model(input_ids=tokens)
    for handle in handles:
        handle.remove()
    for number in range(len(routers)):
        if number not in ahead:
            with pytest.raises(UnsupportedModelError, match="cannot be asked ahead"):
                routers[number]
            continue
        hidden, index = chosen[number]
        guess, scores = routers[number](seen[number])
        assert torch.equal(guess, index)
        assert (scores.shape, scores.dtype) == (
            (len(index), engine.model_spec.experts),
            torch.float32,
        )
        assert scores.min() >= 0 and scores.sum(dim=-1).max() <= 1 + 1e-4
        if routers[number].same_input:
            assert torch.equal(seen[number], hidden)


def test_every_model_file_is_supported_or_has_a_reason() -> None:
    run = set(supported())
    for name, source in model_files().items():
        kinds = model_types(source) or [name]
        assert all((kind in run) != (kind in UNSUPPORTED) for kind in kinds), name


@pytest.mark.parametrize("kind", list(UNSUPPORTED))
def test_what_cannot_run_says_why(tmp_path: Path, kind: str) -> None:
    assert kind in CONFIG_MAPPING
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    why = f"{kind} is not supported: {re.escape(UNSUPPORTED[kind])}"
    with pytest.raises(UnsupportedModelError, match=why):
        fv.load(tmp_path)


@pytest.mark.skipif(
    transformers.__version__ not in architectures.PAGE.read_text("utf-8"),
    reason="the page is of another transformers",
)
def test_the_page_lists_them() -> None:
    assert architectures.PAGE.read_text("utf-8") == architectures.page(), (
        "run python tools/architectures.py"
    )
