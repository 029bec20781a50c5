"""The timeline in words: the clock, hover texts, and the whole of it in a few sentences."""

from __future__ import annotations

import math

from engine.events import Clock, Lane
from engine.lane_times import Gaps
from engine.units import format_ns
from fiddler_viz.figures.base import EMPTY
from fiddler_viz.figures.window import Window
from fiddler_viz.frames import Segments
from fiddler_viz.theme import LANES, SEGMENTS, Segment, count, percent

CLOCKS = {
    Clock.MODELLED: "modelled clock: times from the cost model, not from a stopwatch",
    Clock.MEASURED: "measured clock: real time on this hardware",
}
LOOK_FOR = "Where the GPU row is empty, it waits: for which other row?"
WAITED_FOR = {
    Lane.GPU: "the GPU",
    Lane.CPU: "the CPU",
    Lane.H2D: "copies to the GPU (h2d)",
    Lane.D2H: "copies from the GPU (d2h)",
}
OVERLAP = (
    "1 would be all other lanes' work hidden behind the busiest lane's, 0 one after the other; "
    "what needs what may forbid the 1"
)


def finding(view: Window) -> str:
    """What holds the run up, and how much of it is done at the same time, in a sentence."""
    times, lane = view.times, view.times.bottleneck
    if lane is None:
        return LOOK_FOR
    said = (
        f"{percent(times.critical(lane))} of the time all wait for {WAITED_FOR[lane]}{_how(view)}"
    )
    if math.isfinite(times.overlap):
        said += f"; {percent(times.overlap)} of the possible overlap"
    return said + "."


def _how(view: Window) -> str:
    return "" if view.clock == Clock.MODELLED else " (estimated by end times)"


def gap_texts(gaps: Gaps) -> list[str]:
    """One hover text per idle gap."""
    texts: list[str] = []
    for i in range(len(gaps)):
        start, end, path = int(gaps.start_ns[i]), int(gaps.end_ns[i]), int(gaps.path[i])
        texts.append(
            f"<b>{LANES[Lane(int(gaps.lane[i]))][0]} idle</b><br>"
            f"{format_ns(end - start)}, from {format_ns(start)}"
        )
        if path >= 0:
            texts[-1] += f"<br>meanwhile all wait for {WAITED_FOR[Lane(path)]}"
    return texts


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
            + ("<br>on the critical path" if shown.critical[i] else "")
        )
    return texts


def describe_timeline(view: Window) -> str:
    """The timeline in a few plain sentences."""
    if view.is_empty:
        return f"{EMPTY.capitalize()}."
    busy = "; ".join(
        f"{LANES[lane][0]} {percent(view.busy(lane))} ({spent(view, lane)})" for lane in Lane
    )
    times = view.times
    idle = ", ".join(f"{LANES[lane][0]} {percent(times.idle(lane))}" for lane in Lane)
    said = (
        f"{format_ns(view.start_ns)} to {format_ns(view.end_ns)}, {CLOCKS[view.clock]}; "
        f"{count(view.pieces, 'segment')}. Busy: {busy}. Idle: {idle}."
    )
    if times.bottleneck is not None:
        path = ", ".join(
            f"{LANES[lane][0]} {percent(times.critical(lane))}"
            for lane in Lane
            if times.critical_ns[lane]
        )
        said += f" The critical path (what everyone waits for){_how(view)}: {path}."
    if math.isfinite(times.overlap):
        said += f" Overlap achieved: {percent(times.overlap)} of what is possible ({OVERLAP})."
    return said


def spent(view: Window, lane: Lane) -> str:
    """What a lane was busy with, as shares of the window."""
    shares = view.shares[lane].mean(axis=1)
    kinds = [kind for kind in Segment if shares[kind]]
    named = [f"{SEGMENTS[kind].label} {percent(float(shares[kind]))}" for kind in kinds]
    return ", ".join(named) or "idle"
