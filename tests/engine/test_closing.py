"""Closing an engine: memory and threads come back, and what was recorded stays."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import fiddler_viz as fv
from engine import devices, planned
from engine.errors import BudgetError, FiddlerError, InputError
from engine.hybrid import HybridEngine
from engine.kernels import library
from engine.loader import load_model
from engine.recorder import Recorder
from fiddler_viz import demo
from tests.engine.fake_runtime import FakeRuntime

PROMPT = "To be, or not to be"


def load(device: str, **options: Any) -> HybridEngine:
    return fv.load(device=device, **({} if device == "host" else {"gpu_memory": "50%"}) | options)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed is freed by close() itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    made = FakeRuntime()
    pinned = set[int]()
    made.pin = lambda address, n_bytes: pinned.add(address) or 0
    made.unpin = pinned.remove
    made.pinned_now = pinned
    monkeypatch.setattr(devices, "open_cuda", lambda _: made)
    return made


@pytest.mark.parametrize("device", ["virtual", "host", "cuda"])
def test_memory_and_threads_come_back(
    device: str, no_collector: None, runtime: FakeRuntime
) -> None:
    before = set(threading.enumerate())
    engine = load(device, dtype="float32")  # its popularity measured: work for all of its lanes
    run = engine.generate(PROMPT, 3)
    held: list[Any] = [engine.model, engine.session.store, engine.session.executor]
    held += [engine.session.store.modules[0], engine.session.foresight]
    held += [part for part in engine.model.parameters() if part.numel() > 1000]
    held += [*engine.session.store.fused(0).parts]
    refs = [weakref.ref(each) for each in held]
    pool = engine.session.executor.lane.pool
    assert (pool is None) is (library() is None) and engine.session.running is False
    if device == "cuda":
        assert len(set(threading.enumerate()) - before) == 1 and runtime.pinned_now
        refs.append(weakref.ref(engine.device.arena.block.up))
    del held
    engine.close()
    assert [ref() for ref in refs if ref() is not None] == []
    assert set(threading.enumerate()) == before and not runtime.pinned_now
    assert pool is None or pool._pool is None
    assert runtime.cap == runtime.total, "who uses the card next is not held to this budget"
    engine.close()
    assert engine.closed and engine.last_run is run and len(run.tokens[0]) == 3


def test_what_was_recorded_stays_and_the_rest_says_that_it_is_closed() -> None:
    with fv.load(gpu_memory="50%") as engine:
        plan = engine.plan
        run = engine.generate(PROMPT, 3, do_sample=False)
    assert engine.plan is plan and engine.residency.pinned_count == len(plan.pinned)
    assert "HybridEngine(closed, demo on virtual, Plan(" in repr(engine)
    assert not engine.running and engine.recorder is not None
    assert fv.replay(engine).summary == run.summary
    assert fv.memory(engine) is not None and fv.heatmap(engine) is not None
    engine.stop()
    calls: list[Callable[[], Any]] = [
        lambda: engine.generate(PROMPT),
        lambda: engine.generate(PROMPT, predictions=True),
        lambda: engine.stream(PROMPT),
        lambda: engine.replan(gpu_memory="10%"),
        lambda: engine.replan(policy="prefetch"),
        lambda: engine.model,
        lambda: fv.calibrate(model=engine, progress=False),
    ]
    for call in calls:
        with pytest.raises(FiddlerError, match=r"engine is closed.* load it again .*last_run"):
            call()


def test_it_closes_after_an_error_too() -> None:
    engine = fv.load(gpu_memory="50%")
    with pytest.raises(ZeroDivisionError), engine:
        raise ZeroDivisionError
    assert engine.closed


def test_a_run_under_way_is_stopped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fv.load(gpu_memory="50%")
    began = threading.Event()
    trace = Recorder.trace

    def slow(recorder: Recorder, meta: Any) -> Any:
        time.sleep(1)  # as that of a long run
        return trace(recorder, meta)

    monkeypatch.setattr(Recorder, "trace", slow)

    def work() -> None:
        engine.generate(PROMPT, 900, on_text=lambda _: began.set())

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(60)
    engine.close()
    run = engine.last_run
    thread.join(60)
    assert not thread.is_alive() and run is not None, "it is there as close() returns"
    assert run is engine.last_run and run.ended == "stopped"
    assert "closed" in repr(engine._generator)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, MemoryError])
def test_it_runs_until_the_run_is_the_last(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    """Who sees that nothing runs, finds the run there; and it never seems to run for ever."""
    engine = fv.load(gpu_memory="50%")
    seen: list[bool] = []

    def trace(recorder: Recorder, meta: Any) -> Any:
        seen.append(engine.running)
        if error is not None:
            raise error
        return whole(recorder, meta)

    whole = Recorder.trace
    monkeypatch.setattr(Recorder, "trace", trace)
    with nullcontext() if error is None else pytest.raises(error):
        engine.generate(PROMPT, 2)
    assert seen == [True] and not engine.running
    monkeypatch.undo()
    assert engine.generate(PROMPT, 2) is engine.last_run and not engine.running
    engine.close()


def test_not_from_within_the_run() -> None:
    engine = fv.load(gpu_memory="50%")
    with pytest.raises(FiddlerError, match=r"from within its own run .*engine\.stop\(\) there"):
        engine.generate(PROMPT, 5, on_text=lambda _: engine.close())
    assert not engine.closed and engine.generate(PROMPT, 2).ended == "length"
    engine.close()


def test_a_model_that_somebody_keeps_is_transformers_again() -> None:
    """No kernel of a closed engine is called: its threads are gone."""
    model = load_model(demo.model_folder(), "float32")
    own = {name for name, part in model.named_modules() if "forward" in vars(part)}
    engine = HybridEngine.wrap(model, device="virtual", gpu_memory="50%", name=demo.NAME)
    taken = {name for name, part in model.named_modules() if "forward" in vars(part)}
    assert bool(taken - own) is (library() is not None)
    expected = engine.generate([1, 2, 3], 4, do_sample=False).tokens
    engine.close()
    assert {name for name, part in model.named_modules() if "forward" in vars(part)} == own
    with torch.no_grad(), pytest.raises(FiddlerError, match="without an engine: load it with"):
        model(torch.tensor([[1, 2, 3]]))
    again = HybridEngine.wrap(model, device="host", name=demo.NAME)
    assert again.generate([1, 2, 3], 4, do_sample=False).tokens == expected
    model.set_experts_implementation("eager")
    again.close()
    ids = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    assert tuple(ids[0, 3:].tolist()) == expected[0]


@pytest.mark.parametrize("changes", [{}, {"as_model": "mixtral-8x7b"}])
def test_it_is_closed_while_another_thread_makes_a_plan(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explorer's does, for one: the plan is not put in force in memory that was given back."""
    engine = fv.load(gpu_memory="50%")
    plan, make = engine.plan, planned.change_plan

    def change_plan(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        engine.close()
        return made

    monkeypatch.setattr(planned, "change_plan", change_plan)
    with pytest.raises(FiddlerError, match="engine is closed"):
        engine.replan(gpu_memory="10%", **changes)
    assert engine.plan is plan


def test_what_is_refused_leaves_the_model_as_it_was() -> None:
    model = load_model(demo.model_folder(), "float32")
    own = {name for name, part in model.named_modules() if "forward" in vars(part)}
    for wish in ({"gpu_memory": "1MB"}, {"policy": "belady"}, {"cache_slots": 1000}):
        with pytest.raises((BudgetError, InputError)):
            HybridEngine.wrap(model, name=demo.NAME, **wish)
        assert {name for name, part in model.named_modules() if "forward" in vars(part)} == own
        assert not model._forward_pre_hooks and not model._forward_hooks
        assert not any(hasattr(part, "fiddler_session") for part in model.modules())
