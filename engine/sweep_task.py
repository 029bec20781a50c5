"""A part of a sweep: some combinations of one trace, in whatever process they are replayed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import FiddlerError
from engine.happened import Recorded
from engine.policies import Policy
from engine.replay import Replay, replay
from engine.spec import HardwareSpec
from engine.trace import Trace
from engine.units import parse_bytes, parse_percent

Row = dict[str, Any]


@dataclass(frozen=True)
class Combination:
    """One what-if, by the names of :func:`engine.replay.replay`'s arguments.

    None: as the trace's last plan has it.
    """

    hardware: HardwareSpec | None
    gpu_memory: int | str | None
    policy: type[Policy]
    cache_slots: int | None
    link_gbps: float | None = None
    cpu_cores: int | None = None

    def __str__(self) -> str:
        """The arguments that are given."""
        shown = vars(self) | {
            "hardware": None if self.hardware is None else self.hardware.name,
            "policy": self.policy.name,
        }
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)


@dataclass(frozen=True)
class Task:
    """Some combinations of one trace: what is sent to a worker."""

    name: str
    """The trace's, in the table."""
    source: Trace | Path
    """A path is opened where the task runs."""
    combinations: tuple[Combination, ...]
    coerce: bool
    """Whether to go on after an error."""

    def light(self) -> Task:
        """The same without what a replay makes anew: a fraction of a trace's bytes."""
        if isinstance(self.source, Path):
            return self
        bare = replace(
            self.source, happened=Recorded.nothing(), texts=()
        )  # also leaves behind what the trace keeps of itself
        return replace(self, source=bare)

    def run(self) -> list[Row | FiddlerError]:
        """A row or an error for each combination; nothing after an error unless ``coerce``."""
        return list(self.outcomes())

    def outcomes(self) -> Iterator[Row | FiddlerError]:
        """The same, one by one."""
        trace: Trace | None = None
        for combination in self.combinations:
            try:
                if trace is None:
                    source = self.source
                    trace = source if isinstance(source, Trace) else Trace.load(source)
                outcome = self._row(trace, combination)
            except FiddlerError as error:
                if not self.coerce:
                    yield _named(error, self.name, combination)
                    return
                outcome = self._no_row(trace, combination, error)
            except Exception as error:  # a bug: it shall say where
                error.add_note(f"in a sweep, trace {self.name}: {combination}")
                raise
            yield outcome

    def _row(self, trace: Trace, asked: Combination) -> Row:
        found = replay(trace, **vars(asked))
        row = {"trace": self.name} | _figures(found)
        return row | {"error": None} if self.coerce else row

    def _no_row(self, trace: Trace | None, asked: Combination, error: FiddlerError) -> Row:
        """What was asked for, NaN for what would have been found."""
        budget, machine = asked.gpu_memory, None if asked.hardware is None else asked.hardware.name
        if trace is not None:
            budget = trace.plan.gpu_memory if budget is None else budget
            machine = trace.plan.hardware if machine is None else machine
        known = None if budget is None or parse_percent(budget) is not None else budget
        return {
            "trace": self.name,
            "hardware": machine,
            "gpu_memory_gb": math.nan if known is None else parse_bytes(known) / 1e9,
            "policy": asked.policy.name,
            "error": str(error),
        }


def _figures(found: Replay) -> Row:
    summary, plan = found.summary, found.trace.plan
    return {
        "hardware": plan.hardware,
        "gpu_memory_gb": plan.gpu_memory / 1e9,
        "policy": plan.policy,
        "pinned": len(plan.pinned),
        "cache_slots": plan.cache_slots,
        "tokens_per_s": summary.tokens_per_s,
        "tokens_per_s_low": summary.tokens_per_s_low,
        "tokens_per_s_high": summary.tokens_per_s_high,
        "hit_rate": summary.hit_rate,
        "mb_per_token": summary.bytes_per_token / 1e6,
        "gpu_busy": summary.busy["gpu"],
        "cpu_busy": summary.busy["cpu"],
        "link_busy": summary.busy["h2d"],
    }


def _named(error: FiddlerError, name: str, combination: Combination) -> FiddlerError:
    """The same error with a message that says of which combination it is."""
    named = copy.copy(error)
    named.args = (f"trace {name}, {combination}: {error}",)
    return named
