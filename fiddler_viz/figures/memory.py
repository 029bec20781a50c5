"""The device's memory as one bar: what the budget is spent on."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from engine.residency import Memory
from engine.units import format_bytes
from fiddler_viz.figures.base import axis_style, legend_style, new_figure, sizes, title_of
from fiddler_viz.figures.room import Room
from fiddler_viz.theme import MEMORY, Theme, count, percent, theme

LOOK_FOR = "Dense weights and KV cache come first; what is left decides how many experts fit."
_GPU = Room()
_BAR_PX, _ROW_PX = 52, 19


def parts(memory: Memory) -> dict[str, int]:
    """Bytes of each part, in the order drawn."""
    return {name: int(getattr(memory, name)) for name in MEMORY}


def labels(memory: Memory, expert_bytes: int | None = None) -> dict[str, str]:
    """Name and size of each part, as legends show them: ``pinned experts 19.7 GB (56)``."""
    texts: dict[str, str] = {}
    for name, size in parts(memory).items():
        number = ""
        if expert_bytes and name in ("pinned", "cached"):
            number = f" ({count(size // expert_bytes, 'expert')})"
        label = MEMORY[name].label if not number else name
        texts[name] = f"{label} {format_bytes(size)}{number}"
    return texts


def memory_figure(
    memory: Memory,
    look: str | Theme = "light",
    *,
    room: Room = _GPU,
    expert_bytes: int | None = None,
    width: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """The bar of one state. With ``expert_bytes`` the legend also counts experts."""
    look = theme(look)
    width, height = sizes(width, height, usual=0)  # that depends on the width
    margin = {"l": 14, "r": 22, "t": 54, "b": 30 + _ROW_PX * _legend_rows(width)}
    height = height or margin["t"] + _BAR_PX + margin["b"]
    figure = new_figure(look, width=width, height=height, margin=margin)
    figure.update_xaxes(
        **axis_style(look),
        ticksuffix="B",
        tickformat=".3~s",
        nticks=9,
        ticks="outside",
        showgrid=False,
    )
    figure.update_yaxes(visible=False, range=[-0.5, 0.5], fixedrange=True)
    for name, kind in MEMORY.items():
        figure.add_bar(
            name=name,
            x=[0],
            y=[0],
            width=0.9,
            orientation="h",
            hoverinfo="text",
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="inside",
            textfont={"color": look.muted if name == "free" else "#000000", "size": 12},
            marker={
                "color": kind.color or look.empty,
                "line": {"width": 1, "color": look.paper},
                "pattern": {
                    "shape": kind.pattern,
                    "fillmode": "overlay",
                    "fgcolor": "#fff",
                    "fgopacity": 0.45,
                    "size": 7,
                    "solidity": 0.25,
                },
            },
        )
    figure.update_layout(
        barmode="stack",
        bargap=0,
        dragmode=False,
        legend=legend_style() | {"itemclick": False, "itemdoubleclick": False},
    )
    update_memory(figure, memory, look, room=room, expert_bytes=expert_bytes)
    return figure


def _legend_rows(width: int | None) -> int:
    """Rows that the legend takes; where the width is not known, those of a notebook's cell."""
    return 2 if width is None else 1 if width >= 1100 else 2 if width >= 700 else 3


def update_memory(
    figure: go.Figure,
    memory: Memory,
    look: str | Theme = "light",
    *,
    room: Room = _GPU,
    expert_bytes: int | None = None,
) -> None:
    """Show another state in a figure of :func:`memory_figure`, in place."""
    look = theme(look)
    budget = max(memory.budget, 1)
    texts = labels(memory, expert_bytes)
    with figure.batch_update():
        for trace, (name, size) in zip(figure.data, parts(memory).items(), strict=True):
            share = size / budget
            kind = MEMORY[name]
            inside = name if share >= 0.1 else kind.letter if share >= 0.02 else ""
            trace.update(
                x=[size],
                name=texts[name],
                text=[inside.replace("kv", "KV")],
                hovertext=[f"<b>{texts[name]}</b><br>{percent(share)} of the budget"],
            )
        figure.layout.xaxis.range = [0, budget]
        hint = LOOK_FOR if room.plans else ""
        figure.layout.title = title_of(look, title(memory, room), "", hint)


def title(memory: Memory, room: Room = _GPU) -> str:
    """``GPU memory: 23.1 GB of 24.0 GB used``."""
    return f"{room.name}: {spent(memory, room)} used"


def spent(memory: Memory, room: Room) -> str:
    """``47.9 GB of 48.0 GB (more than the card's 24.0 GB)``."""
    note = f" ({room.note})" if room.note else ""
    return f"{format_bytes(memory.used)} of {format_bytes(memory.budget)}{note}"


def memory_html(
    memory: Memory,
    look: str | Theme = "light",
    *,
    room: Room = _GPU,
    expert_bytes: int | None = None,
) -> str:
    """The same bar as a fragment of HTML without script: 2 kB, for an ``HTML`` widget or a page."""
    look = theme(look)
    texts = labels(memory, expert_bytes)
    bars, legend = "", ""
    for name, size in parts(memory).items():
        kind, share = MEMORY[name], size / max(memory.budget, 1)
        color = kind.color or look.empty
        inside = _inside(name.replace("kv", "KV"), kind.letter)
        tip = html.escape(f"{texts[name]}, {percent(share)} of the budget")
        bars += (
            f'<div title="{tip}" style="flex:{share:.5f} 0 0;overflow:hidden;background:{color};'
            f'color:{look.muted if name == "free" else "#000"}">{inside}</div>'
        )
        legend += (
            '<span style="white-space:nowrap"><span style="display:inline-block;width:1.4em;'
            f"text-align:center;border-radius:2px;margin-right:.4em;background:{color};"
            f'color:{look.muted if name == "free" else "#000"}">{kind.letter}</span>'
            f"{html.escape(texts[name])}</span>"
        )
    return (
        f'<div style="font:12px {html.escape(look.font)};color:{look.text}" role="img" '
        f'aria-label="{html.escape(describe_memory(memory, room, expert_bytes))}">'
        f'<div style="display:flex;height:26px;line-height:26px;border:1px solid {look.rule};'
        f'border-radius:4px;overflow:hidden;text-align:center;white-space:nowrap">{bars}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin-top:.4em">{legend}</div>'
        "</div>"
    )


def _inside(name: str, letter: str) -> str:
    """A part's name where all of it fits, else its letter where that does, else nothing.

    Nobody here knows how wide a part is: the browser does, and makes one of the two 0 wide.
    """
    needs = f"{0.64 * len(name) + 0.3:.1f}em"
    room = {name: f"100% - {needs}", letter: f"min({needs} - 100%,100% - 1.1em)"}
    return "".join(
        f'<span style="float:left;overflow:hidden;width:clamp(0px,({fits})*999,100%)">{text}</span>'
        for text, fits in room.items()
    )


def describe_memory(memory: Memory, room: Room = _GPU, expert_bytes: int | None = None) -> str:
    """The bar in one plain sentence."""
    return f"{title(memory, room)}: {', '.join(labels(memory, expert_bytes).values())}."
