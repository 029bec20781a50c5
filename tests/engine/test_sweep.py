"""One table from many replays: the same from no executor, threads, processes and a Dask cluster."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.errors import BudgetError, FiddlerError, InputError, TraceError
from engine.events import Action
from engine.policies import POLICIES, Policy
from engine.replay import playable, replay
from engine.spec import HardwareSpec
from engine.sweep import COLUMNS, sweep
from engine.sweep_task import Combination, Task
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz import demo


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", prompt_tokens=6, decode_tokens=8, gpu_memory="24GB")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trace = synthetic_trace("olmoe-1b-7b", prompt_tokens=3, decode_tokens=5, seed=1)
    return trace.save(tmp_path_factory.mktemp("sweep") / "olmoe.safetensors")


ASKED: dict[str, Any] = {
    "policies": ["fiddler", "lru", "stream"],
    "gpu_memory": ["20%", "50%"],
    "hardware": ["rtx-4090", "l4"],
    "cache_slots": [2, 4],
}
"""Of each trace 2 x 2 x (2 + 2 + 1 or less) rows: only policies that admit have two."""


@contextmanager
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@contextmanager
def dask() -> Iterator[Executor]:
    """Two worker processes on the loopback interface, without a dashboard."""
    distributed = pytest.importorskip("distributed", reason="needs distributed: install '.[test]'")
    cluster = distributed.LocalCluster(
        host="127.0.0.1", n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client, client.get_executor() as pool:
        yield pool


LOADED = "bool({'torch', 'transformers', 'plotly'} & set(__import__('sys').modules))"


@pytest.mark.parametrize("executor", [threads, processes, dask])
def test_the_same_table_from_every_executor(
    trace: Trace, path: Path, executor: Callable[[], Any]
) -> None:
    sources = {"a trace": trace, "a file": path}
    expected = sweep(sources, **ASKED)
    with executor() as pool:
        pd.testing.assert_frame_equal(sweep(sources, executor=pool, **ASKED), expected)
        one_by_one = sweep(sources, executor=pool, chunk=1, **ASKED)
        pd.testing.assert_frame_equal(one_by_one, expected)
        with pytest.raises(
            BudgetError, match=r"trace 0, hardware='l4', gpu_memory='1GB'"
        ) as raised:
            sweep(trace, gpu_memory=["50%", "1GB"], hardware="l4", executor=pool)
        assert raised.value.minimum_bytes == trace.plan.minimum_bytes
        if executor is not threads:
            assert pool.submit(eval, LOADED).result() is False


def test_rows_are_replays_in_the_order_asked_for(trace: Trace, path: Path) -> None:
    table = sweep([trace, path], **ASKED)
    assert tuple(table.columns) == COLUMNS
    asked = [
        (name, machine, budget, policy, slots)
        for name, machine, budget, policy in product(
            ("0", str(path)), ASKED["hardware"], ASKED["gpu_memory"], ASKED["policies"]
        )
        for slots in (ASKED["cache_slots"] if POLICIES[policy].admits else (None,))
    ]
    assert len(table) == len(asked)
    opened = {"0": trace, str(path): Trace.load(path)}
    for row, (name, machine, budget, policy, slots) in zip(
        table.to_dict("records"), asked, strict=True
    ):
        what_if = replay(
            opened[name], hardware=machine, gpu_memory=budget, policy=policy, cache_slots=slots
        )
        plan, summary = what_if.trace.plan, what_if.summary
        assert (row["trace"], row["hardware"], row["policy"]) == (name, machine, policy)
        assert row["gpu_memory_gb"] == plan.gpu_memory / 1e9
        assert (row["pinned"], row["cache_slots"]) == (len(plan.pinned), plan.cache_slots)
        assert (row["tokens_per_s"], row["hit_rate"]) == (summary.tokens_per_s, summary.hit_rate)
        assert row["mb_per_token"] == summary.bytes_per_token / 1e6
        assert [row[f"{name}_busy"] for name in ("gpu", "cpu", "link")] == [
            summary.busy[lane] for lane in ("gpu", "cpu", "h2d")
        ]


def test_defaults_are_the_trace_s_own(trace: Trace) -> None:
    spec = replace(HardwareSpec.preset("h200"), name="mine")
    own = replay(trace, hardware=spec, gpu_memory="30GB")
    table = sweep(own)  # anything with .trace
    assert table["policy"].tolist() == [name for name in POLICIES if name != "prefetch"]
    assert table["hardware"].unique().tolist() == ["mine"]
    assert table["gpu_memory_gb"].unique().tolist() == [30.0]
    assert table["tokens_per_s"][0] == own.summary.tokens_per_s


def test_the_bundled_run_by_its_path() -> None:
    table = sweep(str(demo.trace_path()), policies="fiddler")
    assert table["trace"].tolist() == [str(demo.trace_path())]
    assert table["tokens_per_s"][0] == pytest.approx(demo.trace().summary.tokens_per_s)


def test_coerced_errors_are_rows(trace: Trace, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    table = sweep(
        {"good": trace, "bad": damaged}, policies=["fiddler", "lru"], gpu_memory=["1GB", "24GB"],
        cache_slots=60, errors="coerce", hardware="l4",
    )  # fmt: skip
    assert tuple(table.columns) == (*COLUMNS, "error")
    assert table["trace"].tolist() == ["good"] * 4 + ["bad"] * 4
    assert table["policy"].tolist() == ["fiddler", "lru"] * 4
    assert table["gpu_memory_gb"].tolist() == [1.0, 1.0, 24.0, 24.0] * 2
    assert table["hardware"].tolist() == ["l4"] * 8
    reasons = table["error"].tolist()
    assert all("smallest budget that works" in reason for reason in reasons[:2])
    assert all("cache_slots: expected" in reason for reason in reasons[2:4])
    assert all("damaged" in reason for reason in reasons[4:])
    assert table[list(COLUMNS[4:])].isna().all(axis=None)
    fine = sweep(trace, policies="fiddler", gpu_memory=["1GB", "24GB"], errors="coerce")
    assert fine["error"].isna().tolist() == [False, True]
    assert fine["pinned"][1] == len(trace.plan.pinned)
    percent = sweep(damaged, policies="cpu", gpu_memory="50%", errors="coerce")
    assert percent[["hardware", "gpu_memory_gb"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policies": ["fiddler", "best"]}, "unknown policy 'best'"),
        ({"hardware": "abacus"}, "unknown hardware 'abacus'"),
        ({"gpu_memory": ["24GB", "many"]}, "gpu_memory"),
        ({"gpu_memory": []}, "gpu_memory: expected one or more to compare, got none"),
        ({"errors": "ignore"}, "unknown way to treat errors 'ignore'"),
        ({"errors": np.array([1, 2])}, "unknown way to treat errors"),
        ({"policies": np.array([[1, 2]])}, "policy: expected a name or a subclass"),
        ({"executor": 4}, "expected a concurrent.futures.Executor"),
        ({"chunk": 0}, "chunk: expected a whole number of at least 1"),
        ({"progress": "x"}, "progress: expected a function .* got 'x'"),
        ({"policies": ["cpu"], "cache_slots": "x"}, "cache_slots: expected .* got 'x'"),
        ({"policies": ["cpu"], "cache_slots": 10**30}, "cache_slots: expected .* got 10000"),
        ({"policies": ["cpu"], "cache_slots": [1, -1]}, "cache_slots: expected .* got -1"),
        ({"policies": "cpu", "cache_slots": True}, "cache_slots: expected .* got True"),
    ],
)
def test_bad_arguments_fail_before_anything_runs(
    trace: Trace, options: dict[str, Any], message: str
) -> None:
    ran: list[int] = []
    with pytest.raises(InputError, match=message):
        sweep(trace, **{"errors": "coerce", "progress": lambda *_: ran.append(1)} | options)
    assert ran == []


def test_slots_of_a_numpy_range(trace: Trace) -> None:
    options: dict[str, Any] = {"policies": "lru"}
    found = sweep(trace, cache_slots=np.arange(3), **options)  # type: ignore[arg-type]
    assert found.equals(sweep(trace, cache_slots=[0, 1, 2], **options))


def test_arrays_without_dimensions_are_scalars(trace: Trace) -> None:
    given: dict[str, Any] = {
        "policies": "lru", "gpu_memory": "50%", "hardware": "l4", "cache_slots": 2,
        "link_gbps": 10.0, "cpu_cores": 4, "chunk": 1,
    }  # fmt: skip
    arrays = {name: np.array(value) for name, value in given.items()}
    assert sweep(trace, **arrays).equals(sweep(trace, **given))


def test_cores_of_a_numpy_range(trace: Trace) -> None:
    options: dict[str, Any] = {"policies": "cpu", "hardware": "rtx-4090"}
    found = sweep(trace, cpu_cores=np.arange(1, 4), **options)  # type: ignore[arg-type]
    assert found.equals(sweep(trace, cpu_cores=[1, 2, 3], **options))


@pytest.mark.parametrize("nothing", [[], {}])
def test_no_traces(nothing: Any) -> None:
    with pytest.raises(InputError, match="traces: expected one or more, got none"):
        sweep(nothing)


@pytest.mark.parametrize("wrong", [42, [None], {"a": 1}])
def test_not_a_trace(wrong: Any) -> None:
    with pytest.raises(InputError, match="traces: expected a Trace, a run"):
        sweep(wrong)


def test_a_missing_file_is_named_by_whoever_opens_it(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"trace .*gone, policy='fiddler': no trace file at"):
        sweep(tmp_path / "gone", policies=["fiddler"])
    with pytest.raises(TraceError, match="no trace file at"):
        sweep(tmp_path / "gone")


def test_progress_counts_rows(trace: Trace) -> None:
    seen: list[tuple[int, int]] = []
    sweep(trace, policies=["cpu", "stream"], progress=lambda *at: seen.append(at))
    with threads() as pool:
        sweep(
            trace, policies=["cpu", "stream"], executor=pool, progress=lambda *at: seen.append(at)
        )
    assert seen == [(1, 2), (2, 2)] * 2


class Slow(Executor):
    """Runs the first task at once; what else is submitted waits for ever."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        if len(self.futures) == 1:
            future.set_result(fn(*args, **kwargs))
        return future


def test_an_interrupt_cancels_what_has_not_begun(trace: Trace) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    pool = Slow()
    with pytest.raises(KeyboardInterrupt):
        sweep(trace, executor=pool, chunk=1, progress=interrupt)
    assert [future.cancelled() for future in pool.futures] == [False] + [True] * (
        len(playable(trace)) - 1
    )


def test_an_error_cancels_what_has_not_begun(trace: Trace) -> None:
    pool = Slow()
    with pytest.raises(BudgetError):
        sweep(trace, executor=pool, chunk=1, gpu_memory=["1GB", "24GB"], policies="cpu")
    assert [future.cancelled() for future in pool.futures] == [False, True]


def test_a_bug_says_where(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("engine.sweep_task.replay", broken)
    with pytest.raises(ZeroDivisionError) as raised:
        sweep(trace, policies="cpu", errors="coerce")
    assert raised.value.__notes__ == ["in a sweep, trace 0: policy='cpu'"]


def test_what_travels_is_small_and_comes_back_whole(trace: Trace) -> None:
    assert trace.summary.steps  # a trace that was looked at carries what it found
    assert len(trace.batch.step)
    task = Task("it", trace, (Combination(None, "1GB", POLICIES["cpu"], None),), coerce=False)
    sent = pickle.dumps(task.light())
    assert len(sent) < len(pickle.dumps(trace)) / 2
    (error,) = pickle.loads(pickle.dumps(pickle.loads(sent).run()))
    assert isinstance(error, FiddlerError)
    assert isinstance(error, BudgetError)
    assert error.minimum_bytes == trace.plan.minimum_bytes
    assert str(error).startswith("trace it, gpu_memory='1GB', policy='cpu': gpu_memory='1GB' is")


class Thrifty(Policy):
    """A policy of the caller's own; at the module's top, so that it can be pickled."""

    name, title, summary = "thrifty", "Thrifty", "Streams only large groups."

    def miss(self, tokens: int) -> Action:
        return Action.STREAM if tokens > 2 else Action.CPU


def test_a_policy_of_one_s_own_is_swept_too(trace: Trace) -> None:
    table = sweep([trace], policies=[Thrifty, "cpu"])
    assert table["policy"].tolist() == ["thrifty", "cpu"]
    assert sweep(trace, policies=Thrifty).iloc[0].equals(table.iloc[0])
    with ThreadPoolExecutor(2) as executor:
        assert sweep([trace], policies=[Thrifty, "cpu"], executor=executor).equals(table)


def test_what_ifs_of_each_machine(trace: Trace) -> None:
    table = sweep(trace, policies="fiddler", hardware=["rtx-4090", "l4"], link_gbps=[10, 100])
    assert table["hardware"].tolist() == [
        "rtx-4090 (link 10 GB/s)", "rtx-4090 (link 100 GB/s)",
        "l4 (link 10 GB/s)", "l4 (link 100 GB/s)",
    ]  # fmt: skip
    own = sweep(trace, policies="fiddler", hardware="rtx-4090", cpu_cores=[2, 16])
    slow, same = own.itertuples()
    assert slow.hardware == "rtx-4090 (2 CPU cores)" and same.hardware == "rtx-4090"
    assert slow.tokens_per_s < same.tokens_per_s
    one = replay(trace, policy="fiddler", hardware="rtx-4090", cpu_cores=2).summary
    assert slow.tokens_per_s == one.tokens_per_s
    with pytest.raises(InputError, match="cpu_cores"):
        sweep(trace, cpu_cores=[0])
    with pytest.raises(InputError, match="link_gbps"):
        sweep(trace, link_gbps=[])
