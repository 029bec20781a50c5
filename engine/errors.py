"""Every exception this library raises on purpose.

    FiddlerError
      +-- InputError (ValueError)         an argument is wrong: what was expected, what came
      |     +-- UnknownNameError          a name (policy, preset, planner, ...) nobody has
      +-- BudgetError (ValueError)        the device's or the host's memory cannot hold what it must
      +-- CheckpointError                 a model folder or its files cannot be read
      |     +-- UnsupportedModelError     the checkpoint is fine, its architecture is not supported
      +-- TraceError                      a trace file or its columns are not what they claim to be
      +-- LedgerError                     device memory would overflow: our bug, or a wrong call
      +-- DeviceError                     a device is missing or failed

`except FiddlerError` catches all of them; `except ValueError` the ones that a caller can fix by
another argument.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FiddlerError(Exception):
    """Base of every exception raised on purpose by this library."""


class InputError(FiddlerError, ValueError):
    """An argument is wrong. The message says what was expected, what came and what to do."""


class UnknownNameError(InputError):
    """A name that does not exist. The message lists the valid ones; see `unknown_name`."""


class BudgetError(FiddlerError, ValueError):
    """The device memory budget, or the host's free memory, cannot hold what must be held.

    `minimum_bytes` is the smallest that works, in bytes; None where none would.
    """

    def __init__(self, message: str, *, minimum_bytes: int | None = None) -> None:
        super().__init__(message)
        self.minimum_bytes = minimum_bytes


class CheckpointError(FiddlerError):
    """A model folder or one of its files is missing, truncated or inconsistent."""


class UnsupportedModelError(CheckpointError):
    """The checkpoint can be read, but its architecture is not supported."""


class TraceError(FiddlerError):
    """A trace file or its columns are not what they claim to be."""


class LedgerError(FiddlerError):
    """The ledger of device memory would overflow: a bug of ours, or a wrong call."""


class DeviceError(FiddlerError):
    """A device is missing, or failed while it ran."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UnknownNameError:
    """The error for `name`, which is not one of the `valid` names of a `kind` ("policy", ...).

    Returns it, so that the caller's `raise` stays visible. The message lists every valid name, in
    the order given, and the closest one where there is one.
    """
    names = list(valid)
    shown = repr(name)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    close = difflib.get_close_matches(name.lower(), names, n=1) if isinstance(name, str) else []
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names) if names else "(none)"
    return UnknownNameError(f"unknown {kind} {shown}.{hint} Valid names: {listed}.")
