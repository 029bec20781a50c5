"""What the page's script needs to replay the run under any plan by itself.

The script repeats :func:`engine.replay.replay` in whole nanoseconds: same policies, same lanes,
same numbers (a test holds them equal). What needs rounding or a look at the model is worked out
here and sent as numbers: latencies by token count, orders in which experts are pinned, weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.course import HEAD
from engine.events import StepKind
from engine.plan import Plan
from engine.planners import PLANNERS, Known
from engine.policies import POLICIES, Policy
from engine.policies.dynamic import Dynamic
from engine.policies.matching import FADE, patterns
from engine.policies.ranking import HALF_LIFE_STEPS
from engine.policies.scores import Scores
from engine.replay import playable
from engine.spec import UNCALIBRATED, HardwareSpec
from engine.trace import Trace
from fiddler_viz.page.encode import packed

IN_NOTEBOOKS = ("lrfu",)
"""Policies that the script does not repeat: their ranks go by a logarithm, whose last digit differs
between Python and a browser."""
LIMIT_CALLS = 400_000
"""Expert calls of a run that a browser still replays while a slider moves."""
LIMIT_STEPS = 16_000
"""Steps; beyond, scores that fade would have to be brought down (see ``Scores``)."""
LIMIT_TOKENS = 16_384
"""Tokens of one step: each latency is sent for every count up to it."""
LIMIT_WHOLE = 2**53
"""Whole numbers beyond it are not exact in JavaScript."""

Machine = tuple[str, int, CostModel]
"""Title, bytes of the card, costs."""


def rehearse(trace: Trace) -> dict[str, Any]:
    """Everything the script's replay goes by; only ``{"why": ...}`` where it cannot be live."""
    batch, plan, steps = trace.outline.batch, trace.plan, trace.steps
    most = int(max(batch.count.max(initial=0), batch.tokens.max(initial=0)))
    machines = _machines(trace)
    why = _why_not(trace, machines, most)
    if why:
        return {"why": why}
    policies = _offered(trace)
    orders: dict[str, int] = {}
    ranked = {
        name: [
            orders.setdefault(packed(_order(plan, policy, costs), "<i2"), len(orders))
            for _, _, costs in machines
        ]
        for name, policy in policies.items()
    }
    whole, weight, predicted = steps["complete"] == 1, trace.batch.weight, trace.batch.predicted
    shares = patterns(plan.profile, plan.grid)  # (patterns, layers, experts)
    return {
        "layers": plan.grid[0],
        "columns": plan.grid[1],
        "step": packed(batch.step, "<i4"),
        "layer": packed(batch.layer, "<i2"),
        "tokens": packed(batch.tokens, "<i4"),
        "size": packed(np.diff(batch.first), "<i4"),
        "expert": packed(batch.expert, "<i2"),
        "count": packed(batch.count, "<i4"),
        "weight": packed([] if weight is None else weight, "<f8"),
        "predicted": None if predicted is None else packed(predicted.values, "<i2"),
        "predicted_size": None if predicted is None else packed(np.diff(predicted.first), "<i4"),
        "step_tokens": packed(steps["tokens"], "<i4"),
        "decode": packed(whole & (steps["kind"] == StepKind.DECODE), "u1"),
        "prefill": packed(whole & (steps["kind"] == StepKind.PREFILL), "u1"),
        "generated": trace.summary.generated_tokens,
        "prompt": trace.summary.prompt_tokens,
        "plan": {
            "least": plan.minimum_bytes,
            "budget": plan.gpu_memory,
            "slots": plan.cache_slots,
            "policy": _first_policy(plan, policies),
            "by_hand": plan.by_hand.to_dict(),
            "edits": str(plan.by_hand),
        }
        | {f"{name}_bytes": getattr(plan, f"{name}_bytes") for name in ("dense", "kv", "workspace")}
        | {"expert_bytes": plan.expert_bytes},
        "machines": [_machine(trace, machine, most) for machine in machines],
        "policies": {
            name: {
                "title": policy.title,
                "summary": policy.summary,
                "admits": policy.admits,
                "share": policy.slot_share,
                "overlap": policy.overlap,
                "order": ranked[name],
                "layers": _planner(plan, policy) == "layers",
                "miss": [_misses(plan, policy, costs, most) for _, _, costs in machines],
            }
            for name, policy in policies.items()
        },
        "orders": list(orders),
        "elsewhere": _elsewhere(plan, policies),
        "worth": packed(2.0 ** (np.arange(len(whole) + 1) / HALF_LIFE_STEPS), "<f8"),
        "scores": packed(_scores(plan), "<f8"),
        "fade": FADE,
        "shares": packed(shares, "<f8"),
        "norms": np.sqrt(np.square(shares).sum(axis=(1, 2))).tolist(),
    }


def _why_not(trace: Trace, machines: list[Machine], most: int) -> str:
    """Why sliders cannot be live in a browser; empty where they can."""
    batch, steps = trace.outline.batch, len(trace.step_rows)
    if not steps:
        return "there is no run yet"
    if len(batch.expert) > LIMIT_CALLS or steps > LIMIT_STEPS or most > LIMIT_TOKENS:
        return (
            f"the run is long ({len(batch.expert):,} expert calls, {steps:,} steps): "
            "a browser would lag behind the sliders"
        )
    if max(_longest(trace, costs, most) for _, _, costs in machines) >= LIMIT_WHOLE:
        return "its times or bytes are too large to be added up exactly in a browser"
    return ""


def _longest(trace: Trace, costs: CostModel, most: int) -> float:
    """More than the ns and the bytes that any policy can make of a run."""
    batch, counts = trace.outline.batch, np.array([0, 1, most])
    copies = float(len(batch.expert) + len(batch.step) * batch.columns)  # stream_all's too
    curves = (costs.gpu, costs.cpu, costs.to_host, costs.to_device, costs.head)
    each = sum(float(np.abs(curve.array(counts)).max()) for curve in curves)
    dense = costs.dense_array(trace.steps["tokens"], trace.steps["context"])
    slow = max(costs.copy_ns, costs.pageable_copy_ns)
    ns = len(batch.step) * float(dense.max(initial=0)) + copies * (slow + each)
    crossed = 2.0 * float(batch.tokens.sum()) * costs.activation_bytes
    return max(ns, copies * costs.expert_bytes + crossed)


def _machines(trace: Trace) -> list[Machine]:
    """The run's own machine first, as it was costed; then the presets."""
    plan = trace.plan
    found: list[Machine] = [(plan.hardware_title, plan.card_bytes, plan.costs)]
    for name in HardwareSpec.presets():
        if name != plan.hardware:
            spec = HardwareSpec.preset(name)
            costs = CostModel.of(trace.model, spec)
            found.append((spec.title, spec.gpu_memory_bytes, costs))
    return found


def _machine(trace: Trace, machine: Machine, most: int) -> dict[str, Any]:
    title, card_bytes, costs = machine
    batch, steps, counts = trace.outline.batch, trace.steps, np.arange(most + 1)
    heads = batch.tokens[batch.layer == HEAD]
    whole = ("copy_ns", "pageable_copy_ns", "expert_bytes", "activation_bytes")
    rates = ("link_share", "relative_error", "overlap")
    return {
        "title": title,
        "card_bytes": card_bytes,
        "uncalibrated": UNCALIBRATED in title,
        "break_even": costs.break_even_tokens,
        "dense": packed(costs.dense_array(steps["tokens"], steps["context"]), "<f8"),
        "head": packed(costs.head.array(heads), "<f8"),
    } | {
        **{name: getattr(costs, name) for name in (*whole, *rates)},
        **{
            name: packed(getattr(costs, name).array(counts), "<f8")
            for name in ("gpu", "cpu", "to_host", "to_device")
        },
    }


def _offered(trace: Trace) -> dict[str, type[Policy]]:
    """Policies that the script repeats, less one whose planner lacks what it goes by."""
    plan = trace.plan
    usable = {name for name in PLANNERS if name != "makespan" or plan.profile.sample is not None}
    named = {name: POLICIES[name] for name in playable(trace) if name not in IN_NOTEBOOKS}
    return {name: policy for name, policy in named.items() if _planner(plan, policy) in usable}


def _elsewhere(plan: Plan, offered: dict[str, type[Policy]]) -> list[str]:
    """Titles of policies that only a notebook replays: somebody's own is Python."""
    titles = {name: POLICIES[name].title for name in IN_NOTEBOOKS}
    if plan.own_policy is not None:
        titles[plan.policy] = plan.own_policy.title
    elif plan.policy not in offered:
        titles.setdefault(plan.policy, plan.policy)
    return list(titles.values())


def _first_policy(plan: Plan, offered: dict[str, type[Policy]]) -> str:
    """The run's own policy, where the script knows it."""
    known = plan.own_policy is None and plan.policy in offered
    return plan.policy if known else next(iter(offered))


def _planner(plan: Plan, policy: type[Policy]) -> str:
    """As :func:`engine.placement.change_plan`: a new policy brings its own planner."""
    same = plan.has_policy and policy is plan.policy_class
    return plan.planner if same else policy.planner


def _order(plan: Plan, policy: type[Policy], costs: CostModel) -> NDArray[np.int64]:
    """Every expert as the planner would have it, those pinned first first: with any room its first
    ones are pinned, less what was unpinned by hand, after what was pinned by hand.

    The planner by layers takes whole ones, from the last on.
    """
    name, (layers, experts) = _planner(plan, policy), plan.grid
    order = PLANNERS[name](Known(plan.profile, costs, policy), layers * experts)
    return order.reshape(layers, experts)[::-1].ravel() if name == "layers" else order


def _misses(plan: Plan, policy: type[Policy], costs: CostModel, most: int) -> str | None:
    """Where a missing expert runs by token count; None where that is decided layer by layer."""
    if policy.miss is Policy.miss or policy.choose is not Policy.choose:
        return None
    made = policy(plan.residency(), costs, plan.profile)
    return packed(made.misses(np.arange(most + 1)), "u1")


def _scores(plan: Plan) -> list[float]:
    """What ``dynamic`` begins with."""
    cache = Dynamic(plan.residency(), plan.costs, plan.profile).cache
    assert isinstance(cache, Scores)
    return cache.scores
