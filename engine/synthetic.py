"""Made-up routing with a set skew and locality, for grids and lengths that nobody here can run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.events import MOVES, STEPS, TOKENS, WORK, Clock, StepKind, empty
from engine.placement import make_plan
from engine.profile import Profile
from engine.replay import run_plans
from engine.spec import HardwareSpec, ModelSpec, resolve_model
from engine.strict import check_int, check_number
from engine.trace import Routing, Start, Trace


def synthetic_trace(
    model: str | ModelSpec,
    *,
    prompt_tokens: int = 32,
    decode_tokens: int = 256,
    skew: float = 0.3,
    locality: float = 0.3,
    seed: int = 0,
    gpu_memory: int | str | None = None,
    cache_slots: int | None = None,
    policy: str = "fiddler",
    hardware: str | HardwareSpec = "rtx-4090",
) -> Trace:
    """A trace of one made-up request, replayed under a plan.

    ``skew`` is the standard deviation of the experts' log-popularity in each layer; ``locality``
    is the strength with which the previous token's experts are preferred (both 0: uniform). The
    profile is counted on a second, independent draw of the same experts.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("decode_tokens", decode_tokens)):
        check_int(f"synthetic_trace, {name}", value, least=0)
    check_int("synthetic_trace, all tokens", prompt_tokens + decode_tokens, least=1)
    check_number("synthetic_trace, skew", skew, zero=True)
    model = resolve_model(model)
    rng = np.random.default_rng(seed)
    layers, experts = model.grid
    taste = rng.normal(0.0, skew, (layers, experts))

    def draw(tokens: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        chosen = np.empty((tokens, layers, model.top_k), dtype=np.int16)
        weights = np.empty((tokens, layers, model.top_k), dtype=np.float32)
        before = np.zeros((layers, experts))
        rows = np.arange(layers)[:, None]
        for token in range(tokens):
            # Gumbel top-k: a sample without replacement from softmax(taste + locality)
            score = taste + locality * before + rng.gumbel(size=(layers, experts))
            best = np.argsort(-score, axis=1)[:, : model.top_k]
            power = np.exp(np.take_along_axis(score, best, axis=1))
            chosen[token], weights[token] = best, power / power.sum(axis=1, keepdims=True)
            before = np.zeros((layers, experts))
            before[rows, best] = 1.0
        return chosen, weights

    total = prompt_tokens + decode_tokens
    chosen, weights = draw(total)
    seen, _ = draw(max(total, 64))
    flat = np.arange(layers)[:, None] * experts + seen
    counts = np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)
    plan = make_plan(
        model,
        hardware,
        Profile.of(counts, len(seen), "a second draw of the same made-up routing"),
        gpu_memory=gpu_memory,
        cache_slots=cache_slots,
        policy=policy,
        max_tokens=max(4096, total),
    )
    sizes = np.array([prompt_tokens] * (prompt_tokens > 0) + [1] * decode_tokens)
    step = np.arange(len(sizes))
    first = np.cumsum(sizes) - sizes
    step_rows = np.zeros((len(sizes), len(STEPS.names or ())), dtype=np.int64)
    kind = np.where(first < prompt_tokens, int(StepKind.PREFILL), int(StepKind.DECODE))
    for column, values in enumerate((step, kind, sizes, 1, first + sizes, first, 0, 1)):
        step_rows[:, column] = values
    step_rows[:, -1] = Clock.MODELLED
    of_token = np.repeat(step, sizes)
    token_rows = np.zeros((total, len(TOKENS.names or ())), dtype=np.int64)
    position = np.arange(total)
    for column, values in enumerate((of_token, 0, 0, position, 0, position - 1)):
        token_rows[:, column] = values
    # rows in the order run: step, then layer, then token
    spans = zip(step.tolist(), first.tolist(), sizes.tolist(), strict=True)
    rows: list[tuple[int, NDArray[np.int64]]] = [(s, np.arange(f, f + n)) for s, f, n in spans]
    routing = Routing(
        step=np.concatenate([np.full(layers * len(t), s, np.int32) for s, t in rows]),
        layer=np.concatenate([np.repeat(np.arange(layers), len(t)) for _, t in rows]).astype("i4"),
        token=np.concatenate([np.tile(t, layers) for _, t in rows]).astype(np.int32),
        experts=np.concatenate(
            [chosen[t].swapaxes(0, 1).reshape(-1, model.top_k) for _, t in rows]
        ),
        weights=np.concatenate(
            [weights[t].swapaxes(0, 1).reshape(-1, model.top_k) for _, t in rows]
        ),
    )
    bare = Trace(
        model=model,
        routing=routing,
        step_rows=step_rows,
        token_rows=token_rows,
        work_rows=empty(WORK),
        move_rows=empty(MOVES),
        plan_list=((0, plan),),
        meta={"synthetic": {"skew": skew, "locality": locality, "seed": seed}, "ended": "length"},
    )
    return run_plans(bare, bare.plan_list, Start())
