"""The probe: every step, expert and layer of a generation is timed, and the model is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from engine.generated import generated_model
from engine.loader import model_spec
from engine.store import ExpertStore
from engine.timing import Laps, Probe, Samples


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return generated_model(
        layers=3, experts=4, hidden=32, expert_width=48, heads=4, kv_heads=2, vocabulary=64,
        positions=64, dtype=torch.float32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def probe(model: PreTrainedModel) -> Probe:
    return Probe(model, model_spec(model, ExpertStore(model), "small"))


def test_all_of_a_generation_is_timed(probe: Probe) -> None:
    steps = probe.run(5, 4)
    assert [(laps.tokens, laps.context) for laps in steps] == [(5, 5), (1, 6), (1, 7), (1, 8)]
    for laps in steps:
        assert laps.layers == len(laps.counts) == len(laps.expert_ns) == 3
        assert [sum(counts) for counts in laps.counts] == [2 * laps.tokens] * 3  # top-2
        assert list(map(len, laps.counts)) == list(map(len, laps.expert_ns))
        parts = laps.dense_ns + sum(map(sum, laps.expert_ns)) + laps.head_ns
        assert 0 < parts <= laps.end_ns - laps.start_ns
    assert steps[1].counts == [[1, 1]] * 3


def test_samples_are_generations(probe: Probe) -> None:
    samples = Samples()
    first = samples.take(0, probe.run(5, 3))
    second = samples.take(1, probe.run(1, 3))
    assert samples.generations == [first, second]
    assert [each.round for each in samples.generations] == [0, 1]
    assert [[laps.context for laps in each.prefill] for each in (first, second)] == [[5], []]
    assert [[laps.context for laps in each.decode] for each in (first, second)] == [
        [6, 7],
        [1, 2, 3],
    ]
    whole = [laps.whole_ns for laps in first.decode]
    assert min(whole) <= first.step_ns <= max(whole)
    assert first.context == 6.5


def test_the_pace_is_that_of_the_same_decode_steps() -> None:
    """Longer contexts take longer, at the same pace."""
    samples = Samples()
    for at, pace in enumerate((1.0, 1.5, 1.0, 0.8, 1.0)):
        for context in (10, 1000, 2000):
            ns = round(pace * (1_000_000 + 500 * context))
            samples.take(at, [Laps(5, 1, context, end_ns=5 + ns)])
    paces = np.array(samples.paces()).reshape(5, 3)
    assert paces == pytest.approx(np.array([[1.0, 1.5, 1.0, 0.8, 1.0]]).T * np.ones(3), rel=0.02)


def test_the_model_is_left_as_it_was(probe: Probe, model: PreTrainedModel) -> None:
    modules = ExpertStore(model).modules
    mark = object()
    for module in modules:
        module.fiddler_session = mark
    threads = torch.get_num_threads()
    probe.run(2, 2)
    assert all(module.fiddler_session is mark for module in modules)
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert torch.get_num_threads() == threads
