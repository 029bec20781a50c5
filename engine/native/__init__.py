"""The compiled helper: plain C behind ctypes, without torch. Everything works without it, slower.

Installing the project compiles ``src/*.c`` where there is a C compiler; ``python -m engine.native``
does it again in place. ``FIDDLER_VIZ_NATIVE=0`` switches it off. Every use has a readable numpy or
Python reference beside it, and a test that compares the two::

    lay = function("fiddler_lay", None, INT64, c_int64, OUT_INT64)
    if lay is None:
        return in_numpy(values)
    lay(values, len(values), out)

C functions take plain pointers and lengths and trust them: whoever calls checks first. They keep
no state, and Python's other threads run while they do.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.ctypeslib import ndpointer

from engine.native.build import LIBRARY, SOURCES, fingerprint

SWITCH = "FIDDLER_VIZ_NATIVE"
"""Environment variable: ``0`` switches the helper off."""

# Argument types: contiguous arrays of exactly this dtype, or ctypes raises before the call.
INT64: Any = ndpointer(np.int64, flags=("C_CONTIGUOUS",))
UINT8: Any = ndpointer(np.uint8, flags=("C_CONTIGUOUS",))
BOOL: Any = ndpointer(np.bool_, flags=("C_CONTIGUOUS",))
FLOAT64: Any = ndpointer(np.float64, flags=("C_CONTIGUOUS",))
OUT_INT64: Any = ndpointer(np.int64, flags=("C_CONTIGUOUS", "WRITEABLE"))
OUT_UINT8: Any = ndpointer(np.uint8, flags=("C_CONTIGUOUS", "WRITEABLE"))
OUT_BOOL: Any = ndpointer(np.bool_, flags=("C_CONTIGUOUS", "WRITEABLE"))
OUT_FLOAT64: Any = ndpointer(np.float64, flags=("C_CONTIGUOUS", "WRITEABLE"))


def library() -> ctypes.CDLL | None:
    """The compiled library, loaded once; None where it is absent, outdated or switched off."""
    return None if os.environ.get(SWITCH) == "0" else load(LIBRARY)


@cache
def load(path: Path, sources: Path = SOURCES) -> ctypes.CDLL | None:
    """The library at ``path``; None without one, and with a warning where it cannot be used."""
    if not path.exists():
        return None
    try:
        found = ctypes.CDLL(str(path))
        found.fiddler_fingerprint.restype = ctypes.c_int64
        made_of = found.fiddler_fingerprint()
    except (OSError, AttributeError) as error:
        return _unusable(path, f"cannot be loaded ({error})")
    if made_of != fingerprint(sources):
        return _unusable(path, "was compiled from other sources than those beside it")
    return found


def _unusable(path: Path, why: str) -> None:
    warnings.warn(
        f"{path} {why}; slower Python takes its place. Compile it again: python -m engine.native",
        RuntimeWarning,
        stacklevel=4,
    )


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """A function of the library with its types declared; None where there is no library.

    ``arguments`` are ctypes types or those above. Raises AttributeError for a name it lacks.
    """
    found = library()
    return None if found is None else _declared(found, name, result, arguments)


@cache
def _declared(
    found: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]
) -> Callable[..., Any]:
    declared = found[name]  # by item: a new object each time, so its types are nobody else's
    declared.restype, declared.argtypes = result, arguments
    return declared
