"""Which experts serve which kind of text, in words."""

from __future__ import annotations

import numpy as np

from fiddler_viz.figures.base import EMPTY
from fiddler_viz.frames import Specialisation
from fiddler_viz.theme import percent, show_token


def short_name(found: Specialisation, at: int) -> str:
    """A domain's name in one short line, raw."""
    return show_token(found.labels[at], 20).strip()


def headline(
    found: Specialisation, pair: tuple[int, int] | None = None, layer: int | None = None
) -> str:
    """What is shown, in a sentence; raw text."""
    domains = range(len(found.labels)) if pair is None else pair
    names = [short_name(found, at) for at in domains]
    joined = f"{', '.join(names[:-1])} and {names[-1]}"
    if not all(found.tokens):
        return f"Experts of {joined}"
    apart, chance = found.apart(*domains), found.by_chance(*domains)
    if layer is not None:
        apart, chance = apart[layer : layer + 1], chance[layer : layer + 1]
    where = "" if layer is None else f"In layer {layer}: "
    return (
        f"{where}{'between' if where else 'Between'} {joined} {percent(float(apart.mean()))} of "
        f"the routing goes to other experts ({percent(float(chance.mean()))} by chance)"
    )


def explanation(found: Specialisation, pair: tuple[int, int] | None = None) -> str:
    """How it is measured, and where it is largest; raw text."""
    counted = ", ".join(
        f"{short_name(found, at)} {tokens:,}" for at, tokens in enumerate(found.tokens)
    )
    if not all(found.tokens):
        return f"Tokens: {counted}."
    domains = range(len(found.labels)) if pair is None else pair
    apart, chance = found.apart(*domains), found.by_chance(*domains)
    most = int(np.argmax(apart - chance))
    text = f"100% = no expert in common; most in layer {most}: {percent(float(apart[most]))}."
    if pair is not None:
        layer, expert = divmod(int(np.abs(found.difference(*pair)).argmax()), found.share.shape[2])
        shares = " and ".join(
            f"{percent(float(found.share[at, layer, expert]))} of {short_name(found, at)}"
            for at in pair
        )
        text += f" Expert {expert} of layer {layer} gets {shares}."
    return f"{text} By chance: tokens shuffled. Tokens: {counted}."


def describe_specialisation(found: Specialisation) -> str:
    """The domains in a few plain sentences, with the experts that lean furthest; raw text."""
    if not all(found.tokens):
        return f"{EMPTY.capitalize()} for some: {explanation(found)}"
    total, leaning = found.share.sum(axis=0), found.leaning
    worth = np.where(total > total.mean(), np.nan_to_num(leaning), 0)  # rare ones lean by chance
    rows: list[str] = []
    for flat in np.argsort(-worth.ravel(), kind="stable")[:5].tolist():
        layer, expert = divmod(flat, worth.shape[1])
        domain = int(found.share[:, layer, expert].argmax())
        rows.append(
            f"layer {layer}, expert {expert}: {percent(float(leaning[layer, expert]))} "
            f"{short_name(found, domain)}"
        )
    return f"{headline(found)}. {explanation(found)} Leaning furthest: {'; '.join(rows)}."
