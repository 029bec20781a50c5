"""Decode steps as graphs: the same results, and steps as ever where a graph cannot hold them.

What stands for a GPU's graphs does what they do (`tests/engine/fake_graph.py`): nothing while it is
recorded, the same operations on the same memory at every replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine import decode_graphs
from engine.decode_graphs import LEAST_NEW, DecodeGraphs
from engine.errors import FiddlerError, InputError
from engine.hybrid import HybridEngine
from engine.recording import Recording
from engine.trace import Trace
from tests.engine.fake_runtime import FakeRuntime
from tests.engine.test_cuda import load
from tests.engine.tiny_models import save_tiny

IDS = [5, 9, 20, 31, 8, 77, 3]
NEW = 12


def tiny(folder: Path, kind: str, **options: Any) -> HybridEngine:
    if not (folder / kind).exists():
        save_tiny(folder / kind, kind)
    return load(folder / kind, FakeRuntime(), gpu_memory="50%", max_tokens=64, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture
def mixtral(folder: Path) -> HybridEngine:
    return tiny(folder, "mixtral")


@pytest.fixture
def plain(folder: Path) -> HybridEngine:
    return tiny(folder, "mixtral", cuda_graphs=False)


def graphs(engine: HybridEngine) -> DecodeGraphs:
    found = engine._generator._graphs
    assert found is not None
    return found


def run(engine: HybridEngine, ids: Any = IDS, new: int = NEW, **options: Any) -> Any:
    return engine.generate(ids, new, do_sample=False, eos_token_id=None, **options)


def rows(columns: Mapping[str, Any]) -> Any:
    """Of a table, without times, which are measured and differ: in an order of their own."""
    kept = [columns[name] for name in columns if name not in ("start_ns", "end_ns")]
    table = np.stack(kept)
    return table[:, np.lexsort(table)]


def same(one: Trace, other: Trace) -> bool:
    """The same choices, predictions, decisions and moves."""
    mine, theirs = one.routing, other.routing
    return (
        np.array_equal(mine.experts, theirs.experts)
        and np.allclose(mine.weights, theirs.weights, atol=1e-5)
        and np.array_equal(mine.predicted, theirs.predicted)
        and np.array_equal(rows(one.work), rows(other.work))
        and np.array_equal(rows(one.moves), rows(other.moves))
    )


@pytest.mark.parametrize(
    "kind",
    # usual; sliding windows and biases; shared experts begun early, latent attention; routers that
    # are given another state than experts; transposed weights
    ["mixtral", "gpt_oss", "deepseek_v3", "gemma4_text", "aria_text"],
)
def test_a_run_is_the_same(folder: Path, kind: str) -> None:
    ours, exact = tiny(folder, kind), tiny(folder, kind, cuda_graphs=False)
    before = graphs(ours).replayed
    assert before == LEAST_NEW - 3  # when it was opened: warmed up, recorded, checked
    for policy, ids in (("fiddler", IDS), ("prefetch", IDS[:1]), ("lru", IDS[::-1])):
        for engine in (ours, exact):
            engine.replan(policy=policy, gpu_memory="50%")
        mine, theirs = (run(engine, ids, predictions=True) for engine in (ours, exact))
        assert mine.tokens == theirs.tokens and same(mine.trace, theirs.trace)
        mine.trace.check()
    assert graphs(ours).replayed == before + 3 * (NEW - 1) - 2 and graphs(ours).why_not is None


def test_texts_side_by_side_and_longer_ones(
    folder: Path, plain: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graphs, "LEAST_POSITIONS", 32)
    engines = [
        load(folder / "mixtral", FakeRuntime(), gpu_memory="50%", max_tokens=200, max_sequences=2,
             **options)
        for options in ({}, {"cuda_graphs": False})
    ]  # fmt: skip
    ids = np.random.default_rng(0).integers(100, size=(2, 70)).tolist()
    cases = ([IDS, IDS[::-1]], 3), (IDS, 3), (ids[0], 3), (ids[1], 1), (IDS, 3)
    for prompt, first in cases:  # two rows; one; another length, twice; back again
        before = graphs(engines[0]).replayed
        mine, theirs = (run(engine, prompt) for engine in engines)
        assert mine.tokens == theirs.tokens
        assert graphs(engines[0]).replayed == before + NEW - first


def test_a_plan_that_changes_while_it_generates(mixtral: HybridEngine, folder: Path) -> None:
    plans = iter(["0%", "100%", "25%", "75%"] * 3)

    def change(_: Any, __: Any) -> Any:
        mixtral.replan(gpu_memory=next(plans))
        return __

    exact = run(tiny(folder, "mixtral", cuda_graphs=False)).tokens
    changed = run(mixtral, logits_processor=[change])
    assert changed.tokens == exact and len(changed.trace.plans) > 4
    assert graphs(mixtral).replayed > NEW - 3
    changed.trace.check()


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ([IDS, IDS[:3]], {}),  # padded
        (IDS, {"num_beams": 2}),
        (IDS, {"cache_implementation": "static"}),
        (IDS, {"output_router_logits": True}),
    ],
)
def test_steps_that_a_graph_cannot_hold_run_as_ever(
    folder: Path, prompt: Any, options: dict[str, Any]
) -> None:
    engine = tiny(folder, "mixtral", max_sequences=2)
    before = graphs(engine).replayed
    assert len(run(engine, prompt, **options).tokens[0]) == NEW
    assert graphs(engine).replayed == before and graphs(engine).why_not is None


def test_few_tokens_grow_their_cache(mixtral: HybridEngine) -> None:
    before = graphs(mixtral).replayed
    run(mixtral, new=LEAST_NEW - 1)
    assert graphs(mixtral).replayed == before
    run(mixtral, new=LEAST_NEW)
    assert graphs(mixtral).replayed == before + LEAST_NEW - 3


def test_a_prompt_in_chunks(mixtral: HybridEngine, plain: HybridEngine) -> None:
    mine, theirs = (run(engine, prefill_chunk_tokens=3) for engine in (mixtral, plain))
    assert mine.tokens == theirs.tokens and len(mine.trace.step_rows) == len(theirs.trace.step_rows)


def test_models_whose_cache_moves_say_so(folder: Path) -> None:
    engine = tiny(folder, "qwen3_next")
    why = graphs(engine).why_not or ""
    assert "kernel by kernel, not as graphs: its cache has layers that are a" in why
    assert why in engine.device.notes and repr(graphs(engine)) == f"DecodeGraphs({why})"
    assert len(run(engine).tokens[0]) == NEW and graphs(engine).replayed == 0


class Odd:
    """A layer norm that does more than it should."""

    def __init__(self, engine: HybridEngine) -> None:
        self.norm = engine.model.model.norm
        self.plain = self.norm.forward
        self.count = 0
        self.norm.forward = self

    def __call__(self, x: Tensor) -> Tensor:
        return self.plain(x)


class Waits(Odd):
    def __call__(self, x: Tensor) -> Tensor:
        return self.plain(x) * (1.0 if x.abs().sum().item() >= 0 else 2.0)


class Changes(Odd):
    def __call__(self, x: Tensor) -> Tensor:
        self.count += x.shape[1] == 1
        return self.plain(x) * (1 + self.count)


class Breaks(Odd):
    """As an interrupt may, while it is recorded."""

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.count == 4:  # prompt; first step; second on the recording's stream, then recorded
            raise KeyboardInterrupt
        return self.plain(x)


def anew(engine: HybridEngine) -> DecodeGraphs:
    """Its graphs, with nothing recorded yet."""
    found = graphs(engine)
    found._forget()
    found._cache = found._key = None
    return found


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Waits, "not permitted while a stream is recorded"), (Changes, "not the step after it")],
)
def test_what_a_graph_cannot_hold_is_found(
    mixtral: HybridEngine, kind: type[Odd], reason: str
) -> None:
    found = anew(mixtral)
    before = found.replayed
    kind(mixtral)
    assert len(run(mixtral).tokens[0]) == NEW
    assert reason in (found.why_not or "") and found.replayed == before
    assert any(reason in note for note in mixtral.device.notes)
    assert len(run(mixtral).tokens[0]) == NEW  # and later runs do not try again


def test_an_interrupt_while_it_is_recorded(mixtral: HybridEngine, plain: HybridEngine) -> None:
    found = anew(mixtral)
    odd = Breaks(mixtral)
    with pytest.raises(KeyboardInterrupt):
        run(mixtral)
    mode = torch.utils._python_dispatch._get_current_dispatch_mode()
    assert mode is None and found.why_not is None  # nothing goes on recording
    before = found.replayed
    assert run(mixtral).tokens == run(plain).tokens and odd.count > 4
    assert found.replayed == before + NEW - 3


def test_no_more_waits_than_without(mixtral: HybridEngine, plain: HybridEngine) -> None:
    waits = []
    for engine in (mixtral, plain):
        run(engine)
        before = engine.device.runtime.host_waits
        run(engine)
        waits.append(engine.device.runtime.host_waits - before)
    assert waits[0] <= waits[1]


def test_on_and_off(
    mixtral: HybridEngine, plain: HybridEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graphs, "LEAST_POSITIONS", 32)  # a plan counts both caches
    assert plain._generator._graphs is None
    run(mixtral)
    graphs(mixtral).wanted = False
    before = graphs(mixtral).replayed
    run(mixtral)
    assert graphs(mixtral).replayed == before and repr(graphs(mixtral)) == "DecodeGraphs(recorded)"
    for device in ("virtual", "host"):
        with pytest.raises(InputError, match="cuda_graphs: no effect here"):
            HybridEngine.load(folder / "mixtral", device=device, cuda_graphs=True)
    with pytest.raises(InputError, match="cuda_graphs"):
        HybridEngine.load(folder / "mixtral", device="cuda", cuda_graphs="yes")  # type: ignore[arg-type]


def test_the_model_is_its_own_again_once_it_is_closed(mixtral: HybridEngine) -> None:
    model = mixtral.model
    assert "forward" in vars(model)
    mixtral.close()
    assert "forward" not in vars(model)


def test_a_call_that_is_refused_leaves_the_run_under_way_as_it_is(
    mixtral: HybridEngine, plain: HybridEngine
) -> None:
    exact, refused, seen = run(plain).tokens, [], []

    def other(_: Tensor, scores: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) == 6:
            with pytest.raises(FiddlerError, match="already generating") as error:
                run(mixtral, IDS[::-1])
            refused.append(error)
        return scores

    run(mixtral)
    assert run(mixtral, logits_processor=[other]).tokens == exact and refused


def test_what_an_earlier_run_left_in_the_cache_spoils_nothing(
    mixtral: HybridEngine, plain: HybridEngine
) -> None:
    run(mixtral)
    cache = graphs(mixtral)._cache
    assert cache is not None
    for layer in cache.layers:
        layer.values[:, :, 40:] = float("inf")  # as a longer text with an overflow
    assert run(mixtral).tokens == run(plain).tokens


def test_models_set_otherwise_run_as_ever(mixtral: HybridEngine, plain: HybridEngine) -> None:
    exact = run(plain).tokens
    with torch.inference_mode():
        assert run(mixtral).tokens == exact
    assert run(mixtral).tokens == exact
    before = graphs(mixtral).replayed
    for engine in (mixtral, plain):
        engine.model.config.output_router_logits = True
    assert run(mixtral).tokens == exact
    for engine in (mixtral, plain):
        engine.model.config.output_router_logits = False
    AttentionInterface.register("unmasked", sdpa_attention_forward)
    try:
        for engine in (mixtral, plain):
            engine.model.set_attn_implementation("unmasked")
        assert run(mixtral).tokens == run(plain).tokens
    finally:
        for engine in (mixtral, plain):
            engine.model.set_attn_implementation("sdpa")
    assert graphs(mixtral).replayed == before and graphs(mixtral).why_not is None
    run(mixtral)
    assert graphs(mixtral).replayed > before


def test_two_caches_are_not_more_than_a_plan_counts(folder: Path) -> None:
    engine = tiny(folder, "mixtral", max_sequences=2)
    run(engine)
    run(engine, IDS, 3)  # its own cache, as small as this, fits beside
    assert graphs(engine)._cache is not None
    run(engine, [IDS * 6, IDS[::-1] * 6], NEW, num_beams=1, output_router_logits=True)
    assert graphs(engine)._cache is None


def test_where_memory_has_no_room_for_graphs_shorter_texts_may_still_be_recorded(
    folder: Path, plain: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graphs, "LEAST_POSITIONS", 16)
    engine = tiny(folder, "mixtral")
    found = graphs(engine)
    with monkeypatch.context() as patch:
        patch.setattr(Recording, "record", no_room := Mock(side_effect=torch.OutOfMemoryError))
        assert run(engine, IDS, 40).tokens == run(plain, IDS, 40).tokens
        assert no_room.call_count == 1 and found.why_not is None
        run(engine, IDS, 40)
        assert no_room.call_count == 1
    before = found.replayed
    run(engine)
    assert found.replayed > before
