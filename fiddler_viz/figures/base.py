"""What all figures share: an empty figure in a theme, its title, axes and notes."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from engine.strict import whole
from fiddler_viz.theme import Theme, safe

EMPTY = "nothing recorded yet"
LEAST_PX = 10
"""Of a figure's width and height; plotly draws none that is smaller."""


def sizes(width: Any, height: Any, *, usual: int) -> tuple[int | None, int]:
    """Sizes that a caller gave, in CSS pixels, numpy's too; ``usual``: the height of None.

    Raises InputError for what is no size, and for less than plotly draws.
    """
    if width is not None:
        width = whole("width (CSS pixels)", width, least=LEAST_PX)
    return width, usual if height is None else whole("height (CSS pixels)", height, least=LEAST_PX)


def new_figure(
    theme: Theme,
    *,
    width: int | None,
    height: int | None,
    margin: dict[str, int],
    **layout: Any,
) -> go.Figure:
    """A figure without data. Without ``width`` it takes the width of what it stands in.

    ``layout``: more of it. Given here it takes plotly a tenth of the time that an update takes.
    """
    return go.Figure(
        layout={
            "template": "none",
            "paper_bgcolor": theme.paper,
            "plot_bgcolor": theme.panel,
            "font": {"family": theme.font, "size": 12, "color": theme.text},
            "hoverlabel": {"font": {"family": theme.font, "size": 12}, "align": "left"},
            "margin": margin,
            "width": width,
            "height": height,
            "autosize": width is None,
            **layout,
        }
    )


def trace(kind: str, **properties: Any) -> dict[str, Any]:
    """A trace that plotly checks where it is added; one of its own classes is checked twice."""
    return {"type": kind, **properties}


def title_of(theme: Theme, title: str, caption: str, sentence: str) -> dict[str, Any]:
    """A title with what is shown beside it, and under both what to look for; all already safe."""
    small = f'<span style="font-size:12px;color:{theme.muted}">'
    beside = f"{small}   {caption}</span>" if caption else ""
    return {
        "text": f"<b>{title}</b>{beside}<br>{small}{sentence}</span>",
        "font": {"size": 15, "color": theme.text},
        "x": 0,
        "xref": "container",
        "xanchor": "left",
        "pad": {"l": 12, "t": 24},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
    }


def optional(words: str) -> str:
    """Safe words that the explorer leaves out where its figure would cut them.

    ``views/figure_view.js`` does, which knows the width; elsewhere the mark means nothing.
    """
    return f'<span style="--fv-optional:1">{words}</span>'


def legend_style() -> dict[str, Any]:
    """A legend in one row along the bottom edge."""
    return {
        "orientation": "h",
        "traceorder": "normal",
        "x": 0,
        "xref": "container",
        "xanchor": "left",
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "font": {"size": 11},
        "itemwidth": 30,
    }


def axis_style(theme: Theme) -> dict[str, Any]:
    """What both axes of every figure have in common."""
    return {
        "color": theme.text,
        "gridcolor": theme.rule,
        "linecolor": theme.rule,
        "tickcolor": theme.rule,
        "tickfont": {"size": 11, "color": theme.muted},
        "zeroline": False,
    }


def note(theme: Theme, text: str, *, visible: bool = True) -> dict[str, Any]:
    """An annotation in the middle of the plot."""
    return {
        "text": safe(text),
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
        "bgcolor": theme.panel,
        "borderpad": 6,
        "visible": visible,
        "font": {"size": 15, "color": theme.muted},
    }
