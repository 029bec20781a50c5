"""What line charts share, and what holds for all figures that are made of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest

import fiddler_viz as fv
from engine.trace import Trace
from fiddler_viz.figures.lines import fade, style, titled, wrap
from fiddler_viz.theme import theme
from tests.fiddler_viz.make_trace import HOSTILE, toy_trace

ROOT = Path(__file__).resolve().parents[2]
DRAW: tuple[Callable[..., go.Figure], ...] = (
    fv.crossover,
    partial(fv.hit_rates, policies=("lru", "lfu")),
    partial(fv.budget_speeds, policies="cpu", budgets=("0%", "100%")),
    fv.routing_flow,
    partial(fv.policy_lab, policies=("cpu", "lru")),
    lambda trace, **options: fv.specialisation({"a": trace, "b": trace}, **options),
)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return toy_trace()


def test_lines_differ_in_all_three_ways() -> None:
    styles = [style(index) for index in range(210)]
    assert len(set(styles)) == 210 and style(210) == style(0)
    for one, other in pairwise(styles):
        assert one.color != other.color and one.dash != other.dash and one.marker != other.marker


def test_long_sentences_are_broken_and_escaped() -> None:
    text = f"{HOSTILE} " + "word " * 60
    lines = wrap(text, 500)
    assert len(lines) > 3 and not any("<" in line for line in lines)
    assert len(wrap(text, 1200)) < len(lines)
    narrow = titled(theme("light"), text, text, width=400, height=300, margin={"l": 1})
    wide = titled(theme("light"), text, text, width=1200, height=300, margin={"l": 1})
    assert narrow.layout.margin.t > wide.layout.margin.t
    assert fade("#0072B2", 0.5) == "rgba(0,114,178,0.5)"


@pytest.mark.parametrize("look", ["light", "dark", "auto"])
@pytest.mark.parametrize("draw", DRAW)
def test_figures_are_plain_and_valid(
    trace: Trace, draw: Callable[..., go.Figure], look: str
) -> None:
    figure = draw(trace, theme=look, width=640, height=410)
    assert type(figure) is go.Figure
    assert (figure.layout.width, figure.layout.height) == (640, 410)
    assert figure.layout.paper_bgcolor == theme(look).paper
    json.loads(figure.to_json())
    with pytest.raises(fv.InputError, match="light, dark, auto"):
        draw(trace, theme="blue")


@pytest.mark.parametrize("draw", DRAW)
def test_without_a_width_they_fill_their_box(trace: Trace, draw: Callable[..., go.Figure]) -> None:
    figure = draw(trace)
    assert figure.layout.width is None and figure.layout.autosize


def test_drawing_needs_neither_torch_nor_pandas(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "run.safetensors")
    code = f"""
import sys
import fiddler_viz as fv
path = {str(path)!r}
for draw in (fv.crossover, fv.hit_rates, fv.budget_speeds, fv.routing_flow, fv.policy_lab):
    draw(path).to_json()
fv.specialisation({{"a": path, "b": path}}).to_json()
print([name for name in ("torch", "pandas", "transformers", "ipywidgets") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr
