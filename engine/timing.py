"""Times of a model's own forward passes on the CPU: every expert, dense part and head, one by one.

What is timed is what a user runs: transformers' ``generate`` through the engine's session and
executor, so weights stream from memory as they do in use (each pass reads far more than a cache
holds), threads wake as they do in use, attention reads a real KV cache, and steps are recorded, for
that takes time, too; the recording is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.cost import CostModel
from engine.decision import Decision
from engine.dense import onto_kernels
from engine.devices.host import HostDevice
from engine.events import Clock
from engine.fitting import fit_line
from engine.hook import attach
from engine.notes import Span
from engine.orchestrator import Change
from engine.placement import make_plan
from engine.profile import Profile
from engine.recorder import Recorder
from engine.session import Session
from engine.spec import ModelSpec
from engine.store import ExpertStore
from engine.threads import choose_threads, torch_threads


@dataclass
class Laps:
    """One step's times, added up as they come."""

    start_ns: int
    tokens: int = 0
    context: int = 0
    """KV positions read."""
    dense_ns: int = 0
    """Of all layers."""
    head_ns: int = 0
    end_ns: int = 0
    counts: list[list[int]] = field(default_factory=list)
    """By layer: of each expert its tokens."""
    expert_ns: list[list[int]] = field(default_factory=list)
    """By layer: of each expert its share of the layer's call, to which they add up."""

    @property
    def layers(self) -> int:
        """MoE layers that ran."""
        return len(self.counts)

    @property
    def whole_ns(self) -> int:
        """From the step's begin to its end."""
        return self.end_ns - self.start_ns


@dataclass
class Generation:
    """The complete steps of one prompt, the prefill first. At least one decode step."""

    round: int
    steps: Sequence[Laps]

    @property
    def prefill(self) -> Sequence[Laps]:
        """Steps of several tokens: none where the prompt is of one."""
        return [laps for laps in self.steps if laps.tokens > 1]

    @property
    def decode(self) -> Sequence[Laps]:
        """Steps of one token, all the same work but for what they read of the KV cache."""
        return [laps for laps in self.steps if laps.tokens == 1]

    @property
    def context(self) -> float:
        """KV positions read by a decode step, the mean."""
        return float(np.mean([laps.context for laps in self.decode]))

    @property
    def step_ns(self) -> float:
        """A decode step, the median."""
        return float(np.median([laps.whole_ns for laps in self.decode]))


@dataclass
class Samples:
    """All generations of a calibration, in their order."""

    generations: list[Generation] = field(default_factory=list)

    def paces(self) -> list[float]:
        """How fast the machine was in each generation: its decode steps by the usual ones.

        1 is the usual, 1.5 half as slow again. What steps usually take at their context is a line
        through all generations, robust, of which the median is 1.
        """
        contexts = np.array([each.context for each in self.generations])
        ns = np.array([each.step_ns for each in self.generations])
        fixed, slope = fit_line(contexts, ns)
        by_line = ns / (fixed + slope * contexts)
        return (by_line / np.median(by_line)).tolist()

    def take(self, round_: int, steps: Sequence[Laps]) -> Generation:
        """Enter a generation's steps, of which one at least is a decode step."""
        self.generations.append(Generation(round_, steps))
        return self.generations[-1]


class _Watch:
    """A pace (see :class:`engine.devices.base.Pace`) that only notes what the session tells it."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.now_ns = 0
        self.steps: list[Laps] = []
        self._last = 0

    def pins(self, changes: Sequence[Change], costs: CostModel) -> None:
        """Nothing is pinned here."""

    def begin(self) -> None:
        """A step begins."""
        self._last = time.perf_counter_ns()
        self.steps.append(Laps(self._last))

    def layer(
        self, layer: int, tokens: int, context: int, decision: Decision, spans: Sequence[Span]
    ) -> Sequence[Span]:
        """What came before the first expert was dense."""
        laps = self.steps[-1]
        laps.tokens, laps.context = tokens, context
        laps.dense_ns += spans[0][0] - self._last
        laps.counts.append(decision.tokens)
        laps.expert_ns.append([end - start for start, end in spans])
        self._last = spans[-1][1]
        return spans

    def head(self, tokens: int) -> None:
        """What ran since the last expert."""
        laps = self.steps[-1]
        laps.end_ns = time.perf_counter_ns()
        laps.head_ns = laps.end_ns - self._last

    def settle(self, *, wait: bool) -> None:
        """All is noted already."""


class _Watched(HostDevice):
    """The host, with a stopwatch in place of its clock."""

    def pace(self, costs: CostModel) -> Any:
        self.watch = _Watch(costs)
        return self.watch


class Probe:
    """Runs a model on random prompts and times its parts. Between runs the model is as it was.

    The model must not be generating meanwhile. ``spec`` is what the model is (its own, not one it
    is costed as).
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, *, threads: int | None = None) -> None:
        self.model = model
        self.spec = spec
        store = ExpertStore(model)
        self._usual = torch.get_num_threads()
        self.threads = choose_threads(threads, store.expert_bytes)
        config = model.config.get_text_config()
        self.positions: int = getattr(config, "max_position_embeddings", None) or 4096
        self._vocabulary = int(config.vocab_size)
        self._random = torch.Generator().manual_seed(0)
        plan = make_plan(
            spec,
            "rtx-4090",  # any: what it costs is what is to be measured
            Profile.uniform(spec.grid),
            gpu_memory="0%",
            policy="cpu",
            max_tokens=self.positions,
        )
        self._device = _Watched()
        self._session = Session(store, self._device, plan, self.threads)
        # of an engine's model they are the kernels' already
        onto_kernels(model, self._session.executor.lane.pool)

    def __repr__(self) -> str:
        return f"Probe({self.spec.name}, {self.threads} threads)"

    def measure_switch(self) -> int | None:
        """From how many tokens of an expert torch is faster than the kernels; see CpuLane."""
        with self.running():
            return self._session.executor.lane.measure_switch()

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The model with this probe's session; afterwards with the one it had."""
        modules = self._session.store.modules
        before = [getattr(module, "fiddler_session", None) for module in modules]
        hooks = attach(self.model, self._session, lambda ids: [""] * len(ids))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, session in zip(modules, before, strict=True):
                module.fiddler_session = session

    @contextmanager
    def running(self) -> Iterator[None]:
        """Threads and gradients as the engine sets them."""
        with torch_threads(self.threads, self._usual), torch.no_grad():
            yield

    def run(self, prompt_tokens: int, new_tokens: int) -> list[Laps]:
        """Generate from a random prompt; returns the laps of its complete steps."""
        ids = torch.randint(self._vocabulary, (1, prompt_tokens), generator=self._random)
        owner = object()
        try:
            self._session.begin_run(owner, partial(Recorder, self.spec, clock=Clock.MEASURED))
            with self._attached(), self.running():
                self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
        finally:
            self._session.end_run(owner)
        return [laps for laps in self._device.watch.steps if laps.end_ns]
