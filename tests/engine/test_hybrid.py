"""The engine as users hold it: replans, stops, interrupts, errors; and replays that agree."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, GenerationConfig
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

import fiddler_viz as fv
from engine.errors import BudgetError, FiddlerError, InputError
from engine.events import StepKind, Why
from engine.history import memory_at, places_at
from engine.hybrid import HybridEngine
from engine.policies import LIVE
from engine.replay import replay, run_plans
from engine.residency import Place
from engine.run import Run
from engine.spec import HardwareSpec
from engine.trace import Trace
from fiddler_viz import frames
from fiddler_viz.terminal import describe

PROMPT = "JULIET:\nO Romeo, Romeo! wherefore art thou Romeo?\n"


def assert_same(ours: Trace, theirs: Trace) -> None:
    for name in ("step_rows", "work_rows", "move_rows"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def assert_memory_is_consistent(engine: HybridEngine) -> None:
    """Both ledgers: the costed bytes within the budget, the arena's real ones within its room."""
    ledger, arena = engine.residency, engine.device
    assert ledger.used_bytes <= ledger.budget_bytes
    assert arena.used_bytes <= arena.capacity_bytes
    resident = set(np.flatnonzero(ledger.places().ravel() != Place.HOST).tolist())
    assert arena.held() == resident
    for flat in resident:
        layer, expert = divmod(flat, ledger.grid[1])
        kept = engine.session.store.weights(layer, expert)
        assert all(
            torch.equal(a, b) for a, b in zip(arena.get(flat).parts, kept.parts, strict=True)
        )


def generate_with(engine: HybridEngine, at: dict[int, Callable[[], Any]], tokens: int = 24) -> Run:
    """Generate; call `at[n]` after n pieces of text came (from inside the run)."""
    seen = 0

    def on_text(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen in at:
            at[seen]()

    return engine.generate(PROMPT, tokens, on_text=on_text, do_sample=False)


@pytest.mark.parametrize("policy", list(LIVE))
@pytest.mark.parametrize("cache", [False, True], ids=["no-cache", "cache"])
def test_replay_equals_the_run(engine: HybridEngine, policy: str, cache: bool) -> None:
    engine.replan(policy=policy, cache_slots=20 if cache else 0)
    engine.generate("warm the cache up", 8)  # so that the recording starts from a used cache
    run = engine.generate(PROMPT, 24, do_sample=False)
    assert_same(replay(run.trace).trace, run.trace)
    assert_memory_is_consistent(engine)


@pytest.mark.parametrize("policy", list(LIVE))
def test_replay_equals_the_run_after_replans(engine: HybridEngine, policy: str) -> None:
    others = [name for name in LIVE if name != policy]
    rng = random.Random(policy)
    engine.replan(policy=policy, cache_slots=10)
    run = generate_with(
        engine,
        {
            2: lambda: engine.replan(gpu_memory="40GB"),
            4: lambda: engine.replan(gpu_memory="12GB", cache_slots=5),
            6: lambda: engine.replan(policy=rng.choice(others), cache_slots=12),
            8: lambda: engine.replan(hardware="h200"),
            10: lambda: engine.replan(policy=policy, gpu_memory="60%", cache_slots=40),
        },
        tokens=60,
    )
    assert len(run.trace.plan_list) >= 4
    assert_same(replay(run.trace).trace, run.trace)
    assert_memory_is_consistent(engine)
    last = len(run.trace.step_rows) - 1
    np.testing.assert_array_equal(places_at(run.trace, last), engine.residency.places())
    assert memory_at(run.trace, last) == engine.residency.memory()


def test_a_saved_trace_replays_equally(engine: HybridEngine, tmp_path: Any) -> None:
    engine.replan(policy="lru", cache_slots=30)
    run = generate_with(engine, {3: lambda: engine.replan(gpu_memory="30GB")}, 12)
    loaded = Trace.load(run.trace.save(tmp_path / "run.safetensors"))
    assert loaded.plan_list == run.trace.plan_list
    assert_same(replay(loaded).trace, run.trace)
    assert loaded.texts == run.trace.texts


@pytest.mark.parametrize("policy", ["fiddler", "lru"])
def test_pins_by_hand_while_it_runs_replay_equally(
    engine: HybridEngine, policy: str, tmp_path: Any
) -> None:
    engine.replan(policy=policy, gpu_memory="24GB", cache_slots=20, reset_pins=True)
    hottest = divmod(engine.plan.pinned[0], 8)
    edits = {
        2: lambda: engine.replan(pin=[(17, 3), 4]),
        4: lambda: engine.replan(unpin=hottest),
        6: lambda: engine.replan(gpu_memory="30GB"),
        8: lambda: engine.replan(reset_pins=True),
    }
    run = generate_with(engine, edits, 10)
    plans = [plan for _, plan in run.trace.plan_list]
    assert [str(plan.by_hand) for plan in plans] == [
        "",
        "9 pinned by hand",
        *["9 pinned and 1 unpinned by hand"] * 2,
        "",
    ]
    assert plans[1].pinned_grid[4].all() and plans[1].pinned_grid[17, 3]
    assert not plans[2].pinned_grid[hottest]
    loaded = Trace.load(run.trace.save(tmp_path / "edited.safetensors"))
    assert loaded.plan_list == run.trace.plan_list
    assert_same(replay(loaded).trace, run.trace)
    with pytest.raises(BudgetError, match="24 pinned by hand do not fit"):
        engine.replan(gpu_memory="5GB", pin=[0, 1, 2])


def test_replan_is_recorded(engine: HybridEngine) -> None:
    engine.replan(gpu_memory="12GB")
    run = generate_with(engine, {3: lambda: engine.replan(gpu_memory="24GB")})
    (_, before), (step, after) = run.trace.plan_list
    assert 0 < step < len(run.trace.step_rows)
    moves = run.trace.moves
    pinned = (moves["why"] == Why.PIN) & (moves["step"] == step)
    assert pinned.sum() == len(after.pinned) - len(before.pinned)
    assert (moves["bytes"][pinned] == after.expert_bytes).all()
    waited = run.trace.steps["end_ns"] - run.trace.steps["start_ns"]
    assert waited[step] > pinned.sum() * after.costs.copy_ns


def test_a_replan_of_the_hardware_is_told_by_the_plans(engine: HybridEngine) -> None:
    """Nothing says for good what the hardware was when the run began."""
    run = generate_with(engine, {3: lambda: engine.replan(hardware="h200")})
    assert run.trace.plans["hardware"].tolist() == ["rtx-4090", "h200"]
    assert "H200" in run.trace.machine
    assert "hardware" not in run.trace.meta
    assert "H200" in describe(run.trace) and "4090" not in describe(run.trace)


def test_random_replans_from_another_thread(engine: HybridEngine) -> None:
    done = threading.Event()

    def disturb() -> None:
        rng = random.Random(0)
        while not done.is_set():
            engine.replan(
                gpu_memory=f"{rng.randint(0, 100)}%",
                policy=rng.choice(list(LIVE)),
            )
            time.sleep(0.002)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        run = engine.generate(PROMPT, 40, do_sample=False)
    finally:
        done.set()
        thread.join()
    assert_same(replay(run.trace).trace, run.trace)
    assert_memory_is_consistent(engine)


def test_replans_of_several_threads_lose_nothing(engine: HybridEngine) -> None:
    for _ in range(5):
        engine.replan(reset_pins=True)
        threads = [
            threading.Thread(target=lambda layer=layer: engine.replan(pin=[(layer, 7)]))
            for layer in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(engine.plan.by_hand.pinned) == {8 * layer + 7 for layer in range(8)}
    engine.replan(reset_pins=True)


def test_tokens_of_a_trace(engine: HybridEngine) -> None:
    run = engine.generate(PROMPT, 10, do_sample=False)
    tokens, prompt = run.trace.tokens, len(engine.tokenizer(PROMPT)["input_ids"])
    assert tokens["id"][prompt:].tolist() == list(run.tokens[0])
    assert tokens["step"].tolist() == [0] * prompt + [*range(1, 10), -1]
    assert tokens["position"].tolist() == list(range(prompt + 10))
    assert "".join(run.trace.texts[prompt:]) == run.text
    assert run.trace.steps["kind"].tolist() == [StepKind.PREFILL] + [StepKind.DECODE] * 9
    assert len(run.trace.routing) == (prompt + 9) * 32
    np.testing.assert_allclose(run.trace.routing.weights.sum(axis=1), 1.0, rtol=1e-5)


def test_a_text_goes_on_with_a_cache_of_its_beginning(engine: HybridEngine) -> None:
    cache = DynamicCache()
    first = engine.generate(PROMPT, 6, do_sample=False, past_key_values=cache)
    known = cache.get_seq_length()
    text = PROMPT + first.text
    whole = engine.generate(text, 6, do_sample=False)
    run = engine.generate(text, 6, do_sample=False, past_key_values=cache)
    assert run.text == whole.text
    positions = whole.trace.tokens["position"]
    np.testing.assert_array_equal(run.trace.tokens["position"], positions[known:])
    np.testing.assert_array_equal(run.trace.steps["context"], whole.trace.steps["context"])
    assert_same(replay(run.trace).trace, run.trace)


def test_batch_positions() -> None:
    engine = fv.load("demo", max_sequences=2)
    run = engine.generate(["one", "one two three four"], 3, do_sample=False)
    trace = run.trace
    assert trace.tokens["position"].min() == -1, "padding"
    real = len(np.unique(trace.unpadded.token))
    assert frames.grid(trace).caption == f"whole run, {real} tokens"
    for sequence in (0, 1):
        mine = trace.tokens["position"][trace.tokens["sequence"] == sequence]
        assert mine[mine >= 0].tolist() == list(range(int(mine.max()) + 1))
    assert_same(replay(trace).trace, trace)


def test_stop_from_another_thread(engine: HybridEngine) -> None:
    started = threading.Event()
    threading.Thread(target=lambda: (started.wait(), engine.stop())).start()
    run = engine.generate(PROMPT, 200, on_text=lambda _: started.set(), do_sample=False)
    assert run.ended == "stopped"
    assert 0 < len(run.tokens[0]) < 200
    assert_same(replay(run.trace).trace, run.trace)
    assert engine.generate(PROMPT, 4).ended == "length"


def test_stop_in_a_long_prefill(engine: HybridEngine) -> None:
    prompt = [5] * 900
    timer = threading.Timer(0.15, engine.stop)
    timer.start()
    run = engine.generate(prompt, 4)
    timer.join()
    assert run.ended == "stopped"
    assert run.trace.steps["complete"].tolist() in ([0], [])
    assert_same(replay(run.trace).trace, run.trace)
    assert_memory_is_consistent(engine)


@pytest.mark.parametrize("where", [1, 40, 100])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupt_in_mid_generation(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch, where: int, error: type[BaseException]
) -> None:
    """Anywhere, also between the ledger's entry and the device's copy."""
    engine.replan(policy="lru", cache_slots=40)
    calls = 0
    put = engine.device.put

    def failing(flat: int, weights: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == where:
            raise error("from a test")
        put(flat, weights)

    monkeypatch.setattr(engine.device, "put", failing)
    with pytest.raises(error):
        engine.generate(PROMPT, 20)
    monkeypatch.undo()
    run = engine.last_run
    assert run is not None
    assert run.ended == ("interrupted" if error is KeyboardInterrupt else "error")
    assert len(run.trace.step_rows) >= 1
    assert run.trace.steps["complete"][-1] == 0
    assert_memory_is_consistent(engine)
    assert engine.generate(PROMPT, 4).ended == "length"


def test_streaming(engine: HybridEngine) -> None:
    pieces = list(engine.stream(PROMPT, 16, do_sample=False))
    assert "".join(pieces) == engine.generate(PROMPT, 16, do_sample=False).text
    stream = engine.stream(PROMPT, 300, do_sample=False)
    next(stream)
    stream.close()
    assert engine.last_run is not None
    assert engine.last_run.ended == "stopped"
    with pytest.raises(InputError, match="empty"):
        list(engine.stream(""))


def test_what_takes_text_must_be_callable(engine: HybridEngine) -> None:
    before = engine.last_run
    with pytest.raises(InputError, match=r"on_text: expected a function of one text, .* got 3"):
        engine.generate(PROMPT, 2, on_text=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave on_text out, or call"):
        engine.stream(PROMPT, 2, on_text=print)
    assert engine.last_run is before and not engine.running


def test_one_generation_at_a_time(engine: HybridEngine) -> None:
    def again() -> None:
        with pytest.raises(FiddlerError, match="already generating"):
            engine.generate("and again", 2)

    run = generate_with(engine, {2: again}, 6)
    assert run.ended == "length"


@pytest.mark.parametrize("count", [1, 2])
def test_two_engines_side_by_side(engine: HybridEngine, count: int) -> None:
    """Each with its own pool of threads for the kernels."""
    alone = engine.generate(PROMPT, 16, do_sample=False)
    if count > 1:
        engine = fv.load("demo", gpu_memory="24GB", as_model="mixtral-8x7b", threads=count)
    other = fv.load("demo", gpu_memory="30%", policy="lru", threads=count)
    runs: dict[str, Run] = {}

    def work(name: str, which: HybridEngine) -> None:
        runs[name] = which.generate(PROMPT, 16, do_sample=False)

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", engine), ("b", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs["a"].tokens == runs["b"].tokens == alone.tokens
    assert runs["a"].trace.model.name == "mixtral-8x7b"
    assert runs["b"].trace.model.name == "demo"
    for run in runs.values():
        assert_same(replay(run.trace).trace, run.trace)


def test_viewers_read_what_the_trace_keeps(engine: HybridEngine) -> None:
    run = generate_with(engine, {2: lambda: engine.replan(gpu_memory="30GB")}, 8)
    recorder = engine.recorder
    assert recorder is not None
    work, moves = recorder.notes.read().rows()
    np.testing.assert_array_equal(recorder.step_rows(), run.trace.step_rows)
    np.testing.assert_array_equal(recorder.token_rows(), run.trace.token_rows)
    np.testing.assert_array_equal(work, run.trace.work_rows)
    np.testing.assert_array_equal(moves, run.trace.move_rows)
    assert tuple(recorder.texts) == run.trace.texts
    assert tuple(recorder.plans) == run.trace.plan_list


def test_without_a_record(engine: HybridEngine) -> None:
    run = engine.generate(PROMPT, 6, record=False, do_sample=False)
    assert run.tokens == engine.generate(PROMPT, 6, do_sample=False).tokens
    assert len(run.trace.work_rows) == 0


def test_host_device_is_measured() -> None:
    engine = fv.load("demo", device="host")
    run = engine.generate(PROMPT, 8, do_sample=False)
    trace = run.trace
    assert trace.summary.clock == "measured"
    assert trace.summary.tokens_per_s == trace.summary.tokens_per_s_low
    work = trace.work
    assert (work["start_ns"] <= work["end_ns"]).all()
    order = np.argsort(work["start_ns"], kind="stable")
    assert (work["end_ns"][order][:-1] <= work["start_ns"][order][1:]).all(), "one lane, in series"
    assert replay(trace).trace is trace
    again = run_plans(trace, trace.plan_list, trace.start)  # the same decisions, modelled
    for name in ("step", "layer", "expert", "action", "tokens"):
        ours, theirs = (t.work[name][t.work["expert"] >= 0] for t in (again, trace))
        np.testing.assert_array_equal(ours, theirs)
    what_if = replay(trace, gpu_memory="50%", policy="fiddler")
    assert what_if.summary.clock == "modelled"
    assert "4090" in what_if.trace.machine
    assert trace.machine == "the CPU of the host, no GPU"
    assert "4090" not in describe(trace) and "plan        none" in describe(trace)
    assert "Host memory" in fv.memory(engine).layout.title.text
    with pytest.raises(InputError, match="no device memory"):
        engine.replan(gpu_memory="1GB")


NO_GPU = replace(
    HardwareSpec.preset("rtx-4090"), name="mine", accelerator=False, gpu_memory_bytes=0
)


def test_hardware_without_a_gpu_runs_on_the_host(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    NO_GPU.save(path)
    for hardware in (NO_GPU, str(path)):
        engine = fv.load("demo", hardware=hardware)
        assert engine.device.name == "host"
        assert engine.generate(PROMPT, 2).summary.clock == "measured"
    for options in ({"gpu_memory": "50%"}, {"gpu_memory": "50%", "device": "virtual"}):
        what_if = fv.load("demo", hardware=NO_GPU, **options)
        assert what_if.device.name == "virtual" and len(what_if.plan.pinned) == 128


@pytest.mark.parametrize(
    "options",
    [
        {"device": "virtual"},
        {"as_model": "mixtral-8x7b"},
        {"policy": "lru"},
        {"cache_slots": 2},
        {"planner": "random"},
    ],
)
def test_what_takes_a_gpu_asks_for_its_memory(options: dict[str, Any]) -> None:
    message = r"hardware 'mine' has no GPU whose memory .* give gpu_memory= .* to run on the CPU"
    with pytest.raises(InputError, match=message):
        fv.load("demo", hardware=NO_GPU, **options)
    with pytest.raises(InputError, match="has no GPU whose memory"):
        fv.synthetic("mixtral-8x7b", hardware=NO_GPU)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "empty"),
        ("  \n", {}, "empty"),
        ([], {}, "empty"),
        ([1, 99999], {}, "0 to 2047"),
        ([{"role": "user", "content": "hi"}], {}, "chat template"),
        ([1.5], {}, "expected text"),
        ("ok", {"max_new_tokens": 0}, "at least 1"),
        ("ok", {"max_new_tokens": 2000}, "the model has 1024"),
        ("ok", {"num_beams": 8}, "max_sequences=8"),
        ([-(2**70)], {}, "0 to 2047"),
        ([[1, 2**70]], {}, "0 to 2047"),
        (torch.tensor([1 + 2j]), {}, "0 to 2047"),
        (np.array([1 + 2j]), {}, "0 to 2047"),
        (np.array([2**63 + 1], np.uint64), {}, "0 to 2047"),
        (np.array([True]), {}, "torch.bool"),
        (np.array([""]), {}, "empty"),
        (np.array(["a", 1], object), {}, "array of token ids or of texts, got one of object"),
        (np.array([b"a"]), {}, "got one of |S1"),
        (np.array(["2026-01-01"], "datetime64[D]"), {}, r"got one of datetime64"),
        ("a \ud800 b", {}, "half of a surrogate pair .'.ud800'.*decode the text anew"),
        (["a", "\udfff"], {}, "half of a surrogate pair"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, {}, "2 in each text, got 1"),
        ({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1]]}, {}, r"\[2, 1\] in .* got 2"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, {}, "0 between 1s"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, {}, "text 1 of 1 is 0 everywhere"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 2]]}, {}, "or 0 .padding., got 2"),
        ({"input_ids": [[1, 2]], "attention_mask": [["x", 1]]}, {}, "got 'x'"),
        ({"input_ids": [[1, 2]], "attention_mask": "11"}, {}, "2 in each text, got 1"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1], 1]}, {}, r"expected \(tokens,\) or"),
        ({"attention_mask": [[1]]}, {}, "needs input_ids"),
    ],
)
def test_bad_prompts(engine: HybridEngine, prompt: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.generate(prompt, **options)
    assert engine.generate("ok", 2).ended == "length"


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.uint32, np.int64, np.uint64])
def test_ids_of_any_integers(engine: HybridEngine, kind: Any) -> None:
    ids = [5, 6, 7]
    tokens = engine.generate(ids, 3, do_sample=False).tokens
    array = np.array(ids, kind)
    array.flags.writeable = False
    for prompt in (array, array[None], list(array), torch.tensor(array.copy())):
        assert engine.generate(prompt, 3, do_sample=False).tokens == tokens


def test_an_array_of_texts_is_a_list_of_them(engine: HybridEngine) -> None:
    run = engine.generate(PROMPT, 3, do_sample=False)
    for prompt in (np.array(PROMPT), np.array([PROMPT])):
        assert engine.generate(prompt, 3, do_sample=False).tokens == run.tokens


_TWICE = "runs the model more than once for each token"
_GUESSED = "several guessed tokens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": 1.5}, f"guidance_scale=1.5 cannot be used here: .*{_TWICE}"),
        ({"penalty_alpha": 0.6, "top_k": 4}, _TWICE),
        ({"logits_processor": [Guidance(2.0, None)]}, _TWICE),
        ({"dola_layers": "high"}, "no longer a part of transformers"),
        ({"constraints": [3]}, "no longer a part"),
        ({"force_words_ids": [[3]]}, "no longer a part"),
        ({"num_beam_groups": 2, "num_beams": 2}, "no longer a part"),
        ({"prompt_lookup_num_tokens": 3}, _GUESSED),
        ({"assistant_early_exit": 3}, _GUESSED),
        ({"assistant_model": object()}, _GUESSED),
        ({"use_mtp": True}, _GUESSED),
        ({"token_healing": True}, "rewrites the prompt"),
        ({"cache_implementation": "paged"}, "another loop"),
        ({"custom_generate": "x"}, "another loop"),
        (
            {"generation_config": GenerationConfig(guidance_scale=3.0)},
            "guidance_scale=1 goes first",
        ),
        ({"generation_config": {}}, "expected a transformers.GenerationConfig, got {}; single"),
        ({"generation_config": []}, "got \\[\\]"),
        ({"generation_config": "xyz"}, "got 'xyz'"),
        ({"inputs": [1]}, "give it as the prompt"),
        ({"input_ids": [1]}, "give it as the prompt"),
        ({"foo": 1}, r"transformers cannot generate with these options: .*\['foo'\]"),
        ({"do_sample": True, "temperature": 0}, "`temperature` .=0. has to be"),
        ({"do_sample": True, "top_k": "x"}, "`top_k` has to be"),
        ({"past_key_values": 3}, "these options: .*'int'"),
        ({"do_sample": False, "num_return_sequences": 3}, "max_sequences=3"),
        ({"num_beams": 2, "num_return_sequences": 3}, "no more answers than beams; .* at most 2"),
        ({"record": float("nan")}, "record: expected True or False, got nan"),
        ({"predictions": "x"}, "predictions: expected True or False, got 'x'"),
        ({"max_time": "x"}, "max_time .seconds.: expected a number"),
        ({"stopping_criteria": 3}, "stopping_criteria: expected a list"),
        ({"logits_processor": "x"}, "logits_processor: expected a list"),
    ],
)
def test_options_that_cannot_be(engine: HybridEngine, options: Any, message: str) -> None:
    before = engine.generate("ok", 2)
    with pytest.raises(InputError, match=message):
        engine.generate("ok", 3, **options)
    assert engine.last_run is before


@pytest.mark.parametrize(
    "off",
    [
        {"guidance_scale": None},
        {"guidance_scale": 1},
        {"guidance_scale": np.float64(1)},
        {"penalty_alpha": 0, "top_k": 4},
        {"dola_layers": None, "use_mtp": False, "streamer": None, "assistant_model": None},
        {"generation_config": GenerationConfig(penalty_alpha=0.6, top_k=4), "penalty_alpha": 0},
        {"stop_strings": None, "stopping_criteria": None, "logits_processor": []},
    ],
)
def test_options_that_are_off(engine: HybridEngine, off: Any) -> None:
    plain = engine.generate("ok", 3, do_sample=False)
    assert engine.generate("ok", 3, **{"do_sample": False} | off).tokens == plain.tokens


def test_modes_of_the_model_s_own_configuration(
    engine: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.model.generation_config, "guidance_scale", 1.5)
    with pytest.raises(InputError, match="a configuration has it, guidance_scale=1 goes first"):
        engine.generate("ok", 2)
    assert engine.generate("ok", 2, guidance_scale=1).ended == "length"


def test_errors_after_the_first_step_are_not_called_options(engine: HybridEngine) -> None:
    def bad(*_: Any) -> Any:
        raise ValueError("of the caller's own")

    with pytest.raises(ValueError, match="of the caller's own") as caught:
        engine.generate("ok", 3, logits_processor=[bad])
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gpu_memory": "1GB"}, BudgetError, "smallest budget that works"),
        ({"gpu_memory": "24 GiB of"}, InputError, "24 GiB of"),
        ({"cache_slots": -1}, InputError, "0 to 55"),
        ({"cache_slots": 56}, InputError, "0 to 55"),
        ({"policy": "fidler"}, InputError, "fiddler"),
        ({"hardware": "rtx-9999"}, InputError, "rtx-4090"),
        ({"planner": "best"}, InputError, "popularity"),
        ({"planner": []}, InputError, "popularity"),
    ],
)
def test_bad_replans(engine: HybridEngine, change: Any, error: Any, message: str) -> None:
    plan = engine.plan
    with pytest.raises(error, match=message):
        engine.replan(**change)
    assert engine.plan is plan


def test_the_smallest_budget_works(engine: HybridEngine) -> None:
    with pytest.raises(BudgetError) as caught:
        engine.replan(gpu_memory="1GB")
    assert caught.value.minimum_bytes is not None
    engine.replan(gpu_memory=caught.value.minimum_bytes)
    assert engine.plan.room == 0
    assert engine.generate("ok", 2).summary.hit_rate == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_model": "qwen3-30b-a3b"}, "same grid"),
        ({"device": "tpu"}, "host, virtual, cuda"),
        ({"device": "cuda:x"}, "'cuda:1', got 'cuda:x'"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"dtype": np.array([1, 2])}, "unknown dtype"),
        ({"device": np.array([1, 2])}, "unknown device"),
        ({"quantize": np.array([1, 2])}, "quantize: expected"),
        ({"name": np.array([1, 2])}, "load, name: expected a text"),
        ({"name": 0}, "load, name: expected a text"),
        ({"name": ""}, "load, name: expected a text"),
        ({"max_tokens": 0}, "at least 1"),
        ({"policy": "best"}, "lru"),
        ({"planner": []}, "unknown planner"),
        ({"profile": 3}, "profile: expected a Profile or the path of a file .* got int"),
    ],
)
def test_bad_loads(options: Any, message: str) -> None:
    with pytest.raises(FiddlerError, match=message):
        fv.load("demo", **options)


def test_training_is_refused(engine: HybridEngine) -> None:
    embeds = torch.zeros(1, 3, 96, requires_grad=True)
    with pytest.raises(FiddlerError, match="cannot be trained"):
        engine.model(inputs_embeds=embeds)
    assert engine.generate("ok", 2).ended == "length"


def test_repr(engine: HybridEngine) -> None:
    assert repr(engine) == (
        "HybridEngine(demo as mixtral-8x7b on virtual, Plan(24.0 GB on rtx-4090: 55 of 256 "
        "experts pinned, 0 cache slots, policy 'fiddler'))"
    )


def test_threads(engine: HybridEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = torch.get_num_threads()
    seen: list[int] = []
    generate = engine.model.generate
    monkeypatch.setattr(
        engine.model,
        "generate",
        lambda *a, **k: (seen.append(torch.get_num_threads()), generate(*a, **k))[1],
    )
    assert engine.threads == 1, "the demo's experts are too small to share"
    engine.generate("ok", 2)
    assert (seen, torch.get_num_threads()) == ([1], usual)


@pytest.mark.parametrize("threads", [0, -1, 10**9, 10**30, 1.5, True, "2"])
def test_threads_that_no_machine_has(threads: Any) -> None:
    with pytest.raises(InputError, match=r"threads: expected a whole number from 1 to \d+ \(16"):
        fv.load("demo", threads=threads)
