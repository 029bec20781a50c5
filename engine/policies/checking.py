"""Checks of policies that are not ours: what they answer ends up in the ledger and in C."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Action

_WHERE = {int(Action.STREAM), int(Action.CPU)}


def check_action(name: str, answer: Any) -> int:
    """A missing expert's action, from ``miss``; raises InputError unless it is one."""
    if type(answer) not in (int, Action) or answer not in _WHERE:
        raise InputError(
            f"policy {name!r}: miss() must return Action.STREAM or Action.CPU (the expert is "
            f"missing), got {_shown(answer)}"
        )
    return int(answer)


def check_actions(name: str, answers: Any, missing: int) -> list[int]:
    """Actions from ``choose``, one for each missing expert; raises InputError unless they are."""
    found = _listed(answers)
    if found is None or len(found) != missing:
        raise InputError(
            f"policy {name!r}: choose() must return a list of {missing} actions, one for each "
            f"missing expert, got {_shown(answers)}"
        )
    for answer in found:
        if type(answer) not in (int, Action) or answer not in _WHERE:
            raise InputError(
                f"policy {name!r}: choose() must return Action.STREAM or Action.CPU for each "
                f"missing expert, got {_shown(answer)} among them"
            )
    return [int(answer) for answer in found]


def check_wanted(name: str, answers: Any, total: int) -> list[int]:
    """Flat indices from ``ahead``; raises InputError unless they are experts of the grid."""
    found = _listed(answers)
    if found is None or not all(type(flat) is int and 0 <= flat < total for flat in found):
        raise InputError(
            f"policy {name!r}: ahead() must return a list of flat indices (layer * experts + "
            f"expert) from 0 to {total - 1}, got {_shown(answers)}"
        )
    return found


def check_decision(name: str, answer: Any) -> None:
    """Raise InputError unless an overridden ``decide`` answered with a Decision."""
    if not isinstance(answer, Decision):
        raise InputError(
            f"policy {name!r}: decide() must return a Decision (that of super().decide(request), "
            f"or one like it), got {_shown(answer)}"
        )


def check_words(policy: Any, taken: Iterable[str]) -> None:
    """Raise InputError unless name, title, summary and slot share of a class of policies are fit.

    ``taken``: names of ours, which files keep and read back.
    """
    of = policy.__name__
    for word in ("name", "title", "summary"):
        if not isinstance(value := getattr(policy, word), str) or not value:
            raise InputError(f"policy {of}: {word} must be a text, got {_shown(value)}")
    name = policy.name
    if name in taken:
        raise InputError(
            f"policy {of}: the name {name!r} is that of a policy of ours, which a saved trace "
            "would be replayed under; choose another one"
        )
    share = policy.slot_share
    if type(share) not in (int, float) or not math.isfinite(share) or not 0 <= share <= 1:
        raise InputError(f"policy {name!r}: slot_share must be from 0 to 1, got {_shown(share)}")


def _listed(answers: Any) -> list[Any] | None:
    """A list of what was answered; None where it is no list or tuple of anything."""
    return list(cast("Iterable[Any]", answers)) if isinstance(answers, list | tuple) else None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
