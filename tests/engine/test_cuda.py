"""The CUDA device through a runtime that is not there: same results, few waits, no races."""

from __future__ import annotations

import gc
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import fiddler_viz as fv
from engine import devices, popularity
from engine.devices import cuda_runtime
from engine.devices.cuda import CudaDevice
from engine.errors import BudgetError, DeviceError, FiddlerError, InputError
from engine.events import Clock, Lane, Why
from engine.hybrid import HybridEngine
from engine.policies import LIVE
from engine.replay import replay
from engine.store import experts_modules
from engine.stream_executor import StreamExecutor
from engine.trace import Trace
from fiddler_viz import demo
from tests.engine.fake_runtime import FakeRuntime
from tests.engine.races import Watch, WatchedRuntime, watch_slots
from tests.engine.tiny_models import save_tiny

PROMPT = "ROMEO:\nBut soft, what light through yonder window breaks?\n"
BUDGETS = ("0%", "10%", "50%", "100%")
NEW = 8


def load(path: Any, runtime: FakeRuntime, **options: Any) -> HybridEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "open_cuda", lambda _: runtime)
        patch.setattr(popularity, "WINDOWS", 1)
        patch.setattr(popularity, "WINDOW_TOKENS", 32)
        return fv.load(path, device="cuda", **options)


def plan(engine: HybridEngine, policy: str, budget: str) -> None:
    """Half of the room as cache where the policy fills one, so that all kinds of moves happen."""
    engine.replan(policy=policy, gpu_memory=budget, cache_slots=0)
    if LIVE[policy].admits:
        engine.replan(cache_slots=engine.plan.room // 2)


@pytest.fixture(scope="module")
def engine() -> HybridEngine:
    return load("demo", FakeRuntime(), gpu_memory="50%")


@pytest.fixture(scope="module")
def watched() -> HybridEngine:
    """In bfloat16, so that experts are called in groups, and watched for races."""
    engine = load("demo", WatchedRuntime(), gpu_memory="50%", dtype="bfloat16")
    watch_slots(device(engine).arena, runtime(engine))
    return engine


def device(engine: HybridEngine) -> CudaDevice:
    assert isinstance(engine.device, CudaDevice)
    return engine.device


def runtime(engine: HybridEngine) -> Any:
    return device(engine).runtime


@pytest.fixture(scope="module")
def reference() -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' own greedy tokens (1, T) and the logits (1, T, V) along them."""
    folder = demo.model_folder()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    ids = fv.load("demo", device="host").tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    tokens = model.generate(ids, max_new_tokens=NEW, do_sample=False)
    with torch.no_grad():
        return tokens, model(tokens).logits


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("policy", LIVE)
def test_logits_and_text(
    engine: HybridEngine, reference: tuple[torch.Tensor, torch.Tensor], policy: str, budget: str
) -> None:
    plan(engine, policy, budget)
    tokens, logits = reference
    with torch.no_grad():
        assert (engine.model(tokens).logits - logits).abs().max().item() <= 1e-4
    run = engine.generate(PROMPT, NEW, do_sample=False)
    assert list(run.tokens[0]) == tokens[0, -NEW:].tolist()
    check_trace(engine, run.trace)


def check_trace(engine: HybridEngine, trace: Trace) -> None:
    """Four measured lanes whose rows tell what the ledger says, as a replay's rows would."""
    trace.check()
    assert trace.clock == Clock.MEASURED and not trace.on_host
    work, moves = trace.work, trace.moves
    layers = len(trace.step_rows) * trace.model.layers
    assert (work["lane"] == Lane.GPU).sum() >= layers  # a dense part each
    assert ((moves["why"] == Why.ACTIVATIONS) & (moves["lane"] == Lane.D2H)).sum() == layers
    assert (work["end_ns"] >= work["start_ns"]).all() and (work["start_ns"] >= 0).all()
    assert (np.diff(work["step"]) >= 0).all() and (np.diff(moves["step"]) >= 0).all()
    played = replay(trace, policy=trace.plan.policy).trace  # from empty cache slots
    if not trace.plan.cache_slots:
        for ours, theirs in zip(calls(trace), calls(played), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def calls(trace: Trace) -> list[Any]:
    found = trace.happened.calls
    return [found.step, found.layer, found.expert, found.action]


@pytest.mark.parametrize("policy", LIVE)
def test_no_races_and_one_wait_a_layer(watched: HybridEngine, policy: str) -> None:
    waits: list[int] = []
    usual = watched.session.layer

    def layer(*args: Any) -> torch.Tensor:
        before = runtime(watched).host_waits
        out = usual(*args)
        waits.append(runtime(watched).host_waits - before)
        return out

    watched.session.layer = layer  # type: ignore[method-assign]
    try:
        for budget in ("10%", "50%"):
            plan(watched, policy, budget)
            before = runtime(watched).host_waits
            with Watch(runtime(watched)):
                run = watched.generate(PROMPT, 4, do_sample=False)
            steps = len(run.trace.step_rows)
            assert device(watched).in_turn == (not LIVE[policy].overlap)
            assert waits and max(waits) <= (2 if device(watched).in_turn else 1)
            assert runtime(watched).host_waits - before <= sum(waits) + 3 * steps + 6
            waits.clear()
    finally:
        watched.session.layer = usual  # type: ignore[method-assign]
    assert runtime(watched).found == []
    assert runtime(watched).checked > 100


@pytest.mark.parametrize("missing", ["arrive", "read", "arrived before"])
def test_a_missing_wait_is_found(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch sees what it is there for: each wait left out is a race.

    Three experts and more of a layer go through two buffers; from layer to layer the host's wait
    is between two uses already.
    """
    engine = load("demo", WatchedRuntime(), gpu_memory="10%", dtype="bfloat16", policy="stream")
    arena = device(engine).arena
    if missing == "arrive":
        monkeypatch.setattr(arena, "arrive", lambda *_: None)
    watch_slots(arena, runtime(engine))
    if missing == "read":
        usual = arena.were_read
        monkeypatch.setattr(
            arena,
            "were_read",
            lambda slots, event: (usual(slots, event), arena._read.__setitem__(slots[0], None)),
        )
    if missing == "arrived before":
        wait = runtime(engine).wait
        monkeypatch.setattr(
            runtime(engine),
            "wait",
            lambda s, e: None if s is device(engine)._weights else wait(s, e),
        )
    with Watch(runtime(engine)):
        engine.generate(PROMPT, 2, do_sample=False)
    assert runtime(engine).found


def test_bfloat16_in_groups(watched: HybridEngine) -> None:
    exact_model = AutoModelForCausalLM.from_pretrained(
        demo.model_folder(), dtype=torch.bfloat16, experts_implementation="eager"
    ).eval()
    ids = watched.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        exact = exact_model(ids).logits.double()
        for policy in LIVE:
            watched.replan(policy=policy, gpu_memory="50%")
            ours = watched.model(ids).logits.double()
            nmse = ((ours - exact) ** 2).sum() / (exact**2).sum()
            assert nmse.item() <= 5e-4, policy


KINDS = ("gpt_oss", "deepseek_v3", "qwen3_moe", "nemotron_h", "glm4_moe", "aria_text")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_architectures(tmp_path: Path, kind: str, dtype: str) -> None:
    """Biases, transposed weights, shared experts, experts without a gate.

    Routed as the exact model routes: in bfloat16 a near tie may be decided otherwise, on some CPUs.
    """
    plain: PreTrainedModel = save_tiny(tmp_path / kind, kind)
    engine = load(tmp_path / kind, FakeRuntime(), dtype=dtype, gpu_memory="60%")
    prompt = torch.tensor([[3, 14, 15, 92, 65, 35, 8, 9, 7, 9, 3, 2]])
    plain = plain.to(getattr(torch, dtype)).eval()
    chosen: list[tuple[Any, ...]] = []
    for module in experts_modules(plain):
        module.register_forward_pre_hook(lambda _, given: chosen.append(given[1:]))
    with torch.no_grad():
        exact = plain(prompt).logits.double()
        modules = experts_modules(engine.model)
        for module, choice in zip(modules, chosen, strict=True):
            module.register_forward_pre_hook(lambda _, given, to=choice: (given[0], *to))
        for policy in ("fiddler", "stream", "cpu", "lru"):
            engine.replan(policy=policy)
            ours = engine.model(prompt).logits.double()
            nmse = ((ours - exact) ** 2).sum() / (exact**2).sum()
            assert nmse.item() <= (1e-9 if dtype == "float32" else 2e-3), policy


def test_quantised_and_batches(reference: Any) -> None:
    engine = load("demo", FakeRuntime(), gpu_memory="40%", policy="lru", max_sequences=4)
    host = fv.load("demo", device="host", max_sequences=4)
    texts = ["To be, or not to be", "En el principio"]
    ours = engine.generate(texts, 6, do_sample=False)
    assert ours.tokens == host.generate(texts, 6, do_sample=False).tokens
    ours = engine.generate(texts[0], 6, do_sample=False, num_beams=4)
    assert ours.tokens == host.generate(texts[0], 6, do_sample=False, num_beams=4).tokens
    engine = load("demo", FakeRuntime(), gpu_memory="40%", quantize="int8")
    host = fv.load("demo", device="host", quantize="int8")
    ours = engine.generate(PROMPT, 6, do_sample=False)
    assert ours.tokens == host.generate(PROMPT, 6, do_sample=False).tokens


def test_predictions_come_with_the_same_wait(engine: HybridEngine) -> None:
    plan(engine, "prefetch", "50%")
    run = engine.generate(PROMPT, 4, do_sample=False)
    engine.replan(policy="fiddler")
    other = engine.generate(PROMPT, 4, do_sample=False, predictions=True)
    np.testing.assert_array_equal(run.trace.routing.predicted, other.trace.routing.predicted)
    moves = run.trace.moves
    assert (moves["why"] == Why.AHEAD).any() and (moves["why"] == Why.FETCH).any()


@pytest.fixture
def busy(engine: HybridEngine) -> Iterator[list[int]]:
    """Replans while it generates: seeds for the next plans."""
    yield list(range(40))
    plan(engine, "fiddler", "50%")


def test_replans_while_it_generates(engine: HybridEngine, busy: list[int]) -> None:
    random = np.random.default_rng(0)
    expected = engine.generate(PROMPT, 24, do_sample=False).tokens
    most = device(engine).card_bytes

    def change(_: str) -> None:
        policy = str(random.choice(list(LIVE)))
        engine.replan(policy=policy, gpu_memory=f"{random.integers(101)}%")

    run = engine.generate(PROMPT, 24, do_sample=False, on_text=change)
    assert run.tokens == expected
    assert len(run.trace.plan_list) > 10
    check_ledger(engine, most)
    run.trace.check()
    there = np.flatnonzero(engine.residency.places().ravel())
    assert set(there.tolist()) == device(engine).held()


def check_ledger(engine: HybridEngine, most: int) -> None:
    """What is allocated is what the plan counts; torch's allocator is held to the rest."""
    arena, ledger = device(engine).arena, engine.residency
    assert arena.slots == ledger.pinned_count + ledger.cache_slots
    assert len(arena.held()) == ledger.pinned_count + ledger.cached_count
    assert ledger.used_bytes <= ledger.budget_bytes <= most
    outside = device(engine).reserve.outside_bytes
    assert runtime(engine).cap == ledger.budget_bytes - outside


def test_a_budget_that_cannot_be_does_not_end_the_run(engine: HybridEngine) -> None:
    plan(engine, "fiddler", "50%")
    refused: list[str] = []

    def change(_: str) -> None:
        with pytest.raises(BudgetError, match="more than the card's") as caught:
            engine.replan(gpu_memory=1 << 41)
        refused.append(str(caught.value))

    run = engine.generate(PROMPT, 3, do_sample=False, on_text=change)
    assert run.ended == "length" and refused


def test_2000_random_replans_keep_the_ledger(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    engine = load(tmp_path, FakeRuntime(), gpu_memory="50%", max_tokens=64)
    random, policies = np.random.default_rng(0), list(LIVE)
    least, most = engine.plan.minimum_bytes, engine.plan.full_bytes
    for number in range(2000):
        policy = policies[int(random.integers(len(policies)))]
        engine.replan(policy=policy, gpu_memory=int(random.integers(least, most + 1)))
        if number % 50 == 0:
            engine.generate([3, 14, 15], 2, do_sample=False)
        check_ledger(engine, most)


def test_interrupts_at_any_moment(engine: HybridEngine, tmp_path: Path) -> None:
    """Ctrl-C in a run and in a replan: ledger and device agree, and the text is the same."""
    rng = np.random.default_rng(0)
    plan(engine, "lru", "30%")
    expected = engine.generate(PROMPT, 6, do_sample=False).tokens
    for number in range(40):
        before = engine.last_run
        try:
            interrupt_after(rng.uniform(0.001, 0.3))
            if number % 2:
                engine.replan(gpu_memory=("60%", "30%")[number // 2 % 2])
            engine.generate(PROMPT, 12, do_sample=False)
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not engine.running
        if engine.last_run is not before and engine.last_run is not None:
            Trace.load(engine.last_run.trace.save(tmp_path / "run.safetensors"))  # it checks
        assert engine.generate(PROMPT, 6, do_sample=False).tokens == expected
        there = np.flatnonzero(engine.residency.places().ravel())
        assert set(there.tolist()) == device(engine).held()
        check_ledger(engine, device(engine).card_bytes)


def interrupt_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C; a moment later where Python would drop it: in what it calls by itself."""
    at = frame
    while at is not None:
        if at.f_code.co_filename == weakref.__file__ or at.f_code.co_name in _DROPS:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            return
        at = at.f_back
    signal.default_int_handler(number, frame)


_DROPS = ("gc_callback", "__del__", "_unpin")
"""Functions that Python calls by itself: it reports what they raise, and goes on."""


def test_no_events_pile_up(engine: HybridEngine) -> None:
    """Neither over generations, nor over plans that change while nothing runs."""
    plan(engine, "lru", "50%")

    def events() -> int:
        gc.collect()
        return sum(type(thing) is SimpleNamespace for thing in gc.get_objects())

    counts: list[int] = []
    for number in range(12):
        engine.generate(PROMPT, 3, do_sample=False)
        for _ in range(5):
            engine.replan(gpu_memory="30%")
            engine.replan(gpu_memory="50%")
        if number in (3, 11):
            counts.append(events())
    assert counts[1] <= counts[0] + 50


def test_a_stop_leaves_whole_layers(engine: HybridEngine) -> None:
    plan(engine, "fiddler", "50%")
    usual = device(engine).put
    run = None
    engine.session.layer, layer = (  # type: ignore[method-assign]
        lambda at, *args: (engine.stop() if at == 9 else None, layer(at, *args))[1],
        engine.session.layer,
    )
    try:
        run = engine.generate(PROMPT, 4, do_sample=False)
    finally:
        engine.session.layer = layer  # type: ignore[method-assign]
    assert run.ended == "stopped" and usual is not None
    run.trace.check()
    assert 8 <= len(np.unique(run.trace.work["layer"])) <= 10
    assert engine.generate(PROMPT, 2, do_sample=False).ended == "length"


def test_out_of_memory_goes_on_with_fewer_rows(
    engine: HybridEngine, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(engine, "stream", "50%")
    executor = engine.session.executor
    assert isinstance(executor, StreamExecutor)
    rows = executor.rows_at_once
    tokens = reference[0].repeat(1, 8)
    with torch.no_grad():
        expected = engine.model(tokens).logits
    monkeypatch.setattr("engine.stream_executor.run_expert", scarce(32))
    with torch.no_grad():
        found = engine.model(tokens).logits
    assert 16 <= executor.rows_at_once <= 32 < rows
    assert (found - expected).abs().max().item() <= 1e-4
    executor.rows_at_once = rows


def scarce(most: int) -> Any:
    """A GPU on which no more than so many rows fit."""
    from engine.expert import run_expert

    def run(module: Any, weights: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError(f"{len(x)} rows")
        return run_expert(module, weights, x)

    return run


def test_out_of_memory_for_good_leaves_the_state_intact(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(engine, "lru", "30%")
    expected = engine.generate(PROMPT, 6, do_sample=False).tokens
    with monkeypatch.context() as patch:
        patch.setattr("engine.stream_executor.run_expert", scarce(0))
        with pytest.raises(torch.OutOfMemoryError):
            engine.generate(PROMPT, 6, do_sample=False)
    assert not engine.running
    check_ledger(engine, device(engine).card_bytes)
    assert engine.generate(PROMPT, 6, do_sample=False).tokens == expected
    check_ledger(engine, device(engine).card_bytes)


def test_no_room_for_a_plan_keeps_the_one_before(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(engine, "fiddler", "30%")
    before, expected = engine.plan, engine.generate(PROMPT, 4, do_sample=False).tokens
    usual, most = runtime(engine).empty, before.room + 2

    def empty(shape: Any, dtype: Any) -> torch.Tensor:
        if len(shape) == 3 and shape[0] > most:
            raise torch.OutOfMemoryError("no room")
        return usual(shape, dtype)

    monkeypatch.setattr(runtime(engine), "empty", empty)
    with pytest.raises(DeviceError, match=r"no room for .* smaller gpu_memory"):
        engine.replan(gpu_memory="90%")
    assert engine.plan == before
    check_ledger(engine, device(engine).card_bytes)
    assert engine.generate(PROMPT, 4, do_sample=False).tokens == expected


def test_what_is_refused(engine: HybridEngine) -> None:
    with pytest.raises(BudgetError, match="more than the card's"):
        engine.replan(gpu_memory=1 << 41)
    with pytest.raises(InputError, match="device measures"):
        engine.replan(link_gbps=100.0)
    with pytest.raises(InputError, match="device='virtual'"):
        load("demo", FakeRuntime(), as_model=demo.COSTED_AS)


def test_pinning_that_fails_goes_through_buffers() -> None:
    engine = load("demo", FakeRuntime(refuses=2), gpu_memory="50%", policy="stream")
    host = device(engine).host
    assert host.pinned_bytes == 0 and "driver's error 2" in host.note
    assert host.note in device(engine).notes
    assert len(host._buffers) == 2
    expected = fv.load("demo", device="host").generate(PROMPT, 6, do_sample=False).tokens
    assert engine.generate(PROMPT, 6, do_sample=False).tokens == expected


def test_names_and_what_is_missing(monkeypatch: pytest.MonkeyPatch, engine: HybridEngine) -> None:
    assert "fake GPU" in repr(engine.device)
    assert any("cuda:1 (fake GPU)" in note for note in device(engine).notes)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"built without CUDA.*pip install.*device='virtual'"):
        fv.load("demo", device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"sees no GPU.*nvidia-smi"):
        fv.load("demo", device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="has 2 GPU"):
        cuda_runtime.open_cuda("cuda:2")
    for name in ("cuda:", "cuda:x", "cuda:-1", "cudax"):
        with pytest.raises(FiddlerError):
            fv.load("demo", device=name)


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is there is taken, but not for what-ifs of other models and machines."""
    monkeypatch.setattr(devices, "open_cuda", lambda _: FakeRuntime())
    monkeypatch.setattr(devices, "why_no_gpu", lambda: None)
    assert fv.load("demo").device.name == "cuda"
    assert fv.load("demo", hardware="rtx-4090").device.name == "virtual"
    assert fv.load("demo", as_model=demo.COSTED_AS).device.name == "virtual"
    assert fv.load("demo", device="host").device.name == "host"
