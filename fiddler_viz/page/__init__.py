"""A run as one HTML file: opens from disk, needs no network, no kernel and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

from engine.destination import writing
from engine.events import Clock
from engine.trace import Trace
from fiddler_viz import figures
from fiddler_viz.figures.oneline import STATIC_PIXELS
from fiddler_viz.figures.raster import SCRIPT
from fiddler_viz.figures.timeline import CLOCKS
from fiddler_viz.figures.timeline_words import finding
from fiddler_viz.frames import grid, live_grid, memory_of, places
from fiddler_viz.page.controls import controls, of_run
from fiddler_viz.page.encode import to_json
from fiddler_viz.page.linked import linked_tokens, linked_work
from fiddler_viz.page.parts import header, table, text, tiles
from fiddler_viz.page.rehearsal import rehearse
from fiddler_viz.page.tables import expert_rows, lane_rows, memory_rows, step_rows
from fiddler_viz.theme import ACTIONS, LANES, MEMORY, PLACES, SEGMENTS, safe, shade, theme

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What the page may load: nothing but itself. The browser holds it to that."""
_SCRIPTS = (
    "formats", "lanes", "retention", "policies", "replay", "raster", "twins", "whatif", "page",
)  # fmt: skip


@overload
def to_html(source: Any, path: str | Path) -> Path: ...
@overload
def to_html(source: Any, path: None = None) -> str: ...
def to_html(source: Any, path: str | Path | None = None) -> Path | str:
    """Write a run as one self-contained HTML page, and return its path.

    Without a path nothing is written, and the page itself is returned.

    ``source``: a Trace, a run, a replay, an engine, or the path of a trace file. In the page the
    sliders of memory and cache and the menus of policies and hardware are alive: its own script
    replays the run, with the numbers of :func:`fiddler_viz.replay`. A click on a token shows its
    experts and its step's timeline; light or dark follows the reader's system. Plotly takes 5 MB of
    it, the run the rest: 2 MB of the demo's 256 tokens, 14 of 1,000 on a 48 x 128 grid.

    Makes the file's folder. Raises InputError where the source is none of these or the file
    cannot be written.
    """
    content = render(figures.as_trace(source))
    if path is None:
        return content
    encoded = content.encode("utf-8")  # before what was there is gone
    with writing(path) as path:
        path.write_bytes(encoded)
    return path


def render(trace: Trace) -> str:
    """The page's HTML. Every text of the trace is escaped."""
    from plotly.offline import get_plotlyjs

    title = safe(f"fiddler-viz: {trace.model.name}")
    sent = rehearse(trace)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title>'
        f"<style>{_variables()}{_asset('page.css')}</style></head>\n"
        f"<body><main>{header(trace)}{tiles(trace)}{controls(sent)}{text(trace)}{_panels(trace)}"
        "</main>\n"
        f'<script type="application/json" id="data">{_data(trace, sent)}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n"
        f"<script>{script()}</script></body></html>\n"
    )


def script() -> str:
    """The page's own code, which leaves but one name to the page: ``fiddlerPage``."""
    files = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'const fiddlerPage = (() => {{\n"use strict";\n{files}\nreturn page;\n}})();\n'


def _panels(trace: Trace) -> str:
    """A place for each figure, each with its twin in words and as a table."""
    shown, view, memory = grid(trace), figures.window(trace), memory_of(trace)
    room, size = figures.room_of(trace), trace.plan.expert_bytes
    twins = {
        "heatmap": (
            figures.describe_heatmap(shown),
            table(("layer", "expert", "place", "tokens", "calls"), expert_rows(shown)),
        ),
        "timeline": (
            figures.describe_timeline(view),
            table(("lane", "busy", "all wait for it", "busy with"), lane_rows(view))
            + table(("step", "kind", "tokens processed", "time", "hit rate"), step_rows(trace)),
        ),
        "memory": (
            figures.describe_memory(memory, room, size),
            table(("part", "size", "of the budget"), memory_rows(memory, size)),
        ),
    }
    return "".join(
        f'<section class="panel"><div class="figure" id="{name}" role="img" '
        f'aria-label="{safe(words)}"></div>'
        f'<details data-twin="{name}"><summary>In words and as a table</summary>'
        f"<p>{safe(words)}</p>{rows}</details>"
        "</section>"
        for name, (words, rows) in twins.items()
    )


def _data(trace: Trace, sent: dict[str, Any]) -> str:
    """What the script draws, as JSON that no text can break out of."""
    view = figures.window(trace, pixels=STATIC_PIXELS)
    memory, size = memory_of(trace), trace.plan.expert_bytes
    # The figure for one token is filled in by the script; its caption is to be replaced.
    by_hand = trace.plan.by_hand
    blank = live_grid(places(trace, -1), show="token", caption="@", by_hand=by_hand)
    cells = grid(trace)
    drawn = {
        "heatmap": figures.heatmap_figure(cells),
        "token": figures.heatmap_figure(blank),
        "timeline": figures.timeline_figure(view),
        "memory": figures.memory_figure(memory, room=figures.room_of(trace), expert_bytes=size),
    }
    light, dark = theme("light"), theme("dark")
    colors = {value: getattr(dark, field) for field, value in vars(light).items()}
    parts = [f'"{name}":{figure.to_json()}' for name, figure in drawn.items()]
    rest = {
        "colors": colors,
        "linked": linked_tokens(trace) | linked_work(trace),
        "finding": safe(finding(view)),  # of the whole run: another stands there for a step
        "rehearsal": sent,
        "popularity": cells.tokens.ravel().tolist(),
        "run": of_run(trace),
        "names": _names(),
        "shades": [shade(step / 9)[0] for step in range(10)],
        "clock": CLOCKS[trace.clock],
        "modelled": CLOCKS[Clock.MODELLED],
    }
    return f'{to_json(rest)[:-1]},"figures":{{{",".join(parts)}}}}}'


def _names() -> dict[str, Any]:
    """What kinds of things are called, and how they look."""
    return {
        "actions": [kind.label for kind in ACTIONS.values()],
        "places": [kind.label for kind in PLACES.values()],
        "lanes": [short for short, _ in LANES.values()],
        "lane_words": [long for _, long in LANES.values()],
        "kinds": [
            {"label": kind.label, "color": kind.color, "pattern": kind.pattern}
            for kind in SEGMENTS.values()
        ],
        "memory": [
            {"name": name, "label": kind.label, "letter": kind.letter}
            for name, kind in MEMORY.items()
        ],
    }


def _asset(name: str) -> str:
    path = SCRIPT if name == SCRIPT.name else _HERE / name
    return path.read_text(encoding="utf-8")


def _variables() -> str:
    """The themes' colours as CSS variables, dark where the reader's system is dark."""
    light, dark = (
        "".join(f"--{field}:{value};" for field, value in vars(theme(name)).items())
        for name in ("light", "dark")
    )
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
