from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError, UnknownNameError
from engine.events import Action, Lane, Work
from engine.happened import Recorded
from engine.profile import Profile
from engine.replay import replay
from engine.residency import Place
from engine.trace import Trace
from engine.usage import lane_ns, place_shares
from fiddler_viz import frames
from fiddler_viz.frames import amounts, readings
from fiddler_viz.theme import Segment
from tests.fiddler_viz.make_trace import empty_trace, toy_model, toy_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace()


def routed(trace: Trace, keep: set[int]) -> dict[tuple[int, int], list[float]]:
    """Weights per (layer, expert) over the routing rows whose step is in ``keep``; the slow way."""
    found: dict[tuple[int, int], list[float]] = {}
    r = trace.routing
    for i in range(len(r)):
        if int(r.step[i]) in keep:
            for expert, weight in zip(r.experts[i].tolist(), r.weights[i].tolist(), strict=True):
                found.setdefault((int(r.layer[i]), expert), []).append(weight)
    return found


def test_popularity_counts_every_token(trace: Trace) -> None:
    shown = frames.grid(trace)
    slow = routed(trace, set(range(len(trace.step_rows))))
    most = max(map(len, slow.values()))
    for cell in np.ndindex(*shown.shape):
        assert shown.tokens[cell] == len(slow.get(cell, []))
        assert shown.amount[cell] == np.float32(len(slow.get(cell, [])) / most)
    assert shown.amount.max() == 1
    assert shown.actions.sum() == (trace.work["kind"] == Work.EXPERT).sum()
    assert (shown.ran == -1).all()
    assert shown.caption == "whole run, 11 tokens"


def test_popularity_up_to_a_step(trace: Trace) -> None:
    shown = frames.grid(trace, step=2)
    slow = routed(trace, {0, 1, 2})
    for cell in np.ndindex(*shown.shape):
        assert shown.tokens[cell] == len(slow.get(cell, []))
    work = trace.work
    now = (work["step"] == 2) & (work["kind"] == Work.EXPERT)
    assert (shown.ran >= 0).sum() == now.sum()
    for layer, expert, action in zip(
        work["layer"][now], work["expert"][now], work["action"][now], strict=True
    ):
        assert shown.ran[layer, expert] == action
    assert shown.caption.startswith("up to step 2")


def test_a_token_shows_its_weights_and_actions(trace: Trace) -> None:
    shown = frames.grid(trace, show="token", token=3)  # one of the prompt's
    mine = trace.routing.token == 3
    assert mine.sum() == trace.model.layers
    expected = np.full(shown.shape, np.nan, np.float32)
    for layer, experts, weights in zip(
        trace.routing.layer[mine],
        trace.routing.experts[mine],
        trace.routing.weights[mine],
        strict=True,
    ):
        expected[layer, experts] = weights
    np.testing.assert_array_equal(shown.amount, expected)
    assert ((shown.ran >= 0) == ~np.isnan(expected)).all()
    assert np.nansum(shown.amount) == pytest.approx(trace.model.layers)
    assert shown.caption == "token 3 “↵”, step 0"


def test_a_step_shows_its_mean_weights(trace: Trace) -> None:
    shown = frames.grid(trace, show="token", step=0)
    slow = routed(trace, {0})
    for cell in np.ndindex(*shown.shape):
        if cell in slow:
            assert shown.amount[cell] == pytest.approx(sum(slow[cell]) / 5)
        else:
            assert np.isnan(shown.amount[cell])


def test_negative_numbers_count_from_the_end(trace: Trace) -> None:
    last = frames.grid(trace, show="token")
    same = frames.grid(trace, show="token", token=-1)
    assert last.caption == same.caption
    assert "token 10" in last.caption  # 11 was sampled, never processed
    assert frames.pick_step(trace, -1) == len(trace.step_rows) - 1


@pytest.mark.parametrize("token", [11, 12, -12, 99])
def test_tokens_that_were_never_routed(trace: Trace, token: int) -> None:
    with pytest.raises(InputError, match="0 to 10"):
        frames.grid(trace, show="token", token=token)


def test_bad_choices(trace: Trace) -> None:
    with pytest.raises(UnknownNameError, match="popularity, token"):
        frames.grid(trace, show="heat")
    with pytest.raises(InputError, match="step 7"):
        frames.grid(trace, step=7)
    with pytest.raises(InputError, match="step: expected a whole number, got '3'"):
        frames.grid(trace, step="3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"token: expected a whole number, got 2\.5"):
        frames.grid(trace, show="token", token=2.5)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        frames.live_grid(np.zeros((2, 2), np.uint8), show="heat")
    names: Any = np.array(["popularity", "token"])
    with pytest.raises(UnknownNameError):
        frames.grid(trace, show=names)


def test_places_and_memory_follow_the_moves() -> None:
    trace = toy_trace(policy="lru", cache_slots=3)
    before, after = frames.places(trace, -1), frames.places(trace)
    assert frames.counts(before)["cached"] == 0
    assert frames.counts(after)["cached"] == 3
    memory = frames.memory_of(trace)
    assert memory.cached == 3 * trace.plan.expert_bytes
    assert memory.pinned == int((after == Place.PINNED).sum()) * trace.plan.expert_bytes
    with pytest.raises(InputError):
        frames.memory_of(trace, 7)


def test_segments_name_the_action() -> None:
    trace = toy_trace(policy="lru", cache_slots=3)
    found = frames.segments(trace.work)
    assert len(found) == len(trace.work_rows)
    for i in range(len(found)):
        kind, action = int(trace.work["kind"][i]), int(trace.work["action"][i])
        expected = {
            Work.DENSE: Segment.DENSE,
            Work.WEIGHTS: Segment.WEIGHTS,
            Work.ACTIVATIONS: Segment.ACTIVATIONS,
            Work.EXPERT: Segment[Action(max(action, 0)).name],
        }[Work(kind)]
        assert found.kind[i] == expected
    middle = trace.duration_ns // 2
    seen = found.within(0, middle)
    assert 0 < len(seen) < len(found)
    assert (seen.start_ns < middle).all()
    assert set(found.lane.tolist()) <= set(Lane)


def test_tokens_carry_their_share_of_the_step(trace: Trace) -> None:
    table = frames.token_table(trace)
    steps = trace.steps
    for i in range(11):
        step = int(table.step[i])
        length = int(steps["end_ns"][step] - steps["start_ns"][step])
        assert table.ns[i] == length / int(steps["tokens"][step])
    assert np.isnan(table.ns[11]) and np.isnan(table.hit_rate[11])
    assert table.generated.tolist() == [False] * 5 + [True] * 7
    assert table.text == trace.texts


def test_hit_rates_match_a_slow_count(trace: Trace) -> None:
    work, r = trace.work, trace.routing
    ran = {
        (int(s), int(layer), int(e)): int(a)
        for s, layer, e, a, k in zip(
            work["step"], work["layer"], work["expert"], work["action"], work["kind"], strict=True
        )
        if k == Work.EXPERT
    }
    rates = frames.token_table(trace).hit_rate
    for token in range(11):
        calls = [
            ran[int(r.step[i]), int(r.layer[i]), expert] == Action.RESIDENT
            for i in np.flatnonzero(r.token == token)
            for expert in r.experts[i].tolist()
        ]
        assert rates[token] == pytest.approx(sum(calls) / len(calls))


def test_routing_without_work_is_no_call(trace: Trace) -> None:
    """A step that was stopped has routed what it never ran."""
    kept = trace.work_rows[trace.work["step"] < 3]
    cut = replace(trace, happened=Recorded(kept, trace.move_rows))
    rates = frames.token_table(cut).hit_rate
    assert np.isfinite(rates[:7]).all()
    assert np.isnan(rates[7:]).all()


def test_an_empty_trace_has_empty_frames() -> None:
    trace = empty_trace()
    for show in frames.SHOWS:
        shown = frames.grid(trace, show=show)
        assert shown.is_empty
        assert shown.caption == "nothing recorded yet"
        assert frames.counts(shown.places)["pinned"] == 6
    assert len(frames.token_table(trace)) == 0
    assert len(frames.segments(trace.work)) == 0
    assert frames.memory_of(trace).pinned == 6 * trace.plan.expert_bytes


def test_a_live_grid_fills_in_what_is_not_known_yet() -> None:
    places = np.zeros((2, 3), np.uint8)
    blank = frames.live_grid(places)
    assert blank.is_empty and np.isnan(blank.amount).all()
    tokens = np.array([[4, 0, 2], [0, 0, 1]])
    assert frames.live_grid(places, tokens=tokens).amount.tolist() == [[1, 0, 0.5], [0, 0, 0.25]]


def test_tokens_without_texts_show_their_ids(trace: Trace) -> None:
    assert frames.token_table(replace(trace, texts=())).text[0] == "#0"


# ---------------------------------------------------------------------- texts


def with_places(trace: Trace, rows: list[tuple[int, int, int, int]]) -> Trace:
    """The trace with these sequences, beams, positions and parents for its tokens."""
    table = trace.token_rows.copy()
    table[:, [1, 2, 3, 5]] = rows
    return replace(trace, token_rows=table).check()


def test_one_text_reads_as_it_stands() -> None:
    trace = toy_trace(prompt_tokens=2, decode_tokens=1)
    assert [rows.tolist() for rows in readings(trace)] == [[0, 1, 2, 3]]
    padded = with_places(trace, [(0, 0, -1, -1), (0, 0, 0, -1), (0, 0, 1, 1), (0, 0, 2, 2)])
    assert [rows.tolist() for rows in readings(padded)] == [[1, 2, 3]]


def test_each_sequence_and_each_sampled_answer_is_a_text() -> None:
    trace = toy_trace(prompt_tokens=3, decode_tokens=2)
    rows = [(0, 0, 0, -1), (0, 1, 0, -1), (1, 0, 0, -1), (0, 0, 1, 0), (0, 1, 1, 1), (1, 0, 1, 2)]
    texts = readings(with_places(trace, rows))
    assert [rows.tolist() for rows in texts] == [[0, 3], [1, 4], [2, 5]]


def test_of_a_beam_search_the_best_answer_is_read() -> None:
    trace = toy_trace(prompt_tokens=2, decode_tokens=3)
    rows = [(0, 0, 0, -1), (0, 1, 0, -1), (0, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 3), (0, 0, 3, 4)]
    assert [rows.tolist() for rows in readings(with_places(trace, rows))] == [[0, 3, 4, 5]]


# ---------------------------------------------------------------------- colours


def test_time_on_the_device() -> None:
    trace = toy_trace(policy="lru", cache_slots=3)
    shown = frames.grid(trace, show="residency")
    shares = place_shares(trace)
    np.testing.assert_allclose(shown.amount, 1 - shares[Place.HOST], atol=1e-6)
    assert (shown.amount[trace.plan.pinned_grid] == 1).all()
    assert shown.coloured.parts is not None
    np.testing.assert_allclose(shown.coloured.parts.sum(axis=0), 1)
    assert frames.grid(trace, show="residency", step=2).caption.startswith("up to step 2")


def test_hit_rates_and_where_calls_are_many() -> None:
    trace = toy_trace(policy="lru", cache_slots=3)
    shown = frames.grid(trace, show="hits")
    calls = shown.actions.sum(axis=0)
    for cell in np.ndindex(*shown.shape):
        if calls[cell]:
            rate = shown.actions[Action.RESIDENT][cell] / calls[cell]
            assert shown.amount[cell] == np.float32(rate)
        else:
            assert np.isnan(shown.amount[cell])
    dots = shown.coloured.dots
    assert dots is not None and dots.sum() == 2  # a tenth of 12, rounded up
    assert calls[dots].min() >= np.sort(calls.ravel())[-2]
    assert (shown.ran == -1).all()


def test_lane_time_adds_up() -> None:
    trace = toy_trace(policy="stream")
    shown = frames.grid(trace, show="time")
    spent = lane_ns(trace)
    assert shown.coloured.most == spent.sum(axis=0).max()
    assert np.nanmax(shown.amount) == 1
    work = trace.work
    mine = work["expert"] >= 0
    assert spent.sum() == (work["end_ns"] - work["start_ns"])[mine].sum()
    copied = 2 * spent[Lane.H2D] > spent.sum(axis=0)
    assert shown.coloured.dots is not None and not (shown.coloured.dots & ~copied).any()


def test_a_difference_is_in_shares_of_tokens(trace: Trace) -> None:
    other = toy_trace(prompt_tokens=9, decode_tokens=3)
    less = frames.grid(trace, show="difference", against=frames.shares(other))
    parts = less.coloured.parts
    assert parts is not None
    np.testing.assert_allclose(parts.sum(axis=2), trace.model.top_k)
    for number, source in enumerate((trace, other)):
        tokens = frames.grid(source).tokens
        np.testing.assert_allclose(parts[number], 2 * tokens / tokens.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(less.amount * less.coloured.most, parts[0] - parts[1], atol=1e-6)
    assert np.abs(less.amount).max() <= 1
    same = frames.grid(trace, show="difference", against=frames.shares(trace))
    assert not same.amount.any() and not same.coloured.dots.any()
    profile = frames.grid(trace, show="difference")
    assert f"less the profile, {trace.plan.profile.source}" in profile.caption


def test_a_difference_to_another_grid_is_refused(trace: Trace) -> None:
    other = frames.shares(toy_trace(model=toy_model(layers=2)))
    with pytest.raises(InputError, match="against: 2 layers x 4 experts, this has 3 x 4"):
        frames.grid(trace, show="difference", against=other)


@pytest.mark.parametrize(
    ("value", "most"),
    [(0.0, 0.01), (0.009, 0.01), (0.37, 0.4), (0.4, 0.4), (1.2, 2), (0.0123, 0.02)],
)
def test_a_scale_ends_in_one_digit(value: float, most: float) -> None:
    assert amounts._round_up(value) == pytest.approx(most)


def test_a_layer_without_tokens_has_no_share() -> None:
    counts = np.array([[1, 3], [0, 0]])
    found = frames.shares(Profile.of(counts, 4, "a test"), 2)
    assert found.share[0].tolist() == [0.5, 1.5] and np.isnan(found.share[1]).all()
    less = amounts.difference(counts, 2, found)
    assert np.isnan(less.amount[1]).all() and less.most == 0.01


def test_edits_by_hand_are_those_of_the_plan_in_force(trace: Trace) -> None:
    edited = replay(trace, pin=(0, 0), unpin=(1, 1)).trace
    for shown in (frames.grid(edited), frames.grid(edited, show="token", token=2)):
        assert shown.by_hand == edited.plan.by_hand
    assert not frames.grid(trace).by_hand
