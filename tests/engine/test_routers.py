"""Routers asked ahead; tests/engine/test_architectures.py does so for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import UnsupportedModelError
from engine.loader import load_model
from engine.routers import Router, Routers
from engine.store import ExpertStore
from tests.engine.tiny_models import save_tiny


def routers(folder: Path, kind: str) -> Routers:
    save_tiny(folder, kind)
    return Routers(ExpertStore(load_model(folder)))


def test_softmax_router_by_hand(tmp_path: Path) -> None:
    router = routers(tmp_path, "mixtral")[1]
    hidden = torch.randn(5, 32)
    index, scores = router(hidden)
    exact = (hidden @ router.module.weight.T).softmax(dim=-1)  # (5, 8)
    assert torch.allclose(scores, exact, atol=1e-6)
    assert torch.equal(index, exact.topk(2).indices)
    assert "MixtralTopKRouter" in repr(router)


def test_a_correction_moves_the_choice_but_not_the_scores(tmp_path: Path) -> None:
    """DeepSeek-V3's routers choose by a corrected score."""
    found = routers(tmp_path, "minimax_m2")
    router, hidden = found[0], torch.randn(5, 32)
    before, scores = router(hidden)
    (correction,) = (value for _, value in found._routes[0].extras)
    correction[3] += 100
    index, same = router(hidden)
    assert (index == 3).any(dim=1).all() and not (before == 3).any(dim=1).all()
    assert torch.equal(same, scores)


def test_one_token_and_half_precision(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    router = Routers(ExpertStore(load_model(tmp_path, "bfloat16")))[0]
    index, scores = router(torch.randn(1, 32, dtype=torch.bfloat16))
    assert index.shape == (1, 2)
    assert (scores.shape, scores.dtype) == ((1, 8), torch.float32)


def test_routers_that_cannot_be_asked_say_why(tmp_path: Path) -> None:
    found = routers(tmp_path, "deepseek_v4")
    assert found.get(0) is None
    assert "token ids" in (found.why_not(0) or "")
    with pytest.raises(UnsupportedModelError, match=r"layer 0 cannot be asked.*HashRouter"):
        found[0]
    assert isinstance(found[3], Router)
    assert repr(found) == "Routers(1/4)"


def test_watching_ends_with_its_handle(tmp_path: Path) -> None:
    router = routers(tmp_path, "mixtral")[0]
    seen: list[Tensor] = []
    handle = router.watch(seen.append)
    router.module(torch.zeros(3, 32))  # as its model does
    router(torch.zeros(5, 32))  # we ask: that is not what its model gives it
    handle.remove()
    router.module(torch.zeros(3, 32))
    assert [tuple(hidden.shape) for hidden in seen] == [(3, 32)]
