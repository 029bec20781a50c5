"""Shared experts begun early: same results, and truly before the routed ones are through."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fiddler_viz as fv
from engine import opening, popularity
from engine.beside import Beside
from engine.devices import VirtualDevice
from engine.hybrid import HybridEngine
from engine.loader import load_model
from engine.store import ExpertStore
from tests.engine.tiny_models import save_tiny

PROMPT = [3, 14, 15, 92, 65, 35]
AFTER = ("deepseek_v3", "glm4_moe", "aria_text", "cohere2_moe")
FIRST = ("mixtral", "qwen2_moe", "ernie4_5_moe", "nemotron_h")
"""Their shared experts, if any, come first or are given another state."""


class Concurrent(VirtualDevice):
    """Stands for a device that computes by itself: the CPU's experts run in a thread beside it."""

    concurrent = True


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, **options: Any) -> HybridEngine:
    save_tiny(folder, kind)
    monkeypatch.setattr(opening, "open_device", lambda _, store: Concurrent(store))
    monkeypatch.setattr(popularity, "WINDOWS", 1)
    monkeypatch.setattr(popularity, "WINDOW_TOKENS", 32)
    return fv.load(folder, **options)


@pytest.mark.parametrize("kind", AFTER + FIRST)
def test_which_modules_need_not_wait(tmp_path: Path, kind: str) -> None:
    save_tiny(tmp_path, kind)
    probe = ExpertStore(load_model(tmp_path)).probe
    assert len(probe.beside) == len(probe.modules)
    assert all((module is not None) == (kind in AFTER) for module in probe.beside)


@pytest.mark.parametrize("kind", [*AFTER, "mixtral"])
@pytest.mark.parametrize("budget", ["0%", "50%", "100%"])
def test_a_concurrent_device_gives_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, budget: str
) -> None:
    plain = save_tiny(tmp_path / "plain", kind)
    engine = load(monkeypatch, tmp_path / kind, kind, gpu_memory=budget)
    for prompt in (PROMPT, PROMPT * 5):
        with torch.no_grad():
            exact = plain.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
        run = engine.generate(prompt, 8, do_sample=False)
        assert list(run.tokens[0]) == exact[0, len(prompt) :].tolist()


def test_they_begin_before_the_routed_experts_are_through(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The CPU's experts wait for the shared ones to be computed: without overlap, for ever."""
    engine = load(monkeypatch, tmp_path, "deepseek_v3", gpu_memory="0%", policy="cpu")
    lane = engine.session.executor.lane
    begun, calls = threading.Event(), list[int]()
    begin, work = Beside.begin, lane.run

    def first(self: Beside, hidden: Tensor) -> None:
        begin(self, hidden)
        calls.append(1)
        begun.set()

    def then(layer: int, hidden: Tensor, parts: Any) -> Any:
        assert begun.wait(timeout=30)
        begun.clear()
        return work(layer, hidden, parts)

    monkeypatch.setattr(Beside, "begin", first)
    monkeypatch.setattr(lane, "run", then)
    engine.generate(PROMPT, 4, do_sample=False)
    assert len(calls) == 3 * 4  # three layers have experts


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def test_the_answer_is_given_once_and_only_for_its_input() -> None:
    module = Doubled()
    beside = Beside(module)
    hidden = torch.randn(6, 4)
    beside.begin(hidden)
    assert torch.equal(module(hidden.view(2, 3, 4)), 2 * hidden.view(2, 3, 4))
    assert module.calls == 1
    module(hidden)
    assert module.calls == 2  # nothing begun
    beside.begin(hidden)
    other = torch.randn(6, 4)
    assert torch.equal(module(other), 2 * other) and module.calls == 4
    beside.begin(hidden)
    hidden += 1
    assert torch.equal(module(hidden), 2 * hidden) and module.calls == 6
    with torch.inference_mode():
        given = torch.randn(6, 4)
        beside.begin(given)
        assert torch.equal(module(given), 2 * given) and module.calls == 7
    beside.close()
    assert "forward" not in vars(module)
    assert repr(beside) == "Beside(Doubled)"
