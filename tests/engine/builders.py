"""A toy machine with round numbers, and an engine without a model, for the tests above torch.

`Driver` does what `engine.session` does around a real model: one step after the other, one layer
after the other, through the same orchestrator, timeline and recorder. What the whole-trace code
(`layout`, `decide_all`, `replay`, `history`) works out at once is compared with what it wrote.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel, Curve
from engine.decision import Batch, Decision, Request
from engine.events import TOKENS, Action, Clock, StepKind
from engine.history import memory_at, memory_over_time, places_at
from engine.notes import Notes, Pins
from engine.orchestrator import Orchestrator
from engine.placement import make_plan
from engine.plan import Plan
from engine.planners import PLANNERS
from engine.policies import LIVE
from engine.profile import Profile
from engine.recorder import Recorder
from engine.sample import Sample
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from engine.timeline import Timeline
from engine.trace import Start, Trace

COSTS = CostModel(
    gpu=Curve(((10, 0), (4, 2))),  # 10 ns up to 3 tokens, then 4 + 2 each
    cpu=Curve(((20, 15),)),
    copy_ns=52,
    pageable_copy_ns=104,
    copy_contended_ns=80,
    h2d_contended_gbps=12.5,
    cpu_contended_gbps=37.5,
    to_host=Curve(((3, 1),)),
    to_device=Curve(((5, 1),)),
    dense=Curve(((7, 0), (0, 1))),
    head=Curve(((9, 0),)),
    kv_ns=0.5,
    expert_bytes=1000,
    activation_bytes=8,
    relative_error=0.25,
    calibrated=False,
    overlap=True,
)
"""Copy and device take 62 ns for up to 3 tokens; the CPU 45, 62 (a tie), 79, with activations."""

MODEL = ModelSpec(
    name="toy", layers=3, experts=4, top_k=2, hidden=4, expert_width=8, expert_bytes=1000,
    dense_bytes=5000, head_bytes=1000, embedding_bytes=1000, expert_flops_per_token=192,
    dense_flops_per_token=100, head_flops_per_token=40, kv_bytes_per_token=10,
    activation_bytes_per_token=8, vocabulary=5, bytes_per_weight=2.0, source="made up",
)  # fmt: skip
"""12 experts of 1,000 bytes; with 10 positions reserved the rest takes 7,440 (see `LEAST`)."""

LEAST = 5000 + 10 * 10 + (2 * 1000 + 4 * 10 * 8 + 4 * 5)
"""Dense, KV cache, and a workspace of two staging buffers, four hidden states and logits."""


def hardware() -> HardwareSpec:
    """A preset under another name: its figures do not matter where `COSTS` is used."""
    return replace(resolve_hardware("rtx-4090"), name="toy-machine")


@cache
def toy_sample(model: ModelSpec = MODEL) -> Sample:
    """Some tokens' routing, the first experts likelier, in three pieces of text."""
    rng = random.Random(0)
    chosen = [random_choices(rng, 40, model)[0] for _ in range(model.layers)]
    return Sample.of(np.stack(chosen, axis=1), model.experts, (0, 9, 30))


def toy_plan(
    experts: int | None = None,
    cache_slots: int | None = 0,
    policy: str = "fiddler",
    *,
    model: ModelSpec = MODEL,
    planner: str | None = None,
    counts: NDArray[np.int64] | None = None,
    profile: Profile | None = None,
    costs: CostModel = COSTS,
    **options: Any,
) -> Plan:
    """A plan with room for so many ``experts`` (None: all), ``cache_slots`` of them a cache.

    Without ``counts`` the first experts of the grid are the popular ones.
    """
    if counts is None:
        counts = np.arange(model.experts_total, 0, -1).reshape(model.grid)
    options = {"max_tokens": 10, "gpu_memory": "0%"} | options
    made = make_plan(
        model, hardware(), profile or Profile.of(counts, 100, "a test", toy_sample(model)),
        policy=policy, planner=planner, **options,
    )  # fmt: skip
    room = model.experts_total if experts is None else experts
    again = options | {"gpu_memory": made.minimum_bytes + room * model.expert_bytes}
    made = make_plan(
        model, hardware(), made.profile, policy=policy, planner=planner, cache_slots=cache_slots,
        **again,
    )  # fmt: skip
    return replace(made, costs=costs)


def random_plan(rng: random.Random, model: ModelSpec = MODEL) -> Plan:
    """Any policy, planner, budget and number of slots that go together."""
    room = rng.randrange(model.experts_total + 1)
    slots = rng.choice((None, 0, room, rng.randrange(room + 1)))
    policy = rng.choice(sorted(LIVE))
    planner = rng.choice((None, *PLANNERS))
    return toy_plan(room, slots, policy, model=model, planner=planner)


def random_choices(
    rng: random.Random, tokens: int, model: ModelSpec = MODEL
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A router's choices and weights, both ``(tokens, top_k)``, some experts likelier."""
    ids = range(model.experts)
    rows = [
        sorted(ids, key=lambda i: rng.random() ** (1 + i), reverse=True)[: model.top_k]
        for _ in range(tokens)
    ]
    chosen = np.array(rows, dtype=np.int64).reshape(tokens, model.top_k)
    weights = np.array([rng.random() for _ in range(chosen.size)], dtype=np.float32)
    return chosen, weights.reshape(chosen.shape)


def random_batch(rng: random.Random, segments: int, model: ModelSpec = MODEL) -> Batch:
    """Layers of steps of 1 to 6 tokens, as a trace's batch has them; some stop half way."""
    steps: list[tuple[int, int, int]] = []  # step, layer, tokens
    number = 0
    while len(steps) < segments:
        tokens = rng.choice((1, 1, 1, 2, 6))
        layers = model.layers if rng.random() < 0.9 else rng.randrange(1, model.layers + 1)
        steps += [(number, layer, tokens) for layer in range(layers)]
        number += 1
    steps = steps[:segments]
    entries: list[tuple[int, int, int]] = []  # segment, expert, count
    for segment, (_, _, tokens) in enumerate(steps):
        chosen, _ = random_choices(rng, tokens, model)
        active, count = np.unique(chosen, return_counts=True)
        entries += [(segment, a, c) for a, c in zip(active.tolist(), count.tolist(), strict=True)]
    step, layer, tokens = np.array(steps, dtype=np.int64).reshape(-1, 3).T
    segment, expert, count = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    weight = np.array([rng.random() for _ in entries])
    return Batch(model.experts, step, layer, tokens, segment, expert, count, weight)


def note_routing(
    notes: Notes,
    step: int,
    layer: int,
    token: int,
    experts: list[list[int]],
    weights: list[list[float]],
    span: tuple[int, int] = (0, 0),
) -> None:
    """A layer with this routing, all of it on the device."""
    active, counts = np.unique(experts, return_counts=True)
    resident, dropped = [int(Action.RESIDENT)] * len(active), [False] * len(active)
    decision = Decision(MODEL.experts, active.tolist(), counts.tolist(), resident, dropped)
    choices = np.array(experts, dtype=np.int64), np.array(weights, dtype=np.float32)
    notes.step(step, len(experts), 0, token)
    notes.layer(layer, *span, decision, *choices)


class Driver:
    """An engine without a model: runs steps with the routing it is given, and records them."""

    def __init__(
        self,
        plan: Plan,
        start: Start | None = None,
        *,
        model: ModelSpec = MODEL,
    ) -> None:
        self.model = model
        self.orchestrator = Orchestrator(plan, start)
        self.timeline = Timeline(plan.lane_costs)
        self.recorder = Recorder(model, plan, self.orchestrator.start())
        self.number = 0
        self.plan_number = 0
        self.context = 0

    def step(
        self,
        rng: random.Random,
        tokens: int = 1,
        *,
        sequences: int = 1,
        plans: Sequence[Plan] = (),
        layers: int | None = None,
    ) -> list[Decision]:
        """One forward pass; ``plans`` take effect before it, it ends after ``layers`` if given."""
        recorder, timeline = self.recorder, self.timeline
        start, pins = timeline.now_ns, []
        for plan in plans:
            changes = self.orchestrator.change(plan)
            self.plan_number = recorder.plan(self.number, plan)
            begin = timeline.now_ns
            timeline.pins(self.number, self.model.experts, changes, plan.lane_costs, None)
            pins.append(Pins(begin, timeline.now_ns, plan.lane_costs, changes))
        first = recorder.token_count
        self.context += tokens
        rows = np.zeros((tokens, len(TOKENS.names or ())), dtype=np.int64)
        rows[:, 0] = self.number
        rows[:, 1] = np.arange(tokens) % sequences
        rows[:, 3] = (self.context - tokens + np.arange(tokens)) // sequences
        rows[:, 5] = (first + np.arange(tokens) - sequences).clip(min=-1)
        recorder.tokens(rows, [f"t{first + at} " for at in range(tokens)])
        recorder.notes.step(self.number, tokens, self.context, first, pins)
        decisions: list[Decision] = []
        for layer in range(self.model.layers if layers is None else layers):
            chosen, weights = random_choices(rng, tokens, self.model)
            foreseen = None
            if self.orchestrator.policy.wants_predictions and layer + 1 < self.model.layers:
                foreseen, _ = random_choices(rng, tokens, self.model)
            active, counts = np.unique(chosen, return_counts=True)
            request = Request(self.number, layer, active.tolist(), counts.tolist(), tokens)
            if self.orchestrator.policy.wants_weights:
                sums = np.bincount(chosen.ravel(), weights=weights.ravel())
                request.weights = sums[active].tolist()
            request.predicted = None if foreseen is None else np.unique(foreseen).tolist()
            decision = self.orchestrator.decide(request)
            begin = timeline.now_ns
            timeline.lay(self.number, layer, tokens, self.context, decision, None)
            recorder.notes.layer(
                layer, begin, timeline.now_ns, decision, chosen, weights, (), foreseen
            )
            decisions.append(decision)
        if layers is None:
            begin = timeline.now_ns
            timeline.head(self.number, self.model.experts, sequences, None)
            recorder.notes.head(sequences, begin, timeline.now_ns)
        kind = StepKind.PREFILL if tokens > sequences else StepKind.DECODE
        recorder.step(
            (
                self.number, kind, tokens, sequences, self.context, first, self.plan_number,
                int(layers is None), start, timeline.now_ns, Clock.MODELLED,
            )
        )  # fmt: skip
        self.number += 1
        return decisions

    def trace(self) -> Trace:
        """What was recorded, checked."""
        return self.recorder.trace({"ended": "length"}).check()


def recorded(
    seed: int,
    plan: Plan,
    steps: int = 12,
    *,
    replans: float = 0.0,
    aborts: float = 0.0,
    model: ModelSpec = MODEL,
    start: Start | None = None,
) -> Trace:
    """A prompt of 5 tokens and ``steps`` decode steps, replanned and cut short now and then."""
    rng = random.Random(seed)
    driver = Driver(plan, start, model=model)
    for number in range(steps + 1):
        plans = [random_plan(rng, model)] if rng.random() < replans else []
        layers = rng.randrange(model.layers) if rng.random() < aborts else None
        driver.step(rng, 5 if number == 0 else 1, plans=plans, layers=layers)
    return driver.trace()


def use(trace: Trace) -> None:
    """Ask for all that reads a trace's numbers: tables, summary, history, its batch."""
    for table in ("steps", "tokens", "routing", "work", "moves", "plans"):
        trace.to_pandas(table)
    assert str(trace.summary)
    memory = memory_over_time(trace)
    assert len(memory["step"]) == len(trace.step_rows)
    for step in (-1, 0, len(trace.step_rows) - 1):
        assert places_at(trace, step).shape == trace.model.grid
        assert memory_at(trace, step).budget >= 0
    assert len(trace.batch.first) == len(trace.batch.step) + 1
