"""What a reader picked: a step or a token, by number, and in words."""

from __future__ import annotations

import reprlib

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.events import StepKind
from engine.strict import plain
from engine.trace import Trace
from fiddler_viz.theme import count, show_token


def pick_step(trace: Trace, step: int) -> int:
    """A step's number from a number that may count from the end; else InputError."""
    n = len(trace.step_rows)
    step = _whole("step", step)
    if not -n <= step < n:
        raise InputError(f"step {step}: expected 0 to {n - 1} (or -1 for the last) in this trace.")
    return step % n


def pick_token(trace: Trace, token: int) -> int:
    """A row of the tokens table that was processed; negative: from the last one processed."""
    n = int((trace.tokens["step"] >= 0).sum())
    token = _whole("token", token)
    total = len(trace.token_rows)
    if n < total and n <= token < total:
        raise InputError(
            f"token {token} was sampled but never processed, so it was never routed: "
            f"choose 0 to {n - 1}, or -1 for the last one processed."
        )
    if not -n <= token < n:
        raise InputError(
            f"token {token}: expected 0 to {n - 1} (or -1 for the last one processed)."
        )
    return token if token >= 0 else int(np.flatnonzero(trace.tokens["step"] >= 0)[token])


def _whole(what: str, value: int) -> int:
    number = plain(value)
    if type(number) is not int:
        raise InputError(f"{what}: expected a whole number, got {reprlib.repr(value)}.")
    return number


def describe_selection(
    trace: Trace, *, token: int | None, step: int | None, show: str = "token"
) -> str:
    """What is selected, in words; raw text."""
    if token is not None:
        text = f" “{show_token(trace.texts[token]).strip()}”" if trace.texts else ""
        what = f"token {token}{text}, step {step}"
    elif step is not None:
        n = int(_of_texts(trace)[step])
        kind = StepKind(int(trace.steps["kind"][step])).name.lower()
        what = f"step {step} ({kind} of {count(n, 'token')})"
    else:
        whole = f"up to step {trace.meta['until']}" if "until" in trace.meta else "whole run"
        return f"{whole}, {count(int(_of_texts(trace).sum()), 'token')}"
    return what if show == "token" else f"up to {what}"


def _of_texts(trace: Trace) -> NDArray[np.int64]:
    """Tokens of each step without padding, which is no part of a text."""
    padded = trace.tokens["step"][trace.tokens["position"] < 0]
    padding = np.bincount(padded[padded >= 0], minlength=len(trace.step_rows))
    return trace.steps["tokens"] - padding
