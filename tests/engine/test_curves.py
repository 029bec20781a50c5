from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from engine.curves import HIT_POLICIES, SIMULATED, hit_curves
from engine.errors import InputError, UnknownNameError
from engine.policies import POLICIES
from engine.replay import replay, replay_plan
from engine.trace import Trace
from tests.engine.builders import MODEL, recorded, toy_plan

TOTAL = MODEL.experts_total


@pytest.fixture(scope="module")
def trace() -> Trace:
    return recorded(3, toy_plan(4), steps=30)


def hits_of(trace: Trace) -> int:
    return trace.summary.calls["resident"]


def test_curves_equal_replays_at_every_size(trace: Trace) -> None:
    """Of every policy that both can do."""
    curves = hit_curves(trace, sizes=range(TOTAL + 1))
    for room in range(TOTAL + 1):
        budget = trace.plan.minimum_bytes + room * MODEL.expert_bytes
        for name in ("static", *sorted(set(curves.curves) & set(POLICIES))):
            policy = "cpu" if name == "static" else name
            again = replay(trace, gpu_memory=budget, policy=policy).trace
            assert hits_of(again) == curves[name].hits[room], (name, room)
            assert again.summary.hit_rate == pytest.approx(curves[name].hit_rate[room])


def test_with_pinned_experts_the_cache_sees_the_rest(trace: Trace) -> None:
    pinned = (0, 1, 2, 3, 4)  # what the toy plan pins first
    curves = hit_curves(trace, pinned=pinned)
    assert curves.pinned == 5 and 0 < curves.pinned_calls < curves.calls
    for slots in range(TOTAL - 5 + 1):
        plan = toy_plan(5 + slots, slots, "lru")
        assert plan.pinned == pinned
        assert hits_of(replay_plan(trace, plan).trace) == curves["lru"].hits[slots]
    for name, curve in curves.curves.items():
        assert curve.hits[0] == curves.pinned_calls, name
        assert curve.slots[-1] == TOTAL - 5


def test_static_equals_brute_force_and_opt_is_never_beaten() -> None:
    """Of the thousand random runs that the stacks are tested with, these are whole traces."""
    for seed in range(60):
        trace = recorded(seed, toy_plan(4), steps=6)
        curves = hit_curves(trace, sizes=range(TOTAL + 1))
        flat = trace.batch.flat.tolist()
        calls = [flat.count(expert) for expert in range(TOTAL)]
        popular = trace.plan.profile.array.ravel().tolist()
        for slots in range(TOTAL + 1):
            ranked = sorted(range(TOTAL), key=lambda expert: -popular[expert])[:slots]
            assert curves["static"].hits[slots] == sum(calls[expert] for expert in ranked)
            assert curves["oracle"].hits[slots] == sum(sorted(calls)[::-1][:slots])
        for name in HIT_POLICIES:
            assert curves[name].slots.tolist() == list(range(TOTAL + 1))
            assert (curves[name].hits <= curves["opt"].hits + 1e-9).all(), name
        assert (curves["oracle"].hits >= curves["static"].hits).all()


def test_the_cliff_is_one_tokens_set(trace: Trace) -> None:
    curves = hit_curves(trace)
    assert curves.cliff == MODEL.layers * MODEL.top_k
    assert hit_curves(trace, pinned=range(4)).cliff == curves.cliff - MODEL.top_k  # a whole layer
    assert curves["lru"].hit_rate[curves.cliff - 1] < curves["opt"].hit_rate[curves.cliff - 1]


def test_simulated_sizes_are_those_asked_for(trace: Trace) -> None:
    curves = hit_curves(trace, ("lfu", "lru"), sizes=(12, 0, 5, 5))
    assert list(curves.curves) == ["lfu", "lru"]
    assert curves["lfu"].slots.tolist() == [0, 5, 12] and "lfu" in SIMULATED
    assert len(curves["lru"].slots) == TOTAL + 1
    frame = curves.to_pandas()
    assert list(frame.columns) == ["policy", "slots", "on_device", "hit_rate"]
    assert len(frame) == 3 + TOTAL + 1
    assert frame.hit_rate.between(0, 1).all()


def test_random_is_the_mean_of_all_choices(trace: Trace) -> None:
    curve = hit_curves(trace, ("random",))["random"]
    assert np.allclose(curve.hit_rate, np.arange(TOTAL + 1) / TOTAL)


def test_a_run_without_steps_has_no_rates() -> None:
    curves = hit_curves(recorded(1, toy_plan(2), steps=0, aborts=0.0))
    assert curves.calls > 0 and curves.cliff > 0
    empty = recorded(0, toy_plan(2), steps=-1)
    curves = hit_curves(empty)
    assert curves.calls == 0 and curves.cliff == 0
    assert np.isnan(curves["lru"].hit_rate).all()


def test_wrong_arguments_say_what_was_expected(trace: Trace) -> None:
    with pytest.raises(UnknownNameError, match="opt, lru, static"):
        hit_curves(trace, ("lruu",))
    with pytest.raises(UnknownNameError, match="Valid names: lru"):
        hit_curves(trace, ("lru",))["opt"]
    with pytest.raises(InputError, match=r"pinned: .* from 0 to 11, got 12"):
        hit_curves(trace, pinned=[12])
    with pytest.raises(InputError, match=r"sizes: .* from 0 to 10, got 11"):
        hit_curves(trace, pinned=[0, 3], sizes=[11])
    with pytest.raises(InputError, match="half_life"):
        hit_curves(trace, half_life=0)
    whatever: Any = 5
    with pytest.raises(UnknownNameError, match="unknown policy 5"):
        hit_curves(trace, whatever)
    with pytest.raises(InputError, match=r"pinned: expected several .* write pinned=\[5\]"):
        hit_curves(trace, pinned=whatever)
    with pytest.raises(InputError, match=r"sizes: expected several .* write sizes=\[5\]"):
        hit_curves(trace, sizes=whatever)
    for name in ("pinned", "sizes"):
        for wrong in ("", "3", b"24GB", b"", np.array(3)):
            with pytest.raises(InputError, match=rf"{name}: expected several .* write {name}=\["):
                hit_curves(trace, **{name: wrong})
    one: Any = np.array("lrfu"), np.array(3.0)
    given = hit_curves(trace, one[0], half_life=one[1])
    assert (given["lrfu"].hits == hit_curves(trace, "lrfu", half_life=3.0)["lrfu"].hits).all()
    with pytest.raises(InputError, match="policies: expected one or more"):
        hit_curves(trace, [])
    assert list(hit_curves(trace, "lru").curves) == ["lru"]


def test_curves_can_be_sent_to_another_process(trace: Trace) -> None:
    found = hit_curves(trace)
    back = pickle.loads(pickle.dumps(found))
    assert back.to_pandas().equals(found.to_pandas())
