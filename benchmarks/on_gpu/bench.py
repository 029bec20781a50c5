"""What every part needs: the model, an engine on the GPU, the budget, and how much time is left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu.results import DRY_RUN, Results
from benchmarks.on_gpu.shape import MIXTRAL, TINY, Shape, build, host_bytes
from engine.devices import CudaDevice, open_cuda, why_no_gpu
from engine.devices.runtime import Runtime
from engine.hybrid import HybridEngine
from engine.machine import this_machine, versions
from engine.profile import Profile
from engine.spec import HardwareSpec
from engine.store import ExpertStore
from engine.trace import Trace
from engine.units import format_bytes

GPU_MEMORY = 24 * 10**9
POLICIES = (
    "fiddler", "makespan", "prefetch", "stream", "lru", "layers", "fiddler_released",
)  # fmt: skip
MAX_TOKENS = 4352
"""Positions that memory is reserved for: the longest prompt, and a text after it."""
MOST_SECONDS = 7 * 60
"""A part stops taking on more after so long, set-up included: it ends within 8 minutes."""


@dataclass
class Bench:
    """One part's run."""

    results: Results
    shape: Shape
    layers: int
    dry: bool
    device: str = "cuda"
    seconds: float = MOST_SECONDS
    began: float = field(default_factory=time.perf_counter)
    _engine: HybridEngine | None = None

    @classmethod
    def opened(
        cls, folder: Path, *, dry: bool, fresh: bool, device: str, memory_bytes: int | None
    ) -> Bench:
        """Go on with the results of this machine, or begin. Raises ValueError where not even a
        layer fits in host memory."""
        shape = TINY if dry else MIXTRAL
        gpu = DRY_RUN if dry else open_cuda(device).name
        same = {"gpu": gpu, "dry_run": dry, "model": shape.name, **_versions()}
        results = Results.opened(folder, gpu, same, fresh=fresh)
        if "layers" not in results.about:
            memory = memory_bytes or host_bytes()
            layers = shape.layers if dry else shape.fitting(memory)
            if not layers:
                raise ValueError(
                    f"{format_bytes(memory)} of host memory hold no layer of {shape.name}; "
                    "--host-memory-gb says how much there is where the system does not know"
                )
            results.about |= {
                "machine": str(this_machine()),
                "driver": "none" if dry else _driver(),
                "layers": layers,
                "scale": _scale(shape, layers),
                "budget": "40% of the experts" if dry else "24 GB, CUDA context and all",
            }
        bench = cls(results, shape, int(results.about["layers"]), dry, device)
        bench.begin()
        return bench

    @property
    def scale(self) -> float:
        """Speed of the whole model by the speed of the layers that there are."""
        return self.layers / self.shape.layers

    def left(self) -> float:
        """Seconds for taking on more."""
        return self.seconds - (time.perf_counter() - self.began)

    def runtime(self) -> Runtime:
        """The GPU; in a dry run what stands for one."""
        if not self.dry:
            return open_cuda(self.device)
        from tests.engine.fake_runtime import FakeRuntime  # a dry run is one of the repository

        return FakeRuntime()

    def engine(self) -> HybridEngine:
        """The model on the GPU under the budget, with the costs of the set-up part if it ran.

        Made once: parts that share a process share it.
        """
        if self._engine is None:
            self._engine = self._made()
        engine = self._engine
        known = self.results.parts.get("setup", {}).get("hardware")
        spec = None if known is None else HardwareSpec.from_dict(known)
        engine.replan(
            policy="fiddler", reset_pins=True, gpu_memory=self.budget(engine), hardware=spec
        )
        return engine

    def _made(self) -> HybridEngine:
        model = build(self.shape, self.layers)
        say(f"{self.layers} layers are in host memory, {self.passed}")
        device = CudaDevice(ExpertStore(model), self.runtime())
        engine = HybridEngine.wrap(
            model,
            device=device,
            profile=Profile.uniform((self.layers, self.shape.experts)),
            name=self.shape.name,
            max_tokens=64 if self.dry else MAX_TOKENS,
            gpu_memory="0%",
        )
        engine.replan(gpu_memory=self.budget(engine))
        say(f"{engine!r}, {self.passed}")
        for note in device.notes:
            say(note)
        return engine

    def make_room(self) -> None:
        """Leave the card to another engine, as far as one made here can."""
        if self._engine is not None:
            self._engine.replan(gpu_memory="0%")

    @contextmanager
    def side_by_side(self, engine: HybridEngine, sequences: int) -> Iterator[None]:
        """Within it the positions that are reserved for one text are those of several shorter."""
        generator = engine._generator
        before = generator.limits
        generator.limits = replace(
            before, max_tokens=before.max_tokens // sequences, max_sequences=sequences
        )
        try:
            yield
        finally:
            generator.limits = before

    def begin(self, most_seconds: float | None = None) -> None:
        """A part begins; it may take so long."""
        self.began = time.perf_counter()
        self.seconds = min(MOST_SECONDS, most_seconds or MOST_SECONDS)

    def budget(self, engine: HybridEngine) -> int:
        """24 GB; of fewer layers what leaves room for the same share of the experts."""
        plan, experts = engine.plan, self.layers * self.shape.experts
        if self.dry:
            share = 0.4
        else:
            parts = plan.dense_bytes - self.shape.other_bytes + plan.kv_bytes
            fixed = plan.minimum_bytes - parts + parts / self.scale
            whole = self.shape.layers * self.shape.experts * plan.expert_bytes
            share = min(max((GPU_MEMORY - fixed) / whole, 0.0), 1.0)
            if self.layers == self.shape.layers:
                return max(GPU_MEMORY, plan.minimum_bytes)
        return plan.minimum_bytes + int(share * experts) * plan.expert_bytes

    @property
    def passed(self) -> str:
        """Since the part began."""
        return f"{time.perf_counter() - self.began:.0f} s"

    def prompt(self, tokens: int, seed: int = 0) -> list[int]:
        """Random token ids."""
        return np.random.default_rng(seed).integers(self.shape.vocabulary, size=tokens).tolist()

    def run(self, engine: HybridEngine, ids: list[int], new: int, **options: Any) -> Trace:
        """Greedy, to the last token."""
        return engine.generate(ids, new, do_sample=False, eos_token_id=None, **options).trace


def say(text: str) -> None:
    """A line for who watches."""
    print(f"  {text}", flush=True)


def missing(device: str, *, dry: bool) -> str | None:
    """What this machine lacks; None where it can measure."""
    if dry:
        return None
    why = why_no_gpu()
    return None if why is None else f"benchmarks/gpu.py --device {device} needs a GPU: {why}"


def _versions() -> dict[str, str]:
    known = dict(versions())
    return {name: known[name] for name in ("python", "transformers")} | {"torch": _torch()}


def _torch() -> str:
    import torch

    return torch.__version__


def _scale(shape: Shape, layers: int) -> str:
    if layers == shape.layers:
        return f"all {layers} layers"
    return (
        f"{layers} of {shape.layers} layers, what host memory holds; speeds are scaled to all "
        f"(times {layers}/{shape.layers}), the budget so that the same share of experts fits"
    )


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.splitlines()[0].strip() if told.stdout.strip() else "unknown"
