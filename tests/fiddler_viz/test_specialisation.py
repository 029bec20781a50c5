from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fiddler_viz as fv
from engine.trace import Trace
from fiddler_viz.figures import describe_specialisation, domains_of
from fiddler_viz.frames import labelled
from fiddler_viz.frames import specialisation as compare
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace


def only(*experts: int) -> Trace:
    """A run all of whose tokens chose the same two experts in every layer."""
    trace = toy_trace()
    chosen = np.tile(np.array(experts, np.int16), (len(trace.routing), 1))
    return replace(trace, routing=replace(trace.routing, experts=chosen))


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    return {"code": only(0, 1), "prose": only(1, 2)}


def test_shares_and_distances_by_hand(traces: dict[str, Trace]) -> None:
    found = compare(traces)
    np.testing.assert_allclose(found.share[0], [[0.5, 0.5, 0, 0]] * 3)
    np.testing.assert_allclose(found.share[1], [[0, 0.5, 0.5, 0]] * 3)
    np.testing.assert_allclose(found.difference(), [[0.5, 0, -0.5, 0]] * 3)
    np.testing.assert_allclose(found.apart(), [0.5] * 3)  # half goes to other experts
    np.testing.assert_allclose(found.leaning[0], [1, 0.5, 1, np.nan])
    assert found.labels == ("code", "prose") and found.tokens == (11, 11)


def test_the_ends_of_the_measure() -> None:
    same = compare({"a": only(0, 1), "b": only(0, 1), "c": only(1, 0)})
    np.testing.assert_allclose(same.apart(), 0, atol=1e-12)
    other = compare({"a": only(0, 1), "b": only(2, 3)})
    np.testing.assert_allclose(other.apart(), 1)
    three = compare({"a": only(0, 1), "b": only(2, 3), "c": only(0, 1)})
    np.testing.assert_allclose(three.apart(0, 1), 1)
    np.testing.assert_allclose(three.apart(0, 2), 0, atol=1e-12)


def test_chance_is_what_shuffled_tokens_give() -> None:
    """The same text twice is as far apart as chance; different experts are much further."""
    model = toy_model(layers=4, experts=8)
    trace = toy_trace(model=model, decode_tokens=400)
    halves = ["a" if i % 2 else "b" for i in range(len(trace.token_rows))]
    found = labelled(trace, halves)
    assert abs(found.apart().mean() - found.by_chance().mean()) < 0.05
    apart = compare({"a": only(0, 1), "b": only(2, 3)})
    assert apart.by_chance().mean() < 0.6 < apart.apart().mean()


def test_labels_are_the_same_as_runs_of_their_own(traces: dict[str, Trace]) -> None:
    trace = toy_trace(decode_tokens=20)
    labels = ["even" if i % 2 == 0 else "odd" for i in range(len(trace.token_rows))]
    found = labelled(trace, labels)
    for at, name in enumerate(found.labels):
        mine = np.array([label == name for label in labels])
        part = replace(trace, routing=trace.routing.where(mine[trace.routing.token]))
        beside = compare({"part": part, "other": traces["code"]})
        np.testing.assert_allclose(found.share[at], beside.share[0])
        assert found.tokens[at] == beside.tokens[0]


def test_two_get_their_difference(traces: dict[str, Trace]) -> None:
    figure = fv.specialisation(traces)
    cells = figure.data[0]
    np.testing.assert_allclose(cells.z, 100 * compare(traces).difference())
    assert cells.zmax == -cells.zmin == 50
    colors = [color for _, color in cells.colorscale]
    assert colors[0] != colors[2] and "% points" in cells.colorbar.title.text
    more, less = figure.data[1:3]
    assert (more.marker.symbol, less.marker.symbol) == ("triangle-up", "triangle-down")
    assert set(more.x) <= {0} and set(less.x) <= {2}
    title = figure.layout.title.text.replace("<br>", " ")
    assert "50% of the routing goes to other experts" in title


def test_marks_are_the_largest_differences() -> None:
    model = toy_model(layers=4, experts=16)
    a, b = (toy_trace(model=model, decode_tokens=n) for n in (20, 90))
    apart = np.abs(compare({"a": a, "b": b}).difference())
    marked = [
        apart[y, x]
        for trace in fv.specialisation({"a": a, "b": b}).data[1:3]
        for x, y in zip(trace.x, trace.y, strict=True)
    ]
    assert sorted(marked) == pytest.approx(np.sort(apart.ravel())[-len(marked) :].tolist())


def test_more_get_all_domains_of_one_layer(traces: dict[str, Trace]) -> None:
    three = traces | {"maths": only(0, 3)}
    figure = fv.specialisation(three, layer=-1)
    np.testing.assert_allclose(figure.data[0].z, 100 * compare(three).share[:, 2])
    assert list(figure.layout.yaxis.ticktext) == list(three)
    assert figure.data[0].text[0][0] == "50%" and figure.data[0].texttemplate == "%{text}"
    assert "In layer 2" in figure.layout.title.text
    pair = fv.specialisation(three, pair=("maths", "code"))
    np.testing.assert_allclose(pair.data[0].z, 100 * compare(three).difference(2, 0))
    assert "Between maths and code" in pair.layout.title.text
    assert len(fv.specialisation(traces, show="domains").data) == 1


def test_bad_arguments(traces: dict[str, Trace]) -> None:
    one = traces["code"]
    bad = {
        "runs by name": (one, {}),
        "two or more runs": ({"code": one}, {}),
        "different models": ({"a": one, "b": toy_trace(model=toy_model(experts=8))}, {}),
        "one for each of 12 tokens": (one, {"labels": ["a"]}),
        "two or more different": (one, {"labels": ["a"] * 12}),
        "unknown show": (traces, {"show": "all"}),
        "unknown show array": (traces, {"show": np.array([1, 2])}),
        "unknown domain": (traces, {"pair": ("code", "maths")}),
        "two different names": (traces, {"pair": "code"}),
        "two different names, got 3": (traces, {"pair": 3}),
        "two different names, got array": (traces, {"pair": np.array([1, 2])}),
        "0 to 2": (traces, {"show": "domains", "layer": 3}),
        "layer: expected 0 to 2, got True": (traces, {"show": "domains", "layer": True}),
        "only for show=.domains": (traces, {"layer": 1}),
        "only for show=.difference": (traces, {"show": "domains", "pair": ("code", "prose")}),
        "expected a Trace": ({"a": 1, "b": 2}, {}),
    }
    for words, (source, options) in bad.items():
        with pytest.raises(fv.InputError, match=words):
            fv.specialisation(source, **options)  # type: ignore[arg-type]


def test_words_and_nothing(traces: dict[str, Trace]) -> None:
    words = describe_specialisation(domains_of(traces))
    assert words.startswith("Between code and prose 50% of the routing") and "100% code" in words
    nothing = {"a": empty_trace(), "b": traces["code"]}
    for show in ("difference", "domains"):
        note = fv.specialisation(nothing, show=show).layout.annotations[0]
        assert note.text == "nothing recorded yet"
    assert describe_specialisation(domains_of(nothing)).startswith("Nothing recorded yet")


def test_names_stay_text(traces: dict[str, Trace]) -> None:
    hostile = {HOSTILE: traces["code"], "$x$": traces["prose"], "%{x}": only(0, 3)}
    for options in ({}, {"pair": (HOSTILE, "$x$")}):
        made = fv.specialisation(hostile, **options).to_json()  # type: ignore[arg-type]
        assert "<script" not in made and "\\u003cscript" not in made and "$x$" not in made
