"""Many replays at once: traces x machines x budgets x policies x cache slots, on any Executor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.errors import FiddlerError, InputError
from engine.policies import POLICIES, Policy, resolve_policy
from engine.replay import playable
from engine.spec import HardwareSpec, resolve_hardware
from engine.strict import TOLD, check_call, check_name, plain, several, whole
from engine.sweep_task import Combination, Row, Task
from engine.trace import Trace
from engine.units import parse_bytes, parse_percent
from engine.what_if import check_asked

if TYPE_CHECKING:
    import pandas as pd

Hardware = str | Path | HardwareSpec
"""A profile's name, the path of a profile's file, or the profile itself."""

COLUMNS = (
    "trace", "hardware", "gpu_memory_gb", "policy", "pinned", "cache_slots", "tokens_per_s",
    "tokens_per_s_low", "tokens_per_s_high", "hit_rate", "mb_per_token", "gpu_busy", "cpu_busy",
    "link_busy",
)  # fmt: skip
"""Of the table; what they mean: :class:`engine.plan.Plan`, :class:`engine.summary.Summary`."""

_MANY = 10**6
"""Experts that no model has; of a path the trace, and so its model, is not known here."""

_TASKS_PER_CORE = 4
"""Tasks for each core of this machine, so that slow ones do not hold up the end."""


def sweep(
    traces: Any,
    *,
    policies: Sequence[str | type[Policy]] | str | type[Policy] | None = None,
    gpu_memory: Sequence[int | str] | int | str | None = None,
    hardware: Sequence[Hardware] | Hardware | None = None,
    cache_slots: Sequence[int] | int | None = None,
    link_gbps: Sequence[float] | float | None = None,
    cpu_cores: Sequence[int] | int | None = None,
    executor: Executor | None = None,
    errors: Literal["raise", "coerce"] = "raise",
    chunk: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Replay traces under every combination of what is given; one row for each, modelled clock.

    Rows are ordered by trace, hardware and what-ifs of it, budget, policy and slots as given,
    whatever the executor.

    Args:
        traces: a Trace, a run (anything with ``.trace``) or the path of a trace file; several of
            them; or a mapping of names to them. The column ``trace`` holds the name: the path, or
            the number among those given.
        policies: names or classes of your own (for an executor of processes: such that can be
            pickled); None: all there are, those that go by predicted experts only where every
            trace is at hand, not a path, and holds some.
        gpu_memory: budgets; None: each trace's own.
        hardware: names, profiles' files or profiles; None: each trace's own, with its costs.
        cache_slots: for the policies that admit; the others get one row.
        link_gbps, cpu_cores: what-ifs of each machine (:meth:`engine.spec.HardwareSpec.what_if`);
            its name in the table says so.
        executor: any ``concurrent.futures.Executor``; None: in this process. A trace travels to
            it without its work and moves, once per task; a path travels as a path.
        errors: ``"raise"``: the first combination that cannot be is an error that names it;
            ``"coerce"``: its row is NaN, and a last column ``error`` says why.
        chunk: combinations per task; None: so many that there are some four tasks for each core
            of this machine. 1 spreads widest, more sends a trace less often.
        progress: called with rows done and rows in all, in the order of the rows.

    Raises:
        InputError: an argument that no trace could take, or a list without entries; raised before
            anything runs.
        BudgetError, InputError, TraceError: of the first combination that cannot be, unless
            ``errors="coerce"``.

    An interrupt, or an error, cancels every task that has not begun.
    """
    import pandas as pd

    check_name("way to treat errors", errors, ("raise", "coerce"))
    if executor is not None and not isinstance(executor, Executor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            "executor: expected a concurrent.futures.Executor (of a Dask client: "
            f"client.get_executor()), got {type(executor).__name__}"
        )
    if chunk is not None:
        chunk = whole("sweep, chunk", chunk, least=1)
    check_call("progress", progress, TOLD)
    sources = _sources(traces)
    if policies is None:
        # a path is not opened here: it may be one of the machine that does the work
        sets = [playable(s if isinstance(s, Trace) else None) for _, s in sources]
        policies = [name for name in POLICIES if all(name in names for names in sets)]
    grids = [s.model.experts_total if isinstance(s, Trace) else _MANY for _, s in sources]
    asked = {"link_gbps": link_gbps, "cpu_cores": cpu_cores}
    combinations = _combinations(policies, gpu_memory, hardware, cache_slots, max(grids), asked)
    total = len(sources) * len(combinations)
    if chunk is None:
        wanted = math.ceil(_TASKS_PER_CORE * (os.cpu_count() or 1) / len(sources))
        chunk = len(combinations) if executor is None else math.ceil(len(combinations) / wanted)
    tasks = [
        Task(name, source, tuple(combinations[at : at + chunk]), errors == "coerce")
        for name, source in sources
        for at in range(0, len(combinations), chunk)
    ]
    rows: list[Row] = []

    def take(outcome: Row | FiddlerError) -> None:
        if isinstance(outcome, FiddlerError):
            raise outcome
        rows.append(outcome)
        if progress is not None:
            progress(len(rows), total)

    if executor is None:
        for task in tasks:
            for outcome in task.outcomes():
                take(outcome)
    else:
        futures: list[Future[list[Row | FiddlerError]]] = []
        try:
            for task in tasks:
                futures.append(executor.submit(Task.run, task.light()))
            for future in futures:
                for outcome in future.result():
                    take(outcome)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return pd.DataFrame(rows, columns=[*COLUMNS, *(["error"] if errors == "coerce" else [])])


def _sources(traces: Any) -> list[tuple[str, Trace | Path]]:
    """Names and what they name, in order."""
    if isinstance(traces, Mapping):
        given = [(str(k), v) for k, v in cast("Mapping[Any, Any]", traces).items()]
    else:
        one = isinstance(traces, str | Path | Trace) or not isinstance(traces, Iterable)
        several: list[Any] = [traces] if one else list(cast("Iterable[Any]", traces))
        given = [
            (str(item) if isinstance(item, str | Path) else str(number), item)
            for number, item in enumerate(several)
        ]
    if not given:
        raise InputError("traces: expected one or more, got none")
    found: list[tuple[str, Trace | Path]] = []
    for name, item in given:
        leads_to = Path(item) if isinstance(item, str) else item
        if not isinstance(leads_to, Trace | Path):
            leads_to = getattr(item, "trace", None)
        if not isinstance(leads_to, Trace | Path):
            raise InputError(
                f"traces: expected a Trace, a run (anything with .trace) or the path of a trace "
                f"file, got {type(item).__name__}"
            )
        found.append((name, leads_to))
    return found


def _combinations(
    policies: Any,
    gpu_memory: Any,
    hardware: Any,
    cache_slots: Any,
    most_slots: int,
    what_ifs: Mapping[str, Any],
) -> list[Combination]:
    """All of them, in order. Raises InputError for what no trace could take."""
    machines = [
        None if machine is None else resolve_hardware(machine)
        for machine in _asked("hardware", hardware)
    ]
    budgets = _asked("gpu_memory", gpu_memory)
    for budget in budgets:
        if budget is not None and parse_percent(budget) is None:
            parse_bytes(budget)
    names = [resolve_policy(name) for name in several("policies", policies)]
    slots = [_slots(many, most_slots) for many in _asked("cache_slots", cache_slots)]
    links, cores = (
        [None if each is None else check_asked({name: each})[name] for each in _asked(name, value)]
        for name, value in what_ifs.items()
    )
    return [
        Combination(machine, budget, policy, many, link, core)
        for machine, link, core, budget, policy in product(machines, links, cores, budgets, names)
        for many in (slots if policy.admits else (None,))
    ]


def _asked(name: str, value: Any) -> list[Any]:
    """What is to be compared; the trace's own where nothing was asked for."""
    return [None] if value is None else several(name, value)


def _slots(value: Any, most: int) -> int | None:
    """Cache slots as a whole number; raises InputError for what is none, or fits no trace."""
    value = plain(value)
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        raise InputError(
            f"cache_slots: expected a whole number of experts from 0 to {most}, got {value!r}"
        )
    return value
