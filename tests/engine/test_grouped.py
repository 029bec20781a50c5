"""Experts in one call are what they are one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.device_rows import pairs_by_expert
from engine.expert import run_expert
from engine.grouped import groups, run_grouped, window
from engine.loader import load_model
from engine.store import ExpertStore, ExpertWeights
from tests.engine.tiny_models import save_tiny


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "nemotron_h", "aria_text", "gemma4_text"])
def test_as_one_by_one(tmp_path: Path, kind: str, dtype: str) -> None:
    save_tiny(tmp_path, kind)
    store = ExpertStore(load_model(tmp_path, dtype))
    module, fused = store.modules[0], store.fused(0)
    counts = [3, 0, 1, 5, 0, 2, 0, 4][: store.experts]
    first, last = window([0, len(counts) - 1])
    block = ExpertWeights(*(None if part is None else part[first:last] for part in fused))
    hidden = store.weights(0, 0).sizes(module.is_transposed)[0]
    x = torch.randn(sum(counts), hidden).to(store.dtype)  # (rows, H)
    ends = torch.tensor(np.cumsum(counts), dtype=torch.int32)
    of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    with torch.no_grad():
        ours = run_grouped(module, block, x, ends, of).double()
        parts = x.split(counts)
        theirs = torch.cat(
            [run_expert(module, store.weights(0, at), part) for at, part in enumerate(parts)]
        ).double()
    nmse = (((ours - theirs) ** 2).sum() / (theirs**2).sum()).item()
    assert nmse <= (1e-11 if dtype == "float32" else 1e-4)


def test_what_cannot_be_grouped() -> None:
    plain = ExpertWeights(torch.zeros(16, 8), torch.zeros(8, 8))
    assert groups(plain)
    odd = ExpertWeights(torch.zeros(14, 7), torch.zeros(7, 7))
    assert not groups(odd)
    levels = torch.zeros(16, 8, dtype=torch.int8)
    assert not groups(ExpertWeights(levels, levels, None, None, torch.zeros(16), torch.zeros(8)))


def test_pairs_by_expert() -> None:
    rng = np.random.default_rng(0)
    for tokens in (1, 5, 40):
        chosen = rng.integers(8, size=(tokens, 3))
        experts = [int(each) for each in rng.permutation(np.unique(chosen))]
        pairs, bounds = pairs_by_expert(chosen, experts)
        assert len(bounds) == len(experts) and bounds[-1][1] == len(pairs) == chosen.size
        for expert, (begin, end) in zip(experts, bounds, strict=True):
            places = pairs[begin:end]
            assert (chosen.ravel()[places] == expert).all() and len(places) == end - begin
            assert (np.diff(places) > 0).all()
