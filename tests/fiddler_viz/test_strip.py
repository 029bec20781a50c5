"""Token strips: what their colours tell, what their text says, and that tokens stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fiddler_viz as fv
from engine.events import Action, Clock
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz import figures, frames
from fiddler_viz.figures.strip_words import describe_strip
from fiddler_viz.figures.token_cells import SHADES, in_order, shades
from fiddler_viz.frames.tokens import hit_rates
from fiddler_viz.theme import ACTIONS
from tests.fiddler_viz.make_trace import HOSTILE, empty_trace, toy_model, toy_trace

LAYER = 1


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace(policy="lru", cache_slots=3)


class Cells(HTMLParser):
    """Reads a strip back: attributes and texts of its cells, and every tag's name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "i":
            self.cells.append({"text": "", **{name: value or "" for name, value in attrs}})
            self._inside = True
        elif tag == "b" and self._inside:
            self.cells[-1]["bar"] = dict(attrs)["style"]
        elif tag == "u":
            self.cells[-1]["text"] += "|"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "i"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1]["text"] += data


def cells(strip: Any) -> list[dict[str, str]]:
    return Cells(strip.to_html()).cells


# -------------------------------------------------------------------------------------- colours


def test_latency_colours_what_was_generated(trace: Trace) -> None:
    strip = fv.tokens(trace)
    found = cells(strip)
    assert len(found) == len(trace.token_rows) == 12
    assert ["style" in cell for cell in found] == [False] * 5 + [True] * 6 + [False]
    assert [cell.get("class") for cell in found] == ["p"] * 5 + [None] * 7
    ns = strip.strip.tokens.ns[5:11]
    darkest, brightest = (found[5 + int(at)]["style"] for at in (ns.argmin(), ns.argmax()))
    assert (darkest, brightest) == (SHADES[0], SHADES[-1])
    bars = [int(cell["bar"].split(":")[1][:-1]) for cell in found[5:11]]
    assert bars == [round(100 * value / ns.max()) for value in ns.tolist()]
    assert "modelled" in strip.to_html() and "modelled" in found[6]["title"]
    assert found[-1]["title"] == "token 11: sampled last, never processed"


@pytest.mark.parametrize("layer", [None, LAYER])
def test_hits_are_counted_one_by_one(trace: Trace, layer: int | None) -> None:
    strip = fv.tokens(trace, color="hits", layer=layer)
    routing, calls = trace.routing, trace.happened.calls
    resident = {
        (s, at, e): a == Action.RESIDENT
        for s, at, e, a in zip(
            calls.step.tolist(), calls.layer.tolist(), calls.expert.tolist(),
            calls.action.tolist(), strict=True,
        )
    }  # fmt: skip
    for token in range(11):
        mine = (routing.token == token) & ((routing.layer == layer) if layer is not None else True)
        hits = [
            resident[int(routing.step[row]), int(routing.layer[row]), expert]
            for row in np.flatnonzero(mine)
            for expert in routing.experts[row].tolist()
        ]
        assert strip.strip.hit_rate[token] == pytest.approx(np.mean(hits))
    assert np.isnan(strip.strip.hit_rate[11])
    if layer is None:
        np.testing.assert_array_equal(strip.strip.hit_rate, frames.token_table(trace).hit_rate)
    # Shares are shaded over all from 0% to 100%, whatever this run's are.
    for cell, rate in zip(cells(strip)[:11], strip.strip.hit_rate.tolist(), strict=False):
        assert cell["style"] == SHADES[round(rate * 7)]


def test_actions_and_experts_of_a_layer(trace: Trace) -> None:
    acted, chose = (fv.tokens(trace, color=c, layer=LAYER) for c in ("action", "expert"))
    routing, calls = trace.routing, trace.happened.calls
    for token, (one, other) in enumerate(zip(cells(acted)[:11], cells(chose)[:11], strict=True)):
        (row,) = np.flatnonzero((routing.token == token) & (routing.layer == LAYER))
        order = np.argsort(-routing.weights[row], kind="stable")
        experts = routing.experts[row][order].tolist()
        kinds = [
            ACTIONS[Action(int(calls.action[at][0]))]
            for at in (
                (calls.step == routing.step[row]) & (calls.layer == LAYER) & (calls.expert == e)
                for e in experts
            )
        ]
        assert kinds[0].color in one["style"]
        assert one["text"].endswith("|" + "".join(kind.letter for kind in kinds))
        assert other["text"].endswith(f"|{experts[0]}")
        weight = routing.weights[row].max()
        assert f"expert {experts[0]} ({weight:.2f}) {kinds[0].label}" in one["title"]
    assert "style" not in cells(acted)[11]


def test_kinds_are_never_told_by_colour_alone(trace: Trace) -> None:
    for color in ("action", "expert"):
        cues: dict[str, set[str]] = {}
        for cell in cells(fv.tokens(trace, color=color, layer=LAYER))[:11]:
            cues.setdefault(cell["style"], set()).add(cell["text"].split("|")[-1][0])
        assert all(len(each) == 1 for each in cues.values())
        assert len(set.union(*cues.values())) == len(cues)


def test_more_experts_than_colours_have_numbers() -> None:
    many = toy_trace(model=toy_model(layers=2, experts=64, top_k=8), decode_tokens=40)
    strip = fv.tokens(many, color="expert", layer=0)
    assert {int(cell["text"].split("|")[-1]) for cell in cells(strip)[:45]} == set(
        strip.strip.kind[:45].tolist()
    )
    assert re.search(r"\d+ more experts", strip.to_html())
    letters = cells(fv.tokens(many, color="action", layer=0))[0]["text"].split("|")[-1]
    assert len(letters) == 2  # of eight: the tooltip has all


def test_a_step_cut_short_has_no_latency(trace: Trace) -> None:
    rows = trace.step_rows.copy()
    rows[-1, 7] = 0
    found = cells(fv.tokens(replace(trace, step_rows=rows)))
    assert "style" not in found[10] and "cut short" in found[10]["title"]


def test_measured_says_so(trace: Trace) -> None:
    rows = trace.step_rows.copy()
    rows[:, -1] = Clock.MEASURED
    strip = fv.tokens(replace(trace, step_rows=rows))
    assert "measured" in strip.to_html() and "modelled" not in strip.to_html()
    assert "(measured)" in strip.describe()


def test_shades_span_their_range() -> None:
    amounts = np.array([2.0, np.nan, 5.0, 3.5, 9.0, -1.0])
    assert shades(amounts, 2, 5).tolist() == [0, -1, 7, 4, 7, 0]
    assert shades(np.array([3.0, np.nan]), 3, 3).tolist() == [4, -1]


# ------------------------------------------------------------------------------- what is shown


def test_long_texts_show_their_end_or_a_range() -> None:
    long = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", prompt_tokens=4, decode_tokens=620)
    whole = fv.tokens(long)
    assert len(cells(whole)) == frames.LIMIT_TOKENS == len(whole.to_pandas())
    assert "24 earlier tokens …" in whole.to_html()
    part = fv.tokens(long, start=10, stop=30)
    assert part.strip.rows.tolist() == list(range(10, 30))
    assert "10 earlier tokens …" in part.to_html() and "594 later tokens" in part.to_html()
    assert "604 more not shown" in part.describe()
    assert len(fv.tokens(long, start=0).strip.rows) == 624
    assert fv.tokens(long, start=-3).strip.rows.tolist() == [621, 622, 623]
    shown = part.strip.tokens.ns[10:30]
    assert f"{shown.max() / 1e6:.3g}"[:3] in part.to_html()  # the scale is of what is shown


def test_several_texts_are_told_apart() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", prompt_tokens=4, decode_tokens=2)
    rows = trace.token_rows.copy()
    rows[:, [1, 5]] = [(at % 2, at - 2 if at > 1 else -1) for at in range(6)]
    trace = replace(trace, token_rows=rows, texts=("a", "b", "c", "d", "e", "f")).check()
    for options, wanted in (
        ({}, "text 1: ace\ntext 2: bdf"),
        ({"start": 1}, "1 earlier tokens … text 1: ce\ntext 2: bdf"),
        ({"start": 3}, "3 earlier tokens … text 2: bdf"),
    ):
        strip = fv.tokens(trace, color="hits", **options)
        body = strip.to_html().split('class="cells" tabindex="0">')[1].split("<details>")[0]
        assert re.sub("<[^>]*>", "", body).strip() == wanted


def test_lines_end_where_their_tokens_do() -> None:
    none = in_order((np.array([0, 1, 2]),), lambda row: f"[{row}]", ("a\n", "b", "c"))
    assert none == "[0]\n[1][2]"


@pytest.mark.parametrize("look", ["light", "dark", "auto"])
@pytest.mark.parametrize("color", frames.COLORS)
def test_tokens_stay_text(trace: Trace, color: str, look: str) -> None:
    layer = LAYER if color in ("action", "expert") else None
    html = fv.tokens(trace, color=color, layer=layer, theme=look).to_html()
    read = Cells(html)
    assert read.tags <= {
        "style", "div", "span", "b", "i", "u", "details", "summary", "table", "tr", "th", "td",
    }  # fmt: skip
    assert "window.hacked" not in re.sub(r"&lt;.*?(?=<)", "", html)
    assert HOSTILE[:20] in read.cells[trace.texts.index(HOSTILE)]["text"]


def test_table_and_frame_say_the_same(trace: Trace) -> None:
    strip = fv.tokens(trace, color="action", layer=LAYER)
    frame = strip.to_pandas()
    names, rows = figures.strip_words.table_of(strip.strip)
    assert len(frame) == len(rows) == 12 and len(names) == len(rows[0])
    assert frame["token"].tolist() == [int(row[0]) for row in rows]
    assert frame["action"].tolist()[:11] == [
        Action(a).name.lower() for a in strip.strip.kind[:11].tolist()
    ]
    assert frame["action"].isna().tolist() == [False] * 11 + [True]
    assert "expert" not in fv.tokens(trace).to_pandas()


def test_in_words(trace: Trace) -> None:
    said = fv.tokens(trace).describe()
    assert said.startswith("Tokens by latency. 12 tokens, 5 of them prompt.")
    assert re.search(r"Least: [\d.]+ ms \(modelled\) \(token \d+ “.*”\); most: ", said)
    acted = fv.tokens(trace, color="action", layer=LAYER)
    assert re.search(r"resident: \d+; streamed: \d+; on CPU: \d+\.$", acted.describe())
    assert repr(acted) == "TokenStrip(Tokens by where their expert ran, layer 1: 12 tokens)"
    assert describe_strip(acted.strip) == acted.describe()


def test_nothing_recorded_yet() -> None:
    for color in frames.COLORS:
        strip = fv.tokens(empty_trace(), color=color, layer=0 if color[0] in "ae" else None)
        assert "nothing recorded yet" in strip.to_html()
        assert strip.describe() == "Nothing recorded yet."
        assert strip.to_pandas().empty


def test_a_saved_page_stands_alone(trace: Trace, tmp_path: Path) -> None:
    strip = fv.tokens(trace.save(tmp_path / "run.safetensors"), theme="dark")
    path = strip.save(tmp_path / "new" / "strip.html")
    page = path.read_text("utf-8")
    assert strip._repr_html_() in page and "default-src 'none'" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    with pytest.raises(fv.InputError, match="it is a folder"):
        strip.save(tmp_path)


def test_what_cannot_be_is_refused(trace: Trace) -> None:
    with pytest.raises(fv.InputError, match="Valid names: latency, hits, action, expert"):
        fv.tokens(trace, color="cost")
    wrong: list[Any] = [np.array([1, 2]), [], None]
    for value in wrong:
        with pytest.raises(fv.InputError, match="Valid names: latency"):
            fv.tokens(trace, color=value)
    wrong = ["x", [], 1.5, True, np.array([1, 2])]
    for value in wrong:
        with pytest.raises(fv.InputError, match=r"layer .*: expected 0 to 2"):
            fv.tokens(trace, color="hits", layer=value)
    assert "layer 1:" in repr(fv.tokens(trace, color="hits", layer=np.int64(1)))  # type: ignore[arg-type]
    with pytest.raises(fv.InputError, match="tells of one layer: add layer=0 to 2"):
        fv.tokens(trace, color="expert")
    with pytest.raises(fv.InputError, match="tells of whole steps"):
        fv.tokens(trace, layer=1)
    with pytest.raises(fv.InputError, match="layer 3: expected 0 to 2"):
        fv.tokens(trace, color="hits", layer=3)
    with pytest.raises(fv.InputError, match="none of this text's 12 tokens"):
        fv.tokens(trace, start=12)
    with pytest.raises(fv.InputError, match=r"start: expected a whole number of tokens, got 1\.5"):
        fv.tokens(trace, start=1.5)  # type: ignore[arg-type]


def test_hit_rates_where_nothing_ran(trace: Trace) -> None:
    none = hit_rates(trace, trace.routing.where(trace.routing.layer == 99))
    assert np.isnan(none).all()
