"""A trace: a finished recording of routing, work, moves, steps and plans, as named columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.course import Outline
from engine.decision import Batch
from engine.errors import InputError
from engine.events import (
    MOVES,
    STEPS,
    TOKENS,
    WORK,
    Clock,
    Columns,
    Rows,
    StepKind,
    columns,
    locked,
)
from engine.happened import Happened
from engine.lineage import path
from engine.plan import Plan
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.strict import check_name, plain

if TYPE_CHECKING:
    import pandas as pd

    from engine.prefix import Marks


@dataclass(frozen=True)
class Start:
    """What a recording began with, besides the experts that its first plan pins."""

    cached: tuple[int, ...] = ()
    """Flat indices of the experts in cache slots."""
    policy: Mapping[str, list[int] | list[float]] = field(
        default_factory=dict[str, list[int] | list[float]]
    )
    """The policy's own state, as :meth:`engine.policies.Policy.snapshot` gave it."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened, and all that the decisions used: enough to replay it without the model.

    Two traces are equal only if they are the same object; compare their columns otherwise.

    ``steps``, ``tokens``, ``work`` and ``moves`` are dicts of equally long columns (see
    :mod:`engine.events` for their meaning); :meth:`to_pandas` gives frames with names in place of
    codes. Times are nanoseconds since the recording began. None of its arrays can be written to:
    views, replays and other traces of the same routing share them.
    """

    model: ModelSpec
    """The model whose bytes and flops are costed."""
    routing: Routing
    step_rows: Rows
    token_rows: Rows
    happened: Happened
    """Work and moves, row by row."""
    plan_list: tuple[tuple[int, Plan], ...]
    """Pairs ``(first step, plan)``, in order."""
    start: Start = Start()
    texts: tuple[str, ...] = ()
    """Text of each row of the tokens table; empty where no tokenizer was at hand."""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON values: versions, device, prompt, and why the run ended (``ended``)."""

    def __post_init__(self) -> None:
        for name in ("step_rows", "token_rows"):
            object.__setattr__(self, name, locked(getattr(self, name)))

    def __repr__(self) -> str:
        layers, experts = self.model.grid
        return (
            f"Trace({self.model.name}: {layers} layers x {experts} experts, "
            f"{len(self.step_rows)} steps, {len(self.token_rows)} tokens, "
            f"{self.clock.name.lower()} clock)"
        )

    @cached_property
    def steps(self) -> dict[str, NDArray[np.int64]]:
        """One row per forward pass (:data:`engine.events.STEPS`)."""
        return columns(self.step_rows, STEPS)

    @cached_property
    def tokens(self) -> dict[str, NDArray[np.int64]]:
        """One row per token processed (:data:`engine.events.TOKENS`)."""
        return columns(self.token_rows, TOKENS)

    @property
    def work_rows(self) -> Rows:
        """Rows of :data:`engine.events.WORK`."""
        return locked(self.happened.work_rows)

    @property
    def move_rows(self) -> Rows:
        """Rows of :data:`engine.events.MOVES`."""
        return locked(self.happened.move_rows)

    @cached_property
    def work(self) -> dict[str, NDArray[np.int64]]:
        """One row per occupation of a lane (:data:`engine.events.WORK`)."""
        return columns(self.work_rows, WORK)

    @cached_property
    def moves(self) -> dict[str, NDArray[np.int64]]:
        """One row per change of residency or crossing of the link (:data:`engine.events.MOVES`)."""
        return columns(self.move_rows, MOVES)

    @cached_property
    def plans(self) -> Columns:
        """One row per plan, with the step from which it held."""
        plans = [plan for _, plan in self.plan_list]
        made = {
            "plan": np.arange(len(plans), dtype=np.int64),
            "step": np.array([step for step, _ in self.plan_list], dtype=np.int64),
            "gpu_memory_bytes": np.array([p.gpu_memory for p in plans], dtype=np.int64),
            "pinned_experts": np.array([len(p.pinned) for p in plans], dtype=np.int64),
            "cache_slots": np.array([p.cache_slots for p in plans], dtype=np.int64),
            "policy": np.array([p.policy for p in plans], dtype=np.str_),
            "planner": np.array([p.planner for p in plans], dtype=np.str_),
            "hardware": np.array([p.hardware for p in plans], dtype=np.str_),
        }
        return {name: locked(values) for name, values in made.items()}

    @property
    def unpadded(self) -> Routing:
        """Routing of tokens of a text: padding goes through experts too, but tells nothing of them.

        What says how popular experts are counts these; what says what ran, all.
        """
        real = self.tokens["position"] >= 0
        return self.routing if real.all() else self.routing.where(real[self.routing.token])

    @cached_property
    def batch(self) -> Batch:
        """Active experts of every layer of every step: what a policy is asked. Made once."""
        return self.routing.batch(self.model.grid, self.steps["tokens"])

    @cached_property
    def outline(self) -> Outline:
        """Layers and heads in the order in which they ran. Made once."""
        steps = self.steps
        heads = np.flatnonzero(steps["complete"])
        tokens = np.stack((heads, steps["sequences"][heads]), axis=1)
        return Outline.of(self.batch, steps["context"][self.batch.step], tokens)

    @cached_property
    def marks(self) -> Marks:
        """Where steps end in the tables (:class:`engine.prefix.Marks`). Made once."""
        from engine.prefix import marks

        return marks(self)

    def until(self, step: int) -> Trace:
        """The run as it was at the end of ``step``; -1: before the first (:mod:`engine.prefix`).

        Raises InputError for a step below -1.
        """
        from engine.prefix import until

        return until(self, step)

    @property
    def plan(self) -> Plan:
        """The plan in force at the end."""
        return self.plan_list[-1][1]

    @property
    def clock(self) -> Clock:
        """The clock that timed this trace."""
        return Clock(int(self.step_rows[0, -1])) if len(self.step_rows) else Clock.MODELLED

    @property
    def on_host(self) -> bool:
        """Whether all of it ran on the CPU, measured: no device memory was planned or used."""
        measured = self.clock == Clock.MEASURED or not len(self.step_rows)
        return measured and self.meta.get("device") == "host"

    @property
    def machine(self) -> str:
        """What the times are of, in words: the last plan's hardware, or the host as it is."""
        return "the CPU of the host, no GPU" if self.on_host else self.plan.hardware_title

    @property
    def duration_ns(self) -> int:
        """From the start of the recording to the end of its last step."""
        return int(self.steps["end_ns"].max(initial=0))

    @cached_property
    def decode_steps(self) -> NDArray[np.int64]:
        """Numbers of the complete decode steps."""
        steps = self.steps
        chosen = (steps["kind"] == StepKind.DECODE) & (steps["complete"] == 1)
        return steps["step"][chosen]

    def again(
        self,
        step_rows: Rows,
        happened: Happened,
        plan_list: tuple[tuple[int, Plan], ...],
        start: Start,
    ) -> Trace:
        """The same routing, run in another way. What was worked out of the routing is kept."""
        return self._sharing(
            replace(self, step_rows=step_rows, happened=happened, plan_list=plan_list, start=start)
        )

    def costed_as(self, model: ModelSpec) -> Trace:
        """The same with the bytes and flops of another model, for a replay under its plan.

        Plans, work and moves are still those of the model before.
        """
        return self._sharing(replace(self, model=model))

    def _sharing(self, made: Trace) -> Trace:
        """A trace of the same routing, given what was worked out of it."""
        for name in ("batch", "outline", "tokens"):
            if name in vars(self):
                vars(made)[name] = vars(self)[name]
        return made

    def path(self, row: int = -1) -> NDArray[np.int64]:
        """Rows of the tokens table that led to ``row``: its text, from the prompt's first token on.

        ``row`` may count from the end. Of a beam search the last rows are those of the answers.
        Raises InputError for a row that there is not.
        """
        many, row = len(self.token_rows), plain(row)
        if type(row) is not int or not -many <= row < many:
            raise InputError(f"row {row}: this trace has {many} tokens")
        return path(self.tokens["parent"], row % many)

    def to_pandas(self, table: str) -> pd.DataFrame:
        """One table as a pandas frame, codes replaced by names.

        ``table`` is one of ``steps``, ``tokens``, ``routing`` (one row per token, layer and rank),
        ``work``, ``moves``, ``plans``.
        """
        from engine.tables import TABLE_FRAMES  # pandas only here

        check_name("table", table, TABLE_FRAMES)
        return TABLE_FRAMES[table](self)

    @cached_property
    def summary(self) -> Any:
        """Speed, hit rate, bytes moved and lane times (:class:`engine.summary.Summary`)."""
        from engine.summary import summarize

        return summarize(self)

    def save(self, path: str | Path) -> Path:
        """Write one ``.safetensors`` file (no pickle) and return its path; makes its folder.

        Raises InputError where it cannot be written.
        """
        from engine.trace_file import write

        return write(self, path)

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read what :meth:`save` wrote; raises TraceError with what is wrong with the file.

        InputError for what is no path.
        """
        from engine.trace_file import read

        if not isinstance(path, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"expected the path of a trace file, got {type(path).__name__}: give what "
                "Trace.save() returned"
            )
        return read(Path(path))

    def check(self) -> Trace:
        """Raise TraceError unless every row points at something that exists; returns itself."""
        from engine.trace_check import check

        check(self)
        return self
