"""Small traces for the tests of figures: made-up routing, replayed by the engine itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.events import STEPS, TOKENS, empty
from engine.happened import Recorded
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from engine.trace import Trace

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
"""A token that must never become markup."""


def toy_model(layers: int = 3, experts: int = 4, top_k: int = 2) -> ModelSpec:
    base = ModelSpec.preset("mixtral-8x7b")
    return replace(base, name="toy", layers=layers, experts=experts, top_k=top_k)


def toy_trace(
    *,
    prompt_tokens: int = 5,
    decode_tokens: int = 6,
    policy: str = "fiddler",
    cache_slots: int = 0,
    model: ModelSpec | None = None,
    gpu_memory: str = "50%",
) -> Trace:
    """A trace with a text for every token and a last token that was sampled, never processed."""
    trace = synthetic_trace(
        model or toy_model(),
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        policy=policy,
        cache_slots=cache_slots,
        gpu_memory=gpu_memory,
    )
    many = len(trace.token_rows)
    last = np.array([[-1, 0, 0, many, 7, many - 1]])
    words = ["To", " be", ",", "\n", HOSTILE, " $x$", "%{x}", "  "]
    total = len(trace.token_rows) + 1
    return replace(
        trace,
        token_rows=np.concatenate([trace.token_rows, last]),
        texts=tuple(words[i % len(words)] for i in range(total)),
    )


def empty_trace(model: ModelSpec | None = None) -> Trace:
    """A plan, and nothing that ran."""
    full = toy_trace(model=model)
    none = np.zeros(0, np.int32)
    top_k = full.model.top_k
    nothing = Routing(
        none, none, none, np.zeros((0, top_k), np.int16), np.zeros((0, top_k), np.float32)
    )
    return replace(
        full,
        routing=nothing,
        step_rows=empty(STEPS),
        token_rows=empty(TOKENS),
        happened=Recorded.nothing(),
        texts=(),
    )
