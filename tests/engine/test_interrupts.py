"""Real Ctrl-C at any moment: afterwards the engine is usable and its memory consistent."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import fiddler_viz as fv
from engine.errors import FiddlerError, InputError
from engine.events import STEPS
from engine.hybrid import HybridEngine
from engine.notes import Notes
from engine.recorder import Recorder
from engine.replay import replay
from engine.residency import Place
from engine.trace import Trace

COMPLETE = (STEPS.names or ()).index("complete")


def interrupt_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """A Ctrl-C, but for where Python drops it: hypothesis counts the collector's time in a callback
    of the collector's, whose exceptions nobody gets. Then it comes a moment later."""
    if frame is not None and frame.f_code.co_name == "gc_callback":
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        return
    raise KeyboardInterrupt


def assert_usable(engine: HybridEngine) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert not engine.running
    assert engine.generate("ok", 2).ended in ("length", "eos")
    ledger = engine.residency
    resident = set(np.flatnonzero(ledger.places().ravel() != Place.HOST).tolist())
    assert engine.device.held() == resident
    assert ledger.used_bytes <= ledger.budget_bytes
    assert set(engine.session.orchestrator.policy.cache) == set(ledger.cached())


def test_during_a_replan(engine: HybridEngine) -> None:
    rng = random.Random(0)
    for _ in range(20):
        engine.replan(gpu_memory="0%")
        try:
            interrupt_after(rng.uniform(0.001, 0.03))
            engine.replan(gpu_memory="100%")
            signal.setitimer(signal.ITIMER_REAL, 0)  # it may come until here, and no later
        except KeyboardInterrupt:
            pass
        assert_usable(engine)


def test_during_a_run(engine: HybridEngine, tmp_path: Path) -> None:
    engine.replan(policy="lru", gpu_memory="20%")
    rng = random.Random(1)
    for _ in range(20):
        before = engine.last_run
        try:
            interrupt_after(rng.uniform(0.005, 0.4))
            engine.generate("To be, or not to be", 40, do_sample=False)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            pass
        assert_usable_trace = engine.last_run
        assert_usable(engine)
        if assert_usable_trace is before or assert_usable_trace is None:
            continue
        trace = Trace.load(assert_usable_trace.trace.save(tmp_path / "run.safetensors"))
        again = replay(trace).trace
        np.testing.assert_array_equal(again.work_rows, trace.work_rows)
        np.testing.assert_array_equal(again.move_rows, trace.move_rows)


@pytest.mark.parametrize("written", [False, True])
def test_while_layers_are_written_down(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """All at a step's end, and the interrupt just before or after the eighth layer of the third."""
    tell, told = Notes.layer, 0

    def layer(notes: Notes, *args: Any) -> None:
        nonlocal told
        told += 1
        if told != 72 or written:
            tell(notes, *args)
        if told == 72:
            raise KeyboardInterrupt

    monkeypatch.setattr("engine.session.WRITE_NS", 10**12)
    monkeypatch.setattr(Notes, "layer", layer)
    with pytest.raises(KeyboardInterrupt):
        engine.generate("To be, or not to be", 40, do_sample=False)
    assert engine.last_run is not None
    trace = engine.last_run.trace
    of_third = trace.routing.where(trace.routing.step == 2)
    assert of_third.layer.tolist() == list(range(32)), "none is lost, none is there twice"
    again = replay(trace).trace
    np.testing.assert_array_equal(again.work_rows, trace.work_rows)
    np.testing.assert_array_equal(again.move_rows, trace.move_rows)
    assert_usable(engine)


@pytest.mark.parametrize("written", [False, True])
def test_while_a_step_is_written_down(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """All of its layers ran: it is there, once, cut short where its own row was not written."""
    tell = Recorder.step

    def step(recorder: Recorder, row: Any) -> None:
        stop = recorder.step_count == 2 and row[COMPLETE]
        if not stop or written:
            tell(recorder, row)
        if stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "step", step)
    with pytest.raises(KeyboardInterrupt):
        engine.generate("To be, or not to be", 40, do_sample=False)
    assert engine.last_run is not None
    trace = engine.last_run.trace
    assert trace.steps["complete"].tolist() == [1, 1, int(written)]
    of_third = trace.routing.where(trace.routing.step == 2)
    assert of_third.layer.tolist() == list(range(32))
    again = replay(trace).trace
    np.testing.assert_array_equal(again.work_rows, trace.work_rows)
    np.testing.assert_array_equal(again.move_rows, trace.move_rows)
    assert_usable(engine)


class Torn(np.ndarray[Any, Any]):
    """An interrupt comes as its bytes are asked for."""

    def tobytes(self, *_: Any) -> bytes:
        raise KeyboardInterrupt


@pytest.mark.parametrize("at", [4, 5])
def test_while_one_layer_is_written_down(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """What came of it before, its predictions or choices, is not there twice."""
    whole = engine.generate("To be, or not to be", 4, do_sample=False, predictions=True).trace
    tell, told = Notes.layer, 0

    def layer(notes: Notes, *args: Any) -> None:
        nonlocal told
        told += 1
        if told == 72:
            args = (*args[:at], args[at].view(Torn), *args[at + 1 :])
        tell(notes, *args)

    monkeypatch.setattr("engine.session.WRITE_NS", 10**12)
    monkeypatch.setattr(Notes, "layer", layer)
    with pytest.raises(KeyboardInterrupt):
        engine.generate("To be, or not to be", 4, do_sample=False, predictions=True)
    assert engine.last_run is not None
    routing = engine.last_run.trace.routing
    there, expected = (each.where(each.step == 2) for each in (routing, whole.routing))
    assert there.layer.tolist() == list(range(32))
    for name in ("experts", "weights", "predicted"):
        np.testing.assert_array_equal(getattr(there, name), getattr(expected, name))
    assert_usable(engine)


def test_a_refused_stream_leaves_the_other_run_alone(engine: HybridEngine) -> None:
    refused: list[str] = []

    def disturb(_: str) -> None:
        if not refused:
            with pytest.raises(FiddlerError, match="already generating"):
                list(engine.stream("a b c", 5))
            refused.append("yes")

    assert engine.generate("once upon a time", 20, on_text=disturb).ended != "stopped"


def test_the_model_alone_works_after_a_stop(engine: HybridEngine) -> None:
    run = engine.generate("hello there", 30, on_text=lambda _: engine.stop())
    assert run.ended == "stopped"
    steps = len(engine.recorder.step_rows())
    with torch.no_grad():
        engine.model(torch.tensor([[5, 6, 7]]))
    assert len(engine.recorder.step_rows()) == steps, "a run that is over grows no more"


def test_a_failed_call_keeps_the_last_run(engine: HybridEngine) -> None:
    run = engine.generate("keep me", 3)
    with pytest.raises(ValueError, match="temprature"):
        engine.generate("x", 3, temprature=1)
    assert engine.last_run is run


def test_prompts_as_a_tokenizer_gives_them(engine: HybridEngine) -> None:
    made = engine.tokenizer("To be, or not", return_tensors="pt")
    expected = engine.generate("To be, or not", 4, do_sample=False).tokens
    assert engine.generate(made, 4, do_sample=False).tokens == expected
    ids = made["input_ids"]
    assert engine.generate(ids.numpy(), 4, do_sample=False).tokens == expected
    for bad in (None, 5, 1.5, b"abc", {"a"}, torch.zeros(1, 0), torch.zeros(1, 2, 3), [2**70]):
        with pytest.raises(InputError):
            engine.generate(bad, 4)


def test_options_that_would_break_the_record(engine: HybridEngine) -> None:
    for options in ({"streamer": object()}, {"num_beams": 0}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(InputError):
            engine.generate("ok", 2, **options)
    config = engine.model.generation_config.__class__(num_beams=6, pad_token_id=0)
    with pytest.raises(InputError, match="max_sequences"):
        engine.generate("ok", 2, generation_config=config)


def test_a_measured_device_is_no_other_model() -> None:
    with pytest.raises(InputError, match="measures what really runs"):
        fv.load("demo", device="host", as_model="mixtral-8x7b")
