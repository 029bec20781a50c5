"""Every way to generate, under every policy: what transformers computes, and replays that agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import fiddler_viz as fv
from engine.hybrid import HybridEngine
from engine.policies import POLICIES
from engine.replay import replay
from engine.run import Run
from fiddler_viz import demo

TEXTS = ["ROMEO:\nBut soft, what light", "def main(", "En el principio"]
LONG = " ".join(TEXTS) * 9
CHAT = [{"role": "user", "content": "Who is Juliet?"}]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LIVE = [name for name, policy in POLICIES.items() if getattr(policy, "live", True)]
SHARES = (0.0, 0.1, 0.5)
"""Of the room for experts, cache slots: none, too few for one token, half."""


@dataclass(frozen=True)
class Scenario:
    """One way to generate."""

    prompt: Any
    new_tokens: int
    options: dict[str, Any]
    """For transformers and the engine."""
    ours: dict[str, Any] = field(default_factory=dict[str, Any])
    """For the engine alone."""

    def exact(self, model: PreTrainedModel, tokenizer: Any) -> list[list[int]]:
        """Tokens of transformers' own experts, without the prompt."""
        if isinstance(self.prompt[0], dict):
            made = tokenizer.apply_chat_template(
                self.prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            made = tokenizer(self.prompt, return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(self.ours.get("seed", 0))
        ids, mask = made["input_ids"], made["attention_mask"]
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=self.new_tokens, **self.options
        )
        return out[:, ids.shape[1] :].tolist()

    def run(self, engine: HybridEngine) -> Run:
        return engine.generate(self.prompt, self.new_tokens, **self.options, **self.ours)


GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.2, "top_p": 0.9}
ENDS = {"eos_token_id": [0, 13, 16]}  # newline, comma: texts end at different steps
SCENARIOS = {
    "single": Scenario(TEXTS[0], 8, GREEDY),
    "batch": Scenario(TEXTS, 8, GREEDY | ENDS),
    "chunks": Scenario(LONG, 4, GREEDY, {"prefill_chunk_tokens": 64}),
    "chunked-batch": Scenario(TEXTS, 4, GREEDY, {"prefill_chunk_tokens": 3}),
    "beams": Scenario(TEXTS[:2], 8, GREEDY | ENDS | {"num_beams": 4, "num_return_sequences": 2}),
    "sampling": Scenario(TEXTS[:2], 6, SAMPLED | {"num_return_sequences": 3}, {"seed": 7}),
    "chat": Scenario(CHAT, 6, GREEDY),
}


@pytest.fixture(scope="module")
def wide() -> HybridEngine:
    """The demo model with room for eight sequences and a chat template."""
    engine = fv.load("demo", as_model=demo.COSTED_AS, gpu_memory="40GB", max_sequences=8)
    engine.tokenizer.chat_template = TEMPLATE
    return engine


@pytest.fixture(scope="module")
def plain() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        demo.model_folder(), dtype=torch.float32, experts_implementation="eager"
    ).eval()


def assert_replays(run: Run) -> None:
    """0 differences, and the same hit rate."""
    trace = run.trace.check()
    again = replay(trace).trace
    for name in ("step_rows", "token_rows", "work_rows", "move_rows"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name), err_msg=name)
    assert again.summary == trace.summary


@pytest.fixture(scope="module", params=SCENARIOS)
def expected(
    request: pytest.FixtureRequest, wide: HybridEngine, plain: PreTrainedModel
) -> tuple[Scenario, list[list[int]]]:
    scenario = SCENARIOS[request.param]
    return scenario, scenario.exact(plain, wide.tokenizer)


@pytest.mark.parametrize("policy", LIVE)
def test_outputs_and_replays(
    expected: tuple[Scenario, list[list[int]]], wide: HybridEngine, policy: str
) -> None:
    scenario, tokens = expected
    wide.replan(policy=policy, cache_slots=0)
    for share in SHARES if POLICIES[policy].admits else (0.0,):
        wide.replan(cache_slots=round(share * wide.plan.room))
        run = scenario.run(wide)
        assert [list(row) for row in run.tokens] == tokens, share
        assert_replays(run)
