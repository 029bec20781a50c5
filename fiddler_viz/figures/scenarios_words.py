"""Scenarios in words: what is to be seen, and what each asks of the experts."""

from __future__ import annotations

from engine.demand import Phase, Scenario, Scenarios
from engine.events import Action, StepKind
from engine.units import format_bytes
from fiddler_viz.theme import percent, rate, safe

_STREAM = int(Action.STREAM)


def headline(found: Scenarios) -> str:
    """Who touches most and who least of a layer in a decode step; raw text."""
    for kind in reversed(StepKind):  # where nobody decodes, in a prefill step
        phases = [(each.phase(kind), each.name) for each in found.each]
        unions = [(phase.union, name) for phase, name in phases if phase and phase.union > 0]
        if unions:
            most, least = (
                max(unions, key=lambda each: each[0]),
                min(unions, key=lambda each: each[0]),
            )
            words = (
                f"“{most[1]}” touches {percent(most[0])} of a layer's experts in a "
                f"{kind.name.lower()} step"
            )
            return words if most == least else f"{words}, “{least[1]}” {percent(least[0])}"
    return "Experts that a step needs"


def explanation(found: Scenarios) -> str:
    """From how many tokens copying pays, and how many each serves; raw text."""
    served = [
        f"{tokens(each.served)} in “{each.name}” ({percent(each.shares[_STREAM])} copied)"
        for each in found.each
        if each.calls.any()
    ]
    clocks = sorted({scenario.trace.clock.name.lower() for scenario in found.each})
    ends = (
        "Boxes: half of all layers and steps, whiskers 90%, dashes the mean; "
        f"{' and '.join(clocks)} clock."
    )
    if not served:
        return ends
    pays = {scenario.break_even for scenario in found.each}
    known = sorted(each for each in pays if each is not None)
    if not known:
        first = "Nothing is ever copied sooner than it runs on the CPU"
    elif len(known) == 1:
        first = f"Copying an expert pays from {known[0]:,} tokens on (dotted line)"
    else:
        first = (
            f"Copying an expert pays from {known[0]:,} to {known[-1]:,} tokens on (dotted lines)"
        )
    return f"{first}; one serves on average {', '.join(served)}. {ends}"


def describe_scenarios(found: Scenarios) -> str:
    """All of it in a few plain sentences; raw text."""
    lines = [f"{headline(found)}. {explanation(found)}"]
    for scenario in found.each:
        if not scenario.phases:
            lines.append(f"{scenario.name}: {scenario.words}.")
            continue
        phases = "; ".join(_phase(phase) for phase in scenario.phases)
        shares = ", ".join(
            f"{percent(share)} {name}"
            for share, name in zip(
                scenario.shares, ("resident", "streamed", "on the CPU"), strict=True
            )
        )
        lines.append(f"{scenario.name} ({scenario.words}): {phases}. Calls: {shares}.")
    return " ".join(lines)


def hover(scenario: Scenario, phase: Phase) -> str:
    """A phase in a few lines; safe."""
    low, high = phase.tokens_per_s_low, phase.tokens_per_s_high
    between = f" ({short(low)} to {short(high)})" if low < high else ""
    least, most = phase.quantiles(0.05, 0.95)
    return (
        f"<b>{safe(scenario.name)}, {phase.kind.name.lower()}</b><br>"
        f"{percent(phase.union)} of a layer's experts a step (90% of them {percent(least)} to "
        f"{percent(most)})<br>{_tokens(phase.served)} an active expert<br>"
        f"{_bytes(phase)} over the link for each token<br>"
        f"{short(phase.tokens_per_s)} tokens/s{between}, {scenario.trace.clock.name.lower()}"
    )


def short(number: float) -> str:
    """A speed to three digits, without its unit."""
    return rate(number).split()[0]


def tokens(number: float) -> str:
    """A mean number of tokens."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _tokens(number: float) -> str:
    return f"{tokens(number)} token{'' if number == 1 else 's'}"


def _phase(phase: Phase) -> str:
    what = "prefill" if phase.kind == StepKind.PREFILL else "decode"
    return (
        f"in {what} a step touches {percent(phase.union)} of a layer's experts, each for "
        f"{_tokens(phase.served)}, {_bytes(phase)} over the link for each token, "
        f"{rate(phase.tokens_per_s)}"
    )


def _bytes(phase: Phase) -> str:
    return format_bytes(round(phase.bytes_per_token)) if phase.tokens else "nothing"
