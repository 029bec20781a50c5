"""A decision in words: why an expert ran where it did, and what each way would have cost."""

from __future__ import annotations

from engine.events import Action
from engine.inspection import Inspection, Option
from engine.units import format_ns
from fiddler_viz.theme import ACTIONS, count, percent, show_token

PARTS = {
    "copy": "weights",
    "there": "activations there",
    "run": "run",
    "back": "back",
}
"""What a call is made of, for people."""
_WAY = {Action.RESIDENT: "the GPU", Action.STREAM: "a copy", Action.CPU: "the CPU"}
_RAN = {
    Action.RESIDENT: "ran on the GPU",
    Action.STREAM: "was copied to the GPU",
    Action.CPU: "ran on the CPU",
}
MISSING = "had it been on the GPU"


def why(call: Inspection) -> str:
    """In one sentence: was it there, what was expected, what was chosen. Raw text."""
    who = f"Expert {call.expert} of layer {call.layer}"
    if call.on_host:
        return f"{who} ran on the CPU, as all did: this run used no GPU, nothing was to choose."
    rivals = [option for option in call.options if option.possible and option is not call.chosen]
    rival = min(rivals, key=lambda option: option.ns)
    later = rival.ns - call.chosen.ns
    way, other = _WAY[call.action], _WAY[rival.action]
    if call.action == Action.RESIDENT:
        start = f"{who} was on the GPU and ran there"
        if len(call.chosen.parts) > 1:
            start = f"{who} was on its way to the GPU and ran there when its copy was through"
        expected = f"{other} was expected to take {_longer(later)}"
        text = f"{start}; {expected}" if later > 0 else f"{start}, though {expected}"
    elif later > 0:
        text = f"{who} was missing; {way} was expected to be {_ns(later)} sooner than {other}"
    elif later == 0:
        text = (
            f"{who} was missing and {_RAN[call.action]}; {other} was expected to take just as long"
        )
    else:
        sooner = f"though for this call alone {other} was expected to be {_ns(-later)} sooner"
        text = f"{who} was missing and {_RAN[call.action]}, {sooner}"
    if later and _overlap(call.chosen, rival):
        text += f" (within the costs' ±{percent(rival.relative_error)})"
    return f"{text}; the copy stayed in a cache slot." if call.kept else f"{text}."


def _longer(later: int) -> str:
    if later == 0:
        return "just as long"
    return f"{_ns(abs(later))} {'longer' if later > 0 else 'less'}"


def _overlap(one: Option, other: Option) -> bool:
    return max(one.low_ns, other.low_ns) < min(one.high_ns, other.high_ns)


def _ns(ns: int) -> str:
    return format_ns(ns)


def where(call: Inspection, text: str | None = None) -> str:
    """Which call it is; ``text``: that of its token. Raw text."""
    token = "" if call.token is None else f"token {call.token}"
    if token and text is not None:
        token += f" “{show_token(text).strip()}”"
    token = f"{token}, " if token else ""
    return (
        f"{token}step {call.step}, {count(call.tokens, 'token')} routed to it, policy {call.policy}"
    )


def parts_of(parts: tuple[tuple[str, int], ...]) -> str:
    """``weights 14.0 ms + run 431 µs``; empty where there is but one."""
    if len(parts) < 2:
        return ""
    return " + ".join(f"{PARTS[name]} {format_ns(ns)}" for name, ns in parts)


def expectation(option: Option, *, parts: bool = True) -> str:
    """``14.4 ms ±30% expected = weights 14.0 ms + run 431 µs``, or that it was not possible."""
    text = f"{format_ns(option.ns)} ±{percent(option.relative_error)}"
    detail = parts_of(option.parts) if parts else ""
    return f"{text} {'expected' if option.possible else MISSING}{detail and f' = {detail}'}"


def took(call: Inspection, *, parts: bool = True) -> str:
    """What it took, by which clock, and how long it waited: for its turn, for others' work."""
    detail = parts_of(call.took) if parts else ""
    text = f"{format_ns(call.took_ns)} ({call.clock.name.lower()}){detail and f' = {detail}'}"
    return text + (f"; it waited {format_ns(call.waited_ns)}" if call.waited_ns else "")


def describe_inspection(call: Inspection, text: str | None = None) -> str:
    """The decision in a few plain sentences; ``text``: that of its token. Raw text."""
    lines = [f"{why(call)} ({where(call, text)[:1].upper()}{where(call, text)[1:]}.)"]
    for option in call.comparable:
        mark = " (chosen)" if option is call.chosen and not call.on_host else ""
        lines.append(f"{_title(option)}{mark}: {expectation(option)}.")
    lines.append(f"It took {took(call)}.")
    if call.regret_ns:
        lines.append(f"Regret of this call alone: {format_ns(call.regret_ns)} expected.")
    return " ".join(lines)


def _title(option: Option) -> str:
    label = ACTIONS[option.action].label
    return f"{label[:1].upper()}{label[1:]}"
