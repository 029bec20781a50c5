from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

import fiddler_viz as fv
from engine.trace import Trace
from fiddler_viz.figures import describe_routing_flow, routing_flow_figure
from fiddler_viz.figures.routing_flow import (
    KINDS,
    MOST_FLOWS,
    _column,
    _labelled,
    follows,
    headline,
    kind_of,
    strongest,
)
from fiddler_viz.frames import Flow, flow
from tests.fiddler_viz.make_trace import empty_trace, toy_model, toy_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(decode_tokens=30)


def slow_pairs(trace: Trace, layer: int) -> Counter[tuple[int, int]]:
    """Token by token."""
    chosen: dict[tuple[int, int], list[int]] = {}
    routing = trace.routing
    for at, token, experts in zip(
        routing.layer.tolist(), routing.token.tolist(), routing.experts.tolist(), strict=True
    ):
        chosen[at, token] = experts
    pairs: Counter[tuple[int, int]] = Counter()
    for (at, token), above in chosen.items():
        if at == layer and (layer + 1, token) in chosen:
            pairs.update((a, b) for a in above for b in chosen[layer + 1, token])
    return pairs


@pytest.mark.parametrize("layer", [0, 1, -2])
def test_pairs_are_counted_token_by_token(trace: Trace, layer: int) -> None:
    found = flow(trace, layer)
    assert found.layer == layer % 3 and not found.picked
    slow = slow_pairs(trace, layer % 3)
    assert {(a, b): int(found.pairs[a, b]) for a, b in np.argwhere(found.pairs).tolist()} == slow
    assert found.pairs.sum() == found.tokens * found.top_k**2


def test_padding_and_missing_layers_do_not_count(trace: Trace) -> None:
    tokens = trace.token_rows.copy()
    position = list(trace.tokens).index("position")
    tokens[3, position] = -1
    assert flow(replace(trace, token_rows=tokens), 0).tokens == flow(trace, 0).tokens - 1
    cut = trace.routing.where(~((trace.routing.layer == 1) & (trace.routing.token == 5)))
    assert flow(replace(trace, routing=cut), 0).tokens == flow(trace, 0).tokens - 1


def coupled(always: bool) -> Flow:
    """Layer 1 chooses what layer 0 chose, or anything."""
    made = toy_trace(model=toy_model(layers=2, experts=8), decode_tokens=300)
    routing, rng = made.routing, np.random.default_rng(1)
    experts = np.argsort(rng.random((len(routing), 8)), axis=1)[:, :2].astype(np.int16)
    upper = routing.layer == 0
    if always:
        order = np.argsort(routing.token[upper]), np.argsort(routing.token[~upper])
        below = experts[~upper]
        below[order[1]] = experts[upper][order[0]]
        experts[~upper] = below
    return flow(replace(made, routing=replace(routing, experts=experts)), 0)


def test_what_is_told_is_measured_against_shuffled_tokens() -> None:
    same, random = coupled(True), coupled(False)
    assert same.guessed == 1 and same.shuffled < 0.5
    assert abs(random.guessed - random.shuffled) < 0.05


def test_lift_is_one_by_chance() -> None:
    lift = coupled(False).lift
    assert abs(float(np.nanmean(lift)) - 1) < 0.05
    assert (np.diag(coupled(True).lift) > 2).all()


def test_the_layer_that_tells_most_is_picked(trace: Trace) -> None:
    found = flow(trace)
    gains = [flow(trace, at).guessed - flow(trace, at).shuffled for at in (0, 1)]
    assert found.picked and found.layer == int(np.argmax(gains))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (3, "0 to 1"), (-4, "0 to 1"), ("a", "0 to 1"), (True, "0 to 1"), (2, "last"),
        (-1, "last"), (np.int64(3), "0 to 1"), (np.array([0, 1]), "0 to 1"), (np.int8(2), "last"),
    ],
)  # fmt: skip
def test_layers_without_a_next_one(trace: Trace, layer: int, words: str) -> None:
    with pytest.raises(fv.InputError, match=words):
        fv.routing_flow(trace, layer=layer)


def test_a_layer_of_numpy_s(trace: Trace) -> None:
    assert fv.routing_flow(trace, layer=np.int64(1)) == fv.routing_flow(trace, layer=1)  # type: ignore[arg-type]
    assert fv.routing_flow(trace, layer=np.array(1)) == fv.routing_flow(trace, layer=1)  # type: ignore[arg-type]


def test_one_layer_has_no_flow() -> None:
    with pytest.raises(fv.InputError, match="at least 2"):
        fv.routing_flow(toy_trace(model=toy_model(layers=1)))


def test_bands_are_as_wide_as_their_flows(trace: Trace) -> None:
    found = flow(trace, 0)
    rows, columns = strongest(found)
    amount = found.pairs[rows, columns]
    for numbers in (rows, columns):
        known, (start, end), bands = _column(numbers, amount)
        wide = bands[1] - bands[0]
        np.testing.assert_allclose(wide / wide.sum(), amount / amount.sum())
        assert end[-1] == pytest.approx(1) and (start[1:] > end[:-1]).all()
        for i, expert in enumerate(known):  # within their expert, side by side
            mine = np.sort(bands[:, numbers == expert], axis=1)
            np.testing.assert_allclose(mine[1, :-1], mine[0, 1:])
            assert (mine[0, 0], mine[1, -1]) == pytest.approx((start[i], end[i]))


def bands(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.type == "scatter" and trace.fill == "toself"]


def test_all_flows_or_the_strongest_which_is_said(trace: Trace) -> None:
    found = flow(trace, 0)
    figure = routing_flow_figure(found)
    assert len(bands(figure)) == (found.pairs > 0).sum()
    assert "All " in figure.layout.title.text
    many = flow(toy_trace(model=toy_model(layers=2, experts=64), decode_tokens=60), 0)
    figure = routing_flow_figure(many)
    assert len(bands(figure)) == MOST_FLOWS
    assert f"The {MOST_FLOWS} strongest of" in figure.layout.title.text
    assert many.pairs[strongest(many)].min() >= np.sort(many.pairs.ravel())[-MOST_FLOWS]


def test_a_picked_experts_flows_stand_out(trace: Trace) -> None:
    found = flow(trace, 0)
    expert = int(found.pairs.sum(axis=1).argmax())
    figure = routing_flow_figure(found, marked=(0, expert), height=200, plot_px=150)
    shown = bands(figure)
    mine = int((found.pairs[expert] > 0).sum())
    assert all(f"expert {expert} to layer 1" in trace.text for trace in shown[-mine:])
    alpha = [float(trace.fillcolor.rstrip(")").split(",")[-1]) for trace in shown]
    assert max(alpha[:-mine], default=0) < min(alpha[-mine:])
    texts = [text for trace in figure.data if trace.type == "scatter" for text in trace.text or ()]
    assert f"<b>▶ expert {expert}</b>" in texts, "however small its place"
    below = int(found.pairs[expert].argmax())
    assert follows(found, (0, expert)).endswith(f"to expert {below}")
    assert f"from expert {int(found.pairs[:, below].argmax())}" in follows(found, (1, below))
    whole = fv.routing_flow(trace, layer=0, expert=expert)
    assert len(bands(whole)) == len(shown)
    with pytest.raises(fv.InputError, match="routing_flow, expert"):
        fv.routing_flow(trace, layer=0, expert=found.pairs.shape[0])


def test_labels_do_not_touch() -> None:
    shown = _labelled([0.0, 0.05, 0.1, 0.5, 0.52], 0.08, -0.05, [4])
    assert shown == {1, 4}


def test_kinds_have_a_pattern_beside_the_colour() -> None:
    assert [kind_of(lift) for lift in (1.5, 1.0, 1 / 1.5, 9.0, 0.0)] == [0, 1, 2, 0, 2]
    assert len({pattern for _, _, pattern in KINDS}) == len({color for _, color, _ in KINDS}) == 3
    names = [trace.name for trace in routing_flow_figure(coupled(True)).data if trace.name]
    assert names == [name for name, _, _ in KINDS]


def test_words(trace: Trace) -> None:
    words = describe_routing_flow(flow(trace, 0))
    assert words.startswith("Layer 0's experts tell ") and "times as often as by chance" in words
    found = flow(trace, 0)
    found.pairs[3] = 0
    words = describe_routing_flow(found, marked=(0, 3))
    assert words.endswith(" Picked: no token chose expert 3 of layer 0.")
    nothing = flow(empty_trace())
    assert describe_routing_flow(nothing) == "Nothing recorded yet."
    assert "nothing recorded" in routing_flow_figure(nothing).layout.annotations[0].text


def test_where_popularity_tells_as_much_nothing_is_called_clear(trace: Trace) -> None:
    found = replace(flow(trace), picked=True, guessed=0.1637, shuffled=0.1579)  # both 16%
    assert headline(found).endswith("'s, no more than popularity alone")
    words = describe_routing_flow(found)
    assert "tells most" not in words and "second share" not in words
    assert headline(replace(found, guessed=0.17)).endswith("; popularity alone 16%")
