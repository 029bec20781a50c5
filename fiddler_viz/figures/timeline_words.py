"""The timeline in words: the clock, hover texts, and the whole of it in a few sentences."""

from __future__ import annotations

from engine.events import Clock, Lane
from engine.units import format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.figures.window import Window
from fiddler_viz.frames import Segments
from fiddler_viz.theme import LANES, SEGMENTS, Segment, count, percent

CLOCKS = {
    Clock.MODELLED: "modelled clock: times from the cost model, not from a stopwatch",
    Clock.MEASURED: "measured clock: real time on this hardware",
}


def hover_texts(shown: Segments, chosen: list[int]) -> list[str]:
    """One text per chosen segment."""
    texts: list[str] = []
    for i in chosen:
        layer, expert, tokens = int(shown.layer[i]), int(shown.expert[i]), int(shown.tokens[i])
        where = "output head" if layer < 0 else f"layer {layer}"
        where += f", expert {expert}" if expert >= 0 else ""
        start, end = int(shown.start_ns[i]), int(shown.end_ns[i])
        size = f", {count(tokens, 'token')}" if tokens else ""
        texts.append(
            f"<b>{SEGMENTS[Segment(int(shown.kind[i]))].label}</b>: {where}{size}<br>"
            f"{format_ns(end - start)}, from {format_ns(start)} (step {int(shown.step[i])})"
        )
    return texts


def describe_timeline(view: Window) -> str:
    """The timeline in a few plain sentences."""
    if view.is_empty:
        return f"{EMPTY.capitalize()}."
    busy = "; ".join(
        f"{LANES[lane][0]} {percent(view.busy(lane))} ({spent(view, lane)})" for lane in Lane
    )
    return (
        f"{format_ns(view.start_ns)} to {format_ns(view.end_ns)}, {CLOCKS[view.clock]}; "
        f"{count(len(view.segments), 'segment')}. Busy: {busy}."
    )


def spent(view: Window, lane: Lane) -> str:
    """What a lane was busy with, as shares of the window."""
    shares = view.shares[lane].mean(axis=1)
    kinds = [kind for kind in Segment if shares[kind]]
    named = [f"{SEGMENTS[kind].label} {percent(float(shares[kind]))}" for kind in kinds]
    return ", ".join(named) or "idle"
