"""Scenarios side by side: common axes, what is drawn is what was counted, words, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import fiddler_viz as fv
from engine.events import Action, StepKind
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.figures import describe_scenarios, scenarios_of
from fiddler_viz.figures.scenarios import MOST
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    made = {"one request": (8, 12), "long prompt": (512, 2)}
    return {
        name: synthetic_trace(
            "mixtral-8x7b", prompt_tokens=prompt, decode_tokens=decode, gpu_memory="24GB"
        )
        for name, (prompt, decode) in made.items()
    }


def test_small_multiples_with_common_axes(traces: dict[str, Trace]) -> None:
    figure, found = fv.scenarios(traces), scenarios_of(traces)
    layout = figure.layout
    for number in range(1, 7):
        name = "" if number == 1 else number
        row, column = divmod(number - 1, 2)
        assert layout[f"xaxis{name}"].anchor == f"y{name}"
        assert layout[f"yaxis{name}"].domain == layout[f"yaxis{2 * row + 1 if row else ''}"].domain
        assert layout[f"yaxis{name}"].range == layout[f"yaxis{2 * row + 1 if row else ''}"].range
        assert layout[f"yaxis{name}"].showticklabels == (column == 0)
    assert [layout.xaxis.domain[0], layout.xaxis2.domain[1]] == [0, 1]
    boxes = [trace for trace in figure.data if trace.type == "box"]
    assert [box.median[0] for box in boxes] == [
        100 * phase.quantiles(0.5)[0] for each in found.each for phase in each.phases
    ]
    for column, scenario in enumerate(found.each):
        bars = [
            trace
            for trace in figure.data
            if trace.type == "bar" and trace.xaxis == f"x{3 + column}"
        ]
        assert [bar.name for bar in bars] == ["resident", "streamed", "on CPU"]
        assert sum(sum(bar.y) for bar in bars) == pytest.approx(100)
        for action, bar in zip(Action, bars, strict=True):
            counted = scenario.calls[:, action]
            np.testing.assert_allclose(bar.y, 100 * counted[counted > 0] / scenario.calls.sum())
    entries = [trace.name for trace in figure.data if trace.showlegend]
    assert len(entries) == len(set(entries)) == 5  # three actions, two kinds of steps


def test_speeds_bear_their_interval(traces: dict[str, Trace]) -> None:
    for trace in fv.scenarios(traces).data:
        if trace.type == "scatter" and trace.mode == "markers+text":
            (speed,), bar = trace.y, trace.error_y
            low, high = speed - bar.arrayminus[0], speed + bar.array[0]
            assert low < speed < high
            assert f"{speed:.3g}"[:3] in trace.text[0]
    summary = traces["one request"].summary
    table = scenarios_of(traces).to_pandas().set_index(["scenario", "steps"])
    assert table.loc[("one request", "decode"), "tokens_per_s"] == summary.tokens_per_s


def test_the_line_where_copying_pays(traces: dict[str, Trace]) -> None:
    figure = fv.scenarios(traces)
    break_even = scenarios_of(traces).each[1].break_even
    assert break_even is not None
    (line,) = {shape.x0 for shape in figure.layout.shapes}
    edge = np.ceil(np.log2(break_even))  # its bin, from half before to half behind
    assert edge - 0.5 <= line <= edge + 0.5
    assert f"from {break_even} tokens on" in describe_scenarios(scenarios_of(traces))


def test_words(traces: dict[str, Trace]) -> None:
    words = describe_scenarios(scenarios_of(traces))
    assert words.startswith("“one request” touches 25% of a layer's experts in a decode step")
    assert "1 prompt, 512 tokens" in words and "modelled clock" in words
    prefill = scenarios_of(traces).each[1].phase(StepKind.PREFILL)
    assert prefill is not None and f"{prefill.served:.3g} tokens" in words


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
def test_nothing_yet_and_hostile_names(theme: str) -> None:
    sources = {HOSTILE: toy_trace(), "$x$": empty_trace()}
    made = fv.scenarios(sources, theme=theme, width=500).to_json()
    assert "<script" not in made and "\\u003cscript" not in made and "$x$" not in made
    assert "nothing recorded yet" in made
    nothing = fv.scenarios({"a": empty_trace()})
    assert "Experts that a step needs" in nothing.layout.title.text
    assert describe_scenarios(scenarios_of({"a": empty_trace()})).endswith("nothing recorded yet.")


def test_bad_input(traces: dict[str, Trace]) -> None:
    one = traces["one request"]
    for source, match in (
        (one, "expected runs by name"),
        ({}, "one or more runs by name"),
        ({"a": 3}, "expected a Trace"),
        ({"a": one, "b": toy_trace(model=toy_model())}, "models with one grid"),
        ({str(at): one for at in range(MOST + 1)}, "at most 6 runs"),
    ):
        with pytest.raises(fv.InputError, match=match):
            fv.scenarios(source)
    with pytest.raises(fv.InputError, match="prompt: only for an engine"):
        fv.scenarios(traces, prompt="x")
