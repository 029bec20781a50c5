"""Placement: a budget resolved into the plan that comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.basis import Basis
from engine.by_hand import ByHand
from engine.errors import BudgetError, InputError
from engine.places import usual_slots, with_room
from engine.plan import Plan
from engine.policies import POLICIES, Policy, resolve_policy
from engine.profile import Profile
from engine.spec import HardwareSpec, ModelSpec, resolve_costed, resolve_hardware
from engine.strict import check_flag, whole
from engine.timeline import STAGING_BUFFERS
from engine.units import format_bytes, parse_bytes, parse_percent


def workspace_bytes(model: ModelSpec, max_tokens: int, max_sequences: int) -> int:
    """What a step needs besides weights and KV cache, in bytes.

    Two staging buffers for streamed experts, four hidden states (residual, normalised, attention
    output, experts' output) for each of ``max_tokens`` positions of each sequence, for a prefill
    may process them all at once; float32 logits of one position of each sequence. A prompt taken
    in chunks needs less, but chunks are one call's wish, and the plan has to hold for every call.
    """
    staging = STAGING_BUFFERS * model.expert_bytes
    hidden = 4 * max_tokens * max_sequences * model.activation_bytes_per_token
    return staging + hidden + 4 * max_sequences * model.vocabulary


def resolve_budget(value: int | str, plan: Plan) -> int:
    """A ``gpu_memory`` argument in bytes, for what ``plan`` has to hold, whatever its own budget.

    A percentage runs from the smallest that works to everything resident. Below the smallest it
    raises BudgetError, which says what that is made of.
    """
    share, least, most = parse_percent(value), plan.minimum_bytes, plan.full_bytes
    budget = parse_bytes(value) if share is None else least + round(share * (most - least))
    if budget < least:
        raise BudgetError(
            f"gpu_memory={value!r} is too little for {plan.model}: the smallest budget that works "
            f"is {least} bytes ({format_bytes(least)}, or '0%'): {_smallest(plan)}",
            minimum_bytes=least,
        )
    return budget


def _smallest(plan: Plan) -> str:
    """What the smallest budget is made of, and what makes an engine's smaller.

    Who replays or makes up a run has no such arguments: so it says whose they are.
    """
    staging = STAGING_BUFFERS * plan.expert_bytes
    step = plan.workspace_bytes - staging - plan.reserve_bytes
    parts = [
        (plan.dense_bytes, "dense weights (all but the routed experts)"),
        (plan.kv_bytes, "KV cache"),
        (staging, "staging for two streamed experts"),
        (step, "activations and logits of a step"),
        (plan.reserve_bytes, "reserve_bytes (what the GPU's libraries take)"),
    ]
    listed = " + ".join(f"{format_bytes(size)} {what}" for size, what in parts if size)
    expert = format_bytes(plan.expert_bytes)
    return (
        f"{listed}. No expert is pinned or cached then; each that is takes {expert} more. An engine"
        " needs less where it is loaded with a smaller dtype (dense weights), smaller max_tokens "
        "or max_sequences (KV cache, activations), or quantize (staging)"
    )


def make_plan(
    model: ModelSpec,
    hardware: str | Path | HardwareSpec,
    profile: Profile,
    *,
    gpu_memory: int | str | None = None,
    cache_slots: int | None = None,
    policy: str | type[Policy] = "fiddler",
    planner: str | None = None,
    max_tokens: int = 4096,
    max_sequences: int = 1,
    reserve_bytes: int = 0,
) -> Plan:
    """Resolve a budget into a plan.

    Args:
        model: bytes and flops that are costed.
        hardware: a profile's name or a spec.
        profile: popularity of the experts; its grid must be the model's.
        gpu_memory: budget (``"24GB"``, ``"40%"``, bytes); None: the hardware's memory. More than
            the hardware has is a what-if: allowed, and the plan says so.
        cache_slots: experts' worth of the budget left for a cache; None: what the policy does by
            default (``lru`` caches in all the room there is, the others do not cache).
        policy: a name in :data:`engine.policies.POLICIES`, or a class of your own.
        planner: a name in :data:`engine.planners.PLANNERS`; None: the policy's own.
        max_tokens: KV cache positions reserved for each sequence.
        max_sequences: sequences (beams count) the KV cache is reserved for.
        reserve_bytes: what a real device takes besides, counted as workspace.

    Raises:
        BudgetError: the budget is below dense weights, KV cache and workspace.
        InputError: an unknown name, a size that is none, more slots than room, a profile of
            another grid.
    """
    hardware = resolve_hardware(hardware)
    chosen = resolve_policy(policy)
    max_tokens = whole("max_tokens", max_tokens, least=1)
    max_sequences = whole("max_sequences", max_sequences, least=1)
    reserve_bytes = whole("reserve_bytes", reserve_bytes, least=0)
    if profile.grid != model.grid:
        raise InputError(
            f"the profile is for {profile.grid[0]} layers x {profile.grid[1]} experts, the model "
            f"has {model.grid[0]} x {model.grid[1]}: measure it on this model"
        )
    workspace = workspace_bytes(model, max_tokens, max_sequences) + reserve_bytes
    kv = model.kv_bytes_per_token * max_tokens * max_sequences
    empty = Plan(
        grid=model.grid,
        gpu_memory=0,
        dense_bytes=model.dense_bytes,
        kv_bytes=kv,
        workspace_bytes=workspace,
        expert_bytes=model.expert_bytes,
        pinned=(),
        cache_slots=0,
        policy=chosen.name,
        planner=chosen.planner if planner is None else planner,
        hardware=hardware.name,
        hardware_title=hardware.title,
        card_bytes=hardware.gpu_memory_bytes,
        model=model.name,
        profile=profile,
        costs=(basis := Basis(model, hardware)).costs,
        reserve_bytes=reserve_bytes,
        own_policy=_own(chosen),
        basis=basis,
    )
    asked = hardware.gpu_memory_bytes if gpu_memory is None else gpu_memory
    return with_room(replace(empty, gpu_memory=resolve_budget(asked, empty)), cache_slots)


def change_plan(
    plan: Plan,
    *,
    model: ModelSpec,
    gpu_memory: int | str | None = None,
    cache_slots: int | None = None,
    policy: str | type[Policy] | None = None,
    planner: str | None = None,
    hardware: str | Path | HardwareSpec | None = None,
    link_gbps: float | None = None,
    cpu_cores: int | None = None,
    as_model: str | ModelSpec | None = None,
    pin: Any = None,
    unpin: Any = None,
    reset_pins: bool = False,
) -> Plan:
    """``plan`` with some arguments changed, the rest kept. ``model``: what it is costed as.

    Kept cache slots shrink where a smaller budget, or what is pinned by hand, has no room for
    them. A new policy brings its own planner and its own default of slots unless these are given
    too. A plan whose policy is not at hand (:attr:`engine.plan.Plan.has_policy`) has to be given
    one.

    Args:
        link_gbps, cpu_cores: what-ifs of the machine (:meth:`HardwareSpec.what_if`): of
            ``hardware`` where that is given too, else of the plan's, with what was asked of it
            before.
        as_model: another model of the same grid and top-k is costed, with as many positions of KV
            cache; a kept budget has to hold it.
        pin: experts that shall be pinned from now on, whatever the planner thinks: ``(17, 3)``, a
            layer's number for all of it, or a list of these. They take the places of those that
            the planner wants least.
        unpin: experts that shall not be pinned from now on; the planner's next best come instead.
        reset_pins: forgets what was pinned and unpinned by hand before.

    Raises:
        BudgetError: too small a budget, also for what is pinned by hand.
        InputError: what is wrong with an argument; a what-if of a machine whose rates are not
            known.
    """
    reset_pins = check_flag("reset_pins", reset_pins)
    chosen = plan.policy_class if policy is None else resolve_policy(policy)
    other = not plan.has_policy or chosen is not plan.policy_class
    if planner is None:
        planner = chosen.planner if other else plan.planner
    changed = replace(
        plan,
        policy=chosen.name,
        planner=planner,
        own_policy=_own(chosen),
        by_hand=(ByHand() if reset_pins else plan.by_hand).changed(plan.grid, pin, unpin),
    )
    costed = model if as_model is None else resolve_costed(as_model, model)
    if costed != model:
        changed = _weighing(changed, model, costed)
    if gpu_memory is not None or costed != model:
        asked = plan.gpu_memory if gpu_memory is None else gpu_memory
        changed = replace(changed, gpu_memory=resolve_budget(asked, changed))
    if any(value is not None for value in (hardware, link_gbps, cpu_cores)) or costed != model:
        known = plan.basis_of(model).hardware.here() if hardware is None else hardware
        spec = resolve_hardware(known)
        spec = spec.what_if(link_gbps=link_gbps, cpu_cores=cpu_cores, model=costed)
        changed = _costed(changed, Basis(costed, spec))
    by_default = other or (chosen.slot_share and plan.cache_slots == usual_slots(plan))
    if cache_slots is None and not by_default:
        cache_slots = min(plan.cache_slots, max(changed.most_slots, 0))
    return with_room(changed, cache_slots)


def _costed(plan: Plan, basis: Basis) -> Plan:
    """The plan with a model's costs on a machine."""
    return replace(
        plan,
        hardware=basis.hardware.name,
        hardware_title=basis.hardware.title,
        card_bytes=basis.hardware.gpu_memory_bytes,
        model=basis.model.name,
        costs=basis.costs,
        basis=basis,
    )


def _weighing(plan: Plan, model: ModelSpec, other: ModelSpec) -> Plan:
    """The plan with the bytes of another model, and room for as many tokens and sequences.

    How many these are follows from the bytes that were reserved for ``model``.
    """
    kv, staging = model.kv_bytes_per_token, STAGING_BUFFERS * model.expert_bytes
    positions = plan.kv_bytes // kv if kv else 0  # of all sequences together
    used = staging + plan.reserve_bytes + 4 * positions * model.activation_bytes_per_token
    rest = plan.workspace_bytes - used
    sequences = rest // (4 * model.vocabulary)
    tokens = positions // sequences if sequences > 0 else 0
    workspace = workspace_bytes(model, tokens, sequences) + plan.reserve_bytes
    sizes = (kv * tokens * sequences, workspace)
    if not tokens or sizes != (plan.kv_bytes, plan.workspace_bytes):
        raise InputError(
            f"as_model: how many tokens this plan of {plan.model!r} reserves memory for cannot be "
            "read from its bytes: load the engine with as_model= instead"
        )
    return replace(
        plan,
        model=other.name,
        dense_bytes=other.dense_bytes,
        kv_bytes=other.kv_bytes_per_token * tokens * sequences,
        workspace_bytes=workspace_bytes(other, tokens, sequences) + plan.reserve_bytes,
        expert_bytes=other.expert_bytes,
    )


def _own(policy: type[Policy]) -> type[Policy] | None:
    """The class itself where its name does not lead to it."""
    return None if POLICIES.get(policy.name) is policy else policy
