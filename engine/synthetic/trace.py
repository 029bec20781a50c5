"""A trace of made-up routing: its requests, steps and rows, replayed under a plan."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.events import STEPS, TOKENS, Clock, StepKind
from engine.happened import Recorded
from engine.placement import make_plan
from engine.profile import Profile
from engine.replay import run_plans
from engine.routing import Routing
from engine.schemes import quantised_spec, scheme_named
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware, resolve_model
from engine.strict import check_number, plain, whole
from engine.synthetic.draw import Drawing, Router
from engine.synthetic.routing import SyntheticRouting
from engine.trace import Start, Trace

Ints = NDArray[np.int64]

_PROFILE_TOKENS = 2048
"""Tokens that the profile is counted on, at most: what an engine measures its own on."""


def synthetic_trace(
    model: str | ModelSpec,
    *,
    routing: SyntheticRouting | None = None,
    skew: float | Sequence[float] | None = None,
    locality: float | Sequence[float] | None = None,
    coupling: float | Sequence[float] | None = None,
    domains: int | None = None,
    contrast: float | None = None,
    requests: int = 1,
    prompt_tokens: int = 32,
    decode_tokens: int = 256,
    switch_tokens: int | None = None,
    accuracy: float | None = None,
    seed: int = 0,
    gpu_memory: int | str | None = None,
    cache_slots: int | None = None,
    policy: str = "fiddler",
    hardware: str | HardwareSpec = "rtx-4090",
    quantize: str | None = None,
) -> Trace:
    """A trace of made-up requests, one after the other, replayed under a plan.

    Routing is set by hand (``skew`` 0.3, ``locality`` 0.3, ``coupling`` 0, one domain, else of
    ``contrast`` 0.5; :class:`SyntheticRouting` says what they mean) or given as ``routing``, for
    example :meth:`SyntheticRouting.fit` of a recorded trace. Host memory is taken to hold all
    experts (``trace.model.routed_bytes``), whatever the machine has. Its profile is counted on a
    second, independent draw of the same experts, of all domains alike. The same arguments make the
    same trace.

    Args:
        model: a preset's name or a spec: the grid, and what it costs.
        requests: each begins anew with a prompt; domains take turns, request by request.
        prompt_tokens: of each request.
        decode_tokens: of each request.
        switch_tokens: the domain changes after so many tokens within a request, too.
        accuracy: share of each layer's experts that the layer before predicts, for policies that
            go by predictions; None: nothing is predicted.
        seed: which experts are popular, and the noise.
        gpu_memory, cache_slots, policy, hardware: as :func:`engine.placement.make_plan`.
        quantize: ``int8`` or ``int4``: with experts of fewer bytes, as such an engine has them.

    Raises:
        InputError: an argument out of range, or ``routing`` and one of its parameters.
        BudgetError: as :func:`engine.placement.make_plan`.
    """
    if domains is not None:
        domains = whole("synthetic_trace, domains", domains, least=1)
    accuracy = plain(accuracy)
    if accuracy is not None:
        check_number("synthetic_trace, accuracy", accuracy, zero=True)
    by_hand: dict[str, Any] = {"skew": skew, "locality": locality, "coupling": coupling}
    by_hand |= {"domains": domains, "contrast": contrast}
    given = {name: value for name, value in by_hand.items() if value is not None}
    if routing is None:
        usual: dict[str, Any] = {"skew": 0.3, "locality": 0.3}
        if given.get("domains", 1) != 1:
            usual["contrast"] = 0.5
        routing = SyntheticRouting.of(**usual | given)
    elif not isinstance(routing, SyntheticRouting):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            "synthetic_trace, routing: expected a SyntheticRouting, as SyntheticRouting.of() or "
            f".fit(trace) makes it, got {reprlib.repr(routing)}"
        )
    elif given:
        raise InputError(
            f"synthetic_trace: expected routing or its parameters, got routing and "
            f"{', '.join(given)}; change it by dataclasses.replace"
        )
    prompt_tokens = whole("synthetic_trace, prompt_tokens", prompt_tokens, least=0)
    decode_tokens = whole("synthetic_trace, decode_tokens", decode_tokens, least=0)
    each = whole("synthetic_trace, all tokens", prompt_tokens + decode_tokens, least=1)
    requests = whole("synthetic_trace, requests", requests, least=1)
    seed = whole("synthetic_trace, seed", seed, least=0)
    if switch_tokens is not None:
        switch_tokens = whole("synthetic_trace, switch_tokens", switch_tokens, least=1)
    scheme, model = scheme_named(quantize), resolve_model(model)
    if scheme is not None:
        model = quantised_spec(model, scheme)
    hardware = resolve_hardware(hardware)
    hardware.check_budget(gpu_memory)
    router = Router.of(routing, model.grid, model.top_k, seed)
    plan = make_plan(
        model,
        hardware,
        _profile(router, min(max(requests * each, 64), _PROFILE_TOKENS), seed),
        gpu_memory=gpu_memory,
        cache_slots=cache_slots,
        policy=policy,
        max_tokens=max(4096, each),
    )
    number, position = np.divmod(np.arange(requests * each), each)
    domain = (number + (0 if switch_tokens is None else position // switch_tokens)) % len(
        router.logits
    )
    drawing = router.draw(
        domain, position == 0, np.random.default_rng((seed, 1)), accuracy=accuracy
    )
    sizes = np.array(([prompt_tokens] * (prompt_tokens > 0) + [1] * decode_tokens) * requests)
    bare = Trace(
        model=model,
        routing=_routing(drawing, np.repeat(np.arange(len(sizes)), sizes)),
        step_rows=_steps(sizes, position, prompt_tokens),
        token_rows=_tokens(np.repeat(np.arange(len(sizes)), sizes), position),
        happened=Recorded.nothing(),
        plan_list=((0, plan),),
        meta={"synthetic": routing.to_dict() | {"seed": seed}, "ended": "length"},
    )
    return run_plans(bare, bare.plan_list, Start())


def _profile(router: Router, tokens: int, seed: int) -> Profile:
    """Counted on noise of its own, domain by domain."""
    domains, _, experts = router.logits.shape
    domain = np.arange(tokens) * domains // tokens
    fresh = np.diff(domain, prepend=-1) != 0
    seen = router.draw(domain, fresh, np.random.default_rng((seed, 2))).experts
    source = "a second draw of the same made-up routing"
    return Profile.from_choices(seen, experts, source, np.flatnonzero(fresh).tolist())


def _steps(sizes: Ints, position: Ints, prompt_tokens: int) -> Ints:
    """Rows of the steps table, without times."""
    rows = np.zeros((len(sizes), len(STEPS.names or ())), dtype=np.int64)
    first = np.cumsum(sizes) - sizes
    at = position[first]  # the first token's, in its request
    kind = np.where(at < prompt_tokens, int(StepKind.PREFILL), int(StepKind.DECODE))
    step = np.arange(len(sizes))
    for column, values in enumerate((step, kind, sizes, 1, at + sizes, first, 0, 1)):
        rows[:, column] = values
    rows[:, -1] = Clock.MODELLED
    return rows


def _tokens(step: Ints, position: Ints) -> Ints:
    rows = np.zeros((len(step), len(TOKENS.names or ())), dtype=np.int64)
    parent = np.where(position > 0, np.arange(len(step)) - 1, -1)
    for column, values in enumerate((step, 0, 0, position, 0, parent)):
        rows[:, column] = values
    return rows


def _routing(drawing: Drawing, step: Ints) -> Routing:
    """Rows in the order run: step, then layer, then token."""
    tokens, layers, top_k = drawing.experts.shape
    token, layer = np.divmod(np.arange(tokens * layers, dtype=np.int64), layers)
    order: Ints = np.lexsort((token, layer, step[token]))
    return Routing(
        step=step[token[order]].astype(np.int32),
        layer=layer[order].astype(np.int32),
        token=token[order].astype(np.int32),
        experts=drawing.experts.reshape(-1, top_k)[order],
        weights=drawing.weights.reshape(-1, top_k)[order],
        predicted=None
        if drawing.predicted is None
        else drawing.predicted.reshape(-1, top_k)[order],
    )
